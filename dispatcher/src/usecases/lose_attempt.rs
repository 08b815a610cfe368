//! An attempt was lost, by a dead agent or by infrastructure: repeat, give up, or ask a person.

use slipway_core::build::{LossPolicy, StageState, after_loss};
use slipway_core::id::StageId;
use slipway_store::{Loss, StoreError};

use crate::state::App;

/// Ends a lost attempt. Does nothing when it is not held any more.
///
/// # Errors
/// When the store is not available.
pub async fn lose_attempt(
    app: &App,
    stage: &StageId,
    attempt: i64,
    reason: &str,
) -> Result<(), StoreError> {
    let Some(row) = app.db.stage(stage).await? else {
        return Ok(());
    };
    if row.attempt != attempt {
        return Ok(());
    }
    let now = app.clock.now();
    let losses = u32::try_from(row.losses + 1).unwrap_or(u32::MAX);
    let executed = row.state == "running";
    let policy = after_loss(losses, row.at_most_once == 1, executed, app.rng.number());
    let (to, not_before) = match policy {
        LossPolicy::Requeue(delay) => (StageState::Ready, now.after(delay)),
        LossPolicy::FailedInfra => (StageState::Failed, now),
        LossPolicy::Unknown => (StageState::Unknown, now),
    };
    let mut lost: Vec<String> = serde_json::from_str(&row.lost_agents).unwrap_or_default();
    lost.extend(row.agent_id.clone());
    lost.dedup();
    tracing::warn!(stage = %stage, attempt, reason, to = to.as_str(), "an attempt was lost");
    let loss = Loss {
        stage_id: stage.clone(),
        attempt,
        to,
        reason: reason.to_owned(),
        lost_agents: serde_json::json!(lost).to_string(),
        not_before,
        now,
    };
    if let Some(change) = app.db.lose_attempt(loss).await? {
        app.logs.abandon(stage, attempt).await;
        app.build_changed(&change).await;
    }
    Ok(())
}
