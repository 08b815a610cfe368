//! Attempts that were lost: by an agent that died, an assignment nobody answered, infrastructure.

use slipway_core::build::StageState;
use slipway_core::id::StageId;
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::results::{BuildChange, Ended, settle};
use crate::sql::{args, sql};

/// A held attempt that was lost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Which stage.
    pub stage_id: StageId,
    /// Which attempt: the fence.
    pub attempt: i64,
    /// What the stage becomes: `ready` (queued again), `failed` or `unknown`.
    pub to: StageState,
    /// One word.
    pub reason: String,
    /// Every agent that lost this stage so far, JSON array of ids.
    pub lost_agents: String,
    /// A back-off.
    pub not_before: Timestamp,
    /// When it was noticed.
    pub now: Timestamp,
}

impl Db {
    /// Ends a held attempt that was lost. `None` when it was not held any more.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn lose_attempt(&self, loss: Loss) -> Result<Option<BuildChange>, StoreError> {
        self.write_leading(move |tx| {
            Box::pin(async move {
                let stage = loss.stage_id.to_string();
                let args = args![
                    &stage,
                    loss.attempt,
                    loss.to.as_str(),
                    &loss.reason,
                    loss.lost_agents,
                    loss.not_before,
                    loss.now
                ];
                let ended: Option<Ended> = tx.row(sql!("build_stages/lose"), args).await?;
                let Some(ended) = ended else { return Ok(None) };
                let unknown = None::<i64>;
                let args = args![
                    &stage,
                    loss.attempt,
                    loss.now,
                    "lost",
                    &loss.reason,
                    "",
                    unknown,
                    unknown,
                    unknown,
                    unknown,
                    0_i64,
                    0_i64
                ];
                tx.execute(sql!("attempts/finish"), args).await?;
                tx.execute(sql!("build_stages/mark_superseded"), args![&stage])
                    .await?;
                let mut change = settle(tx, &ended.build_id, loss.now).await?;
                if ended.state == "ready" {
                    change.ready.push(stage);
                }
                Ok(Some(change))
            })
        })
        .await
    }
}
