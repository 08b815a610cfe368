//! An attempt was lost, by a dead agent or by infrastructure: repeat, give up, or ask a person. An
//! agent that loses everything it gets is stopped.

use std::time::Duration;

use slipway_core::build::{LossPolicy, StageState, after_loss};
use slipway_core::id::{AgentId, StageId};
use slipway_core::lease::rogue::{self, Ended};
use slipway_store::{BuildChange, EndedAttempt, Loss, StoreError};

use crate::state::App;

/// What an agent says when what a needed stage left is in no cache.
const CONTENT_GONE: &str = "content_gone";

/// What came of it; to be told to whom it concerns.
#[derive(Debug, Default)]
pub struct Lost {
    /// What changed in its build.
    pub change: Option<BuildChange>,
    /// The agent, if it takes nothing more from now on.
    pub quarantined: Option<AgentId>,
}

/// Ends a lost attempt. Does nothing when it is not held any more.
///
/// # Errors
/// When the store is not available.
pub async fn lose_attempt(
    app: &App,
    stage: &StageId,
    attempt: i64,
    reason: &str,
) -> Result<Lost, StoreError> {
    let Some(row) = app.db.stage(stage).await? else {
        return Ok(Lost::default());
    };
    if row.attempt != attempt {
        return Ok(Lost::default());
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
    let Some(mut change) = app.db.lose_attempt(loss).await? else {
        return Ok(Lost::default());
    };
    if reason == CONTENT_GONE
        && to == StageState::Ready
        && let Ok(build) = row.build_id.parse()
        && let Some(undone) = app.db.undo_recalls(&build, now).await?
    {
        change = undone;
    }
    app.logs.abandon(stage, attempt).await;
    Ok(Lost {
        change: Some(change),
        quarantined: quarantine(app, row.agent_id.as_deref()).await?,
    })
}

/// Stops the agent, if it lost too much too quickly.
async fn quarantine(app: &App, agent: Option<&str>) -> Result<Option<AgentId>, StoreError> {
    let Some(agent) = agent.and_then(|id| id.parse::<AgentId>().ok()) else {
        return Ok(None);
    };
    let last = app.db.last_attempts(&agent).await?;
    let last: Vec<Ended> = last.iter().map(ended).collect();
    let Some(why) = rogue::judge(&last) else {
        return Ok(None);
    };
    if !app.db.quarantine_agent(&agent, &why).await? {
        return Ok(None);
    }
    tracing::warn!(agent = %agent, why, "an agent is quarantined");
    Ok(Some(agent))
}

fn ended(attempt: &EndedAttempt) -> Ended {
    let took = attempt.ended_ms.saturating_sub(attempt.assigned_ms);
    Ended {
        lost: attempt.outcome.as_deref() == Some("lost"),
        // A clock that went back in between says nothing about speed.
        took: u64::try_from(took).map_or(Duration::MAX, Duration::from_millis),
    }
}
