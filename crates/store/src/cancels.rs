//! Cancels: rows, written before anything is sent; loaded at start and carried on every renewal.

use slipway_core::id::{BuildId, StageId};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::results::{BuildChange, settle};
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A held attempt to be told: (stage, attempt, agent).
pub type ToTell = (String, i64, Option<String>);

#[derive(sqlx::FromRow)]
struct Held {
    stage_id: String,
    attempt: i64,
    agent_id: Option<String>,
}

impl Db {
    /// Cancels a build: waiting and ready stages end now, held ones are marked. Answers with the held
    /// attempts to be told (stage, attempt, agent) and the build's change.
    ///
    /// # Errors
    /// `NotFound`, or when it cannot be made durable.
    pub async fn cancel_build(
        &self,
        build: &BuildId,
        reason: &str,
        now: Timestamp,
    ) -> Result<(Vec<ToTell>, BuildChange), StoreError> {
        let (build, reason) = (build.to_string(), reason.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let held = cancel(tx, &build, "cancelled", &reason, now).await?;
                let change = settle(tx, &build, now).await?;
                Ok((held, change))
            })
        })
        .await
    }

    /// Cancels some stages of a build, in the same way.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn cancel_stages(
        &self,
        build: &BuildId,
        stages: Vec<StageId>,
        reason: &str,
        now: Timestamp,
    ) -> Result<(Vec<ToTell>, BuildChange), StoreError> {
        let (build, reason) = (build.to_string(), reason.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let mut told = Vec::new();
                for stage in &stages {
                    let args = args![stage.as_str(), now, &reason];
                    tx.execute(sql!("build_stages/cancel_one_idle"), args.clone())
                        .await?;
                    let held: Option<Held> =
                        tx.row(sql!("build_stages/cancel_one_held"), args).await?;
                    told.extend(held.map(|h| (h.stage_id, h.attempt, h.agent_id)));
                }
                let change = settle(tx, &build, now).await?;
                Ok((told, change))
            })
        })
        .await
    }
}

/// Ends what is idle and marks what is held; answers with the held attempts.
pub(crate) async fn cancel(
    tx: &mut Tx,
    build: &str,
    state: &'static str,
    reason: &str,
    now: Timestamp,
) -> Result<Vec<ToTell>, StoreError> {
    let args = args![build, now, state, reason];
    tx.execute(sql!("build_stages/cancel_idle"), args).await?;
    tx.execute(sql!("build_stages/cancel_held"), args![build, now, reason])
        .await?;
    let held: Vec<Held> = tx
        .rows(sql!("build_stages/held_by_build"), args![build])
        .await?;
    settle(tx, build, now).await?;
    Ok(held
        .into_iter()
        .map(|h| (h.stage_id, h.attempt, h.agent_id))
        .collect())
}
