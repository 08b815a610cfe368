//! A stage of a build, as readers of the API see it.

use serde::Serialize;
use slipway_store::StageRow;
use utoipa::ToSchema;

use crate::api::rest::time::{seconds, shown};

/// A stage of a build.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stage {
    stage_id: String,
    stage_name: String,
    status: String,
    reason: Option<String>,
    attempt: i64,
    agent_id: Option<String>,
    exit_code: Option<i64>,
    needs: Vec<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    duration: Option<f64>,
    /// Whether it was not executed, because an equal stage was before.
    recalled: bool,
    /// The attempt that a recalled stage's outputs come from.
    recalled_from: Option<serde_json::Value>,
    /// Why it was recalled or executed, a sentence; empty until that is known.
    memo: String,
}

/// Out of its row.
pub(super) fn stage(row: StageRow) -> Stage {
    let needs: Vec<slipway_core::build::Need> =
        serde_json::from_str(&row.needs).unwrap_or_default();
    let reason = if row.state == "unknown" {
        Some("outcome_unknown".to_owned())
    } else {
        row.reason
    };
    Stage {
        stage_id: row.stage_id,
        stage_name: row.stage_name,
        status: row.status,
        reason,
        attempt: row.attempt,
        agent_id: row.agent_id,
        exit_code: row.exit_code,
        needs: needs.into_iter().map(|n| n.stage).collect(),
        started_at: row.started_at.map(shown),
        ended_at: row.ended_at.map(shown),
        duration: row.duration.map(seconds),
        recalled: row.recalled.is_some(),
        recalled_from: row
            .recalled
            .and_then(|origin| serde_json::from_str(&origin).ok()),
        memo: row.memo_note,
    }
}
