//! What was seen of a rollout's health, for people who ask why it went on or back.

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// One look.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct RolloutHealthRow {
    pub health_id: String,
    pub deployment_id: String,
    pub metric_name: String,
    pub baseline_value: Option<f64>,
    pub current_value: Option<f64>,
    pub threshold_alert: i64,
    pub checked_at: i64,
    pub step_idx: i64,
    pub verdict: String,
    pub evidence_json: String,
    pub rule_version: String,
}

impl Db {
    /// Keeps a look.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn record_rollout_health(&self, row: RolloutHealthRow) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![
                    row.health_id,
                    row.deployment_id,
                    row.metric_name,
                    row.baseline_value,
                    row.current_value,
                    row.threshold_alert,
                    row.checked_at,
                    row.step_idx,
                    row.verdict,
                    row.evidence_json,
                    row.rule_version
                ];
                tx.execute(sql!("deployment_health/insert"), args)
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// Looks at a rollout, oldest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn rollout_health(
        &self,
        id: &str,
        limit: u32,
    ) -> Result<Vec<RolloutHealthRow>, StoreError> {
        self.rows(sql!("deployment_health/of_deployment"), args![id, limit])
            .await
    }
}
