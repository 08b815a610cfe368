//! Rollouts: stored whole before anything happens, read by pages and by the coordinator.

use slipway_core::time::Timestamp;

use crate::audit::AuditEntry;
use crate::db::Db;
use crate::error::StoreError;
use crate::locks::required;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A rollout to be stored.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct NewRollout {
    pub deployment_id: String,
    pub build_id: String,
    pub initiator_id: String,
    pub service_id: String,
    pub environment_id: String,
    pub target_environment: String,
    pub strategy: String,
    pub source_version: Option<String>,
    pub target_version: String,
    /// pending | approved (nobody has to agree).
    pub approval_status: String,
    /// rollout | rollback
    pub kind: String,
    pub plan_json: String,
    pub plan_hash: String,
    pub state_json: String,
    pub idem_key: Option<String>,
    /// The version that it brings, when that is new.
    pub version: Option<NewVersion>,
    pub now: Timestamp,
    /// Written in the same transaction.
    pub audit: AuditEntry,
}

/// A version to be stored with the rollout that brings it.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct NewVersion {
    pub image: String,
    pub digest: String,
    pub config_hash: String,
    pub config_json: String,
}

/// A rollout as stored.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct RolloutRow {
    pub deployment_id: String,
    pub build_id: String,
    pub initiator_id: String,
    pub service_id: String,
    pub service_name: String,
    pub environment_id: String,
    pub target_environment: String,
    pub strategy: String,
    pub source_version: Option<String>,
    pub target_version: String,
    pub status: String,
    pub canary_percentage: f64,
    pub approval_status: String,
    pub approver_id: Option<String>,
    pub approved_at: Option<i64>,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub created_at: i64,
    pub kind: String,
    pub phase: String,
    pub step_idx: i64,
    pub plan_json: String,
    pub plan_hash: String,
    pub state_json: String,
    pub token: i64,
    pub row_version: i64,
    pub owner_id: Option<String>,
    pub owner_expires_at: Option<i64>,
    pub pause_reason: Option<String>,
    pub pause_deadline_at: Option<i64>,
    pub progress: i64,
    pub reason: Option<String>,
    pub wish: Option<String>,
    pub superseded_by: Option<String>,
}

/// A step as stored.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct StepRow {
    pub idx: i64,
    pub attempt: i64,
    pub kind: String,
    pub desired_json: String,
    pub status: String,
    pub token: i64,
    #[sqlx(rename = "gen")]
    pub generation: i64,
    pub intent_at: Option<i64>,
    pub applied_at: Option<i64>,
    pub verified_at: Option<i64>,
    pub evidence_json: Option<String>,
}

/// An event of a rollout.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct RolloutEventRow {
    pub seq: i64,
    pub at: i64,
    pub kind: String,
    pub json: String,
}

/// A recorded decision about a rollout.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct ApprovalRow {
    pub approver_id: String,
    pub plan_hash: String,
    pub asked_at: i64,
    pub expires_at: i64,
    pub method: String,
    pub decision: String,
    pub reason: String,
    pub rule_version: String,
    pub decided_at: i64,
}

/// Which rollouts; empty = any.
#[derive(Clone, Debug, Default)]
pub struct RolloutFilter {
    /// Service name.
    pub service: String,
    /// Environment name.
    pub environment: String,
    /// in_progress | completed | failed | rolled_back
    pub status: String,
    /// Of one build.
    pub build_id: String,
    /// Older than this one.
    pub before: String,
    /// At most so many.
    pub limit: u32,
}

/// What became of a rollout that was to be stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// It is stored.
    New(RolloutRow),
    /// The same request was stored before.
    Existing(RolloutRow),
}

#[derive(sqlx::FromRow)]
pub(crate) struct Number {
    pub(crate) value: i64,
}

#[derive(sqlx::FromRow)]
struct Text {
    value: String,
}

/// A stored count; what is negative was never written by us and counts as nothing.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) async fn next_token(
    tx: &mut Tx,
    service_id: &str,
    environment_id: &str,
    floor: i64,
) -> Result<i64, StoreError> {
    let args = args![service_id, environment_id, floor];
    required(
        tx.row(sql!("deploy_tokens/next_token"), args).await?,
        "deploy token",
    )
}

async fn get(tx: &mut Tx, id: &str) -> Result<RolloutRow, StoreError> {
    let row = tx.row(sql!("deployments/get"), args![id]).await?;
    row.ok_or(StoreError::NotFound("deployment"))
}

