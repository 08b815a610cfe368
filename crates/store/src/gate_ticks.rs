//! What gates were judged on: raw counts, so that a verdict can be judged again.

use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// One reading of one source.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct GateTickRow {
    pub deployment_id: String,
    pub step_idx: i64,
    pub seq: i64,
    pub source: String,
    pub boot_id: String,
    pub t0: i64,
    pub t1: i64,
    pub counters_json: String,
}

impl Db {
    /// Keeps readings, under the owner's token; the same one again changes nothing.
    ///
    /// # Errors
    /// `Conflict` when the token is not that of the deployment any more; otherwise when they cannot be
    /// made durable.
    pub async fn keep_gate_ticks(
        &self,
        rows: Vec<GateTickRow>,
        token: i64,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let mut stored = 0;
                for row in &rows {
                    let args = args![
                        &row.deployment_id,
                        row.step_idx,
                        row.seq,
                        &row.source,
                        &row.boot_id,
                        row.t0,
                        row.t1,
                        &row.counters_json,
                        token
                    ];
                    stored += tx.execute(sql!("gate_ticks/insert"), args).await?;
                }
                if stored == 0 && !rows.is_empty() {
                    return Err(StoreError::Conflict(
                        "fenced: another owner keeps the readings of this deployment".to_owned(),
                    ));
                }
                Ok(())
            })
        })
        .await
    }

    /// The readings of a step, by source and order.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn gate_ticks(
        &self,
        id: &str,
        step_idx: u32,
        limit: u32,
    ) -> Result<Vec<GateTickRow>, StoreError> {
        self.rows(sql!("gate_ticks/of_step"), args![id, step_idx, limit])
            .await
    }

    /// Forgets the readings of deployments that ended before `before`.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn forget_gate_ticks(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move { tx.execute(sql!("gate_ticks/forget"), args![before]).await })
        })
        .await
    }
}