impl Db {
    /// Stores a rollout and the version that it brings; idempotent by its key.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn begin_rollout(&self, new: NewRollout) -> Result<Begun, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                if let Some(key) = &new.idem_key {
                    let known = tx.row(sql!("deployments/by_key"), args![key]).await?;
                    if let Some(row) = known {
                        return Ok(Begun::Existing(row));
                    }
                }
                insert(tx, &new).await?;
                Ok(Begun::New(get(tx, &new.deployment_id).await?))
            })
        })
        .await
    }

    /// One rollout.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn rollout(&self, id: &str) -> Result<Option<RolloutRow>, StoreError> {
        self.row(sql!("deployments/get"), args![id]).await
    }

    /// Rollouts, newest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn rollouts(&self, filter: &RolloutFilter) -> Result<Vec<RolloutRow>, StoreError> {
        let args = args![
            &filter.service,
            &filter.environment,
            &filter.status,
            &filter.build_id,
            &filter.before,
            filter.limit
        ];
        self.rows(sql!("deployments/list"), args).await
    }

    /// Every rollout that has not ended, oldest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn rollouts_in_progress(&self) -> Result<Vec<RolloutRow>, StoreError> {
        self.rows(sql!("deployments/in_progress"), args![]).await
    }

    /// A rollout of the same place that succeeded after `ended_at`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn later_success(&self, row: &RolloutRow) -> Result<Option<String>, StoreError> {
        let ended = row.ended_at.unwrap_or(i64::MAX);
        let args = args![&row.service_id, &row.environment_id, ended];
        let found: Option<Text> = self.row(sql!("deployments/later_success"), args).await?;
        Ok(found.map(|text| text.value))
    }

    /// The rollout that brought this digest into an environment and still stands.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn succeeded_with(
        &self,
        service_id: &str,
        environment: &str,
        digest: &str,
    ) -> Result<Option<String>, StoreError> {
        let args = args![service_id, environment, digest];
        let found: Option<Text> = self.row(sql!("deployments/succeeded_digest"), args).await?;
        Ok(found.map(|text| text.value))
    }

    /// The steps of a rollout, every attempt.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn rollout_steps(&self, id: &str) -> Result<Vec<StepRow>, StoreError> {
        self.rows(sql!("deployment_steps/of_deployment"), args![id])
            .await
    }

    /// Events of a rollout after `seq`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn rollout_events(
        &self,
        id: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<RolloutEventRow>, StoreError> {
        self.rows(sql!("deployment_events/list"), args![id, after, limit])
            .await
    }

    /// Decisions about a rollout.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn approvals(&self, id: &str) -> Result<Vec<ApprovalRow>, StoreError> {
        self.rows(sql!("approvals/of_deployment"), args![id]).await
    }

    /// Records a decision. `status` is what the rollout's approval is from now on; false, and
    /// nothing changed, when this person had said the same about this plan already.
    ///
    /// # Errors
    /// When it cannot be made durable, or the rollout asks for nothing any more.
    pub async fn record_approval(
        &self,
        id: &str,
        approval: ApprovalRow,
        status: &str,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        let (id, status) = (id.to_owned(), status.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let put = args![
                    &id,
                    &approval.approver_id,
                    approval.plan_hash,
                    approval.asked_at,
                    approval.expires_at,
                    approval.method,
                    approval.decision,
                    approval.reason,
                    approval.rule_version,
                    approval.decided_at
                ];
                if tx.execute(sql!("approvals/put"), put).await? != 1 {
                    return Ok(false);
                }
                let set = args![&id, status, approval.approver_id, approval.decided_at];
                if tx.execute(sql!("deployments/set_approval"), set).await? != 1 {
                    let text = "the deployment asks for no approval any more";
                    return Err(StoreError::Conflict(text.to_owned()));
                }
                audit.append(tx).await.map(|()| true)
            })
        })
        .await
    }

    /// Stores what a person wishes of a rollout under way; false when it has ended.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn wish(&self, id: &str, wish: &str, audit: AuditEntry) -> Result<bool, StoreError> {
        let args = args![id, wish];
        self.write(move |tx| {
            Box::pin(async move {
                if tx.execute(sql!("deployments/set_wish"), args).await? != 1 {
                    return Ok(false);
                }
                audit.append(tx).await.map(|()| true)
            })
        })
        .await
    }
}

async fn insert(tx: &mut Tx, new: &NewRollout) -> Result<(), StoreError> {
    if let Some(version) = &new.version {
        let args = args![
            &new.target_version,
            &new.service_id,
            &new.environment_id,
            &version.image,
            &version.digest,
            &version.config_hash,
            &version.config_json,
            &new.build_id,
            new.now
        ];
        tx.execute(sql!("versions/insert"), args).await?;
    }
    let args = args![
        &new.deployment_id,
        &new.build_id,
        &new.initiator_id,
        &new.service_id,
        &new.environment_id,
        &new.target_environment,
        &new.strategy,
        new.source_version.as_deref(),
        &new.target_version,
        &new.approval_status,
        new.now,
        &new.kind,
        &new.plan_json,
        &new.plan_hash,
        &new.state_json,
        new.idem_key.as_deref()
    ];
    tx.execute(sql!("deployments/insert"), args).await?;
    let event = args![&new.deployment_id, new.now, "planned", "{}"];
    tx.execute(sql!("deployment_events/insert"), event).await?;
    new.audit.append(tx).await
}
