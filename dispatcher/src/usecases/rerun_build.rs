//! Again: all stages, or only what failed and what depends on it. Accepted outputs are content and
//! are kept; the stages that are executed again get their next attempt in the same build.

use std::collections::BTreeSet;

use slipway_core::build::{Need, StageState};
use slipway_core::id::{BuildId, StageId};
use slipway_core::pipeline::PlannedStage;
use slipway_store::{StageRow, StoreError};

use super::plan_build::skip_reason;
use crate::state::App;

/// Why a build cannot be executed again.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    /// It has not ended.
    #[error("the build is still under way; cancel it first")]
    StillRunning,
    /// It has no stage to execute again.
    #[error("no stage of the build failed")]
    NothingFailed,
    /// There is no such build.
    #[error("there is no such build")]
    NotFound,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts stages back to waiting.
///
/// # Errors
/// Why it cannot be done.
pub async fn rerun_build(app: &App, build: &BuildId, failed_only: bool) -> Result<(), RerunError> {
    let row = app.db.build(build).await?.ok_or(RerunError::NotFound)?;
    if matches!(row.status.as_str(), "queued" | "building") {
        return Err(RerunError::StillRunning);
    }
    let stages = app.db.stages(build).await?;
    let again = if failed_only {
        failed_and_dependants(&stages)
    } else {
        stages.iter().map(|s| s.stage_id.clone()).collect()
    };
    let untrusted = row.trust != "trusted";
    let again: Vec<StageId> = stages
        .iter()
        .filter(|stage| again.contains(&stage.stage_id) && !left_out(stage, untrusted))
        .filter_map(|stage| stage.stage_id.parse().ok())
        .collect();
    if again.is_empty() {
        return Err(RerunError::NothingFailed);
    }
    let change = app.db.rerun_stages(build, again, app.clock.now()).await?;
    app.build_changed(&change).await;
    Ok(())
}

/// Skipped for what it is, not for what happened: a condition that does not hold, or code from outside.
/// Executing the build again changes neither.
fn left_out(stage: &StageRow, untrusted: bool) -> bool {
    match serde_json::from_str::<PlannedStage>(&stage.spec) {
        Ok(planned) => skip_reason(&planned, untrusted).is_some(),
        Err(error) => {
            tracing::error!(%error, stage = %stage.stage_id, "a stage's spec cannot be read");
            true
        }
    }
}

fn failed_and_dependants(stages: &[StageRow]) -> BTreeSet<String> {
    let failed = |s: &StageRow| {
        matches!(
            s.state.parse(),
            Ok(StageState::Failed
                | StageState::Unknown
                | StageState::Cancelled
                | StageState::Superseded)
        )
    };
    let mut names: BTreeSet<&str> = stages
        .iter()
        .filter(|s| failed(s))
        .map(|s| s.stage_name.as_str())
        .collect();
    loop {
        let before = names.len();
        for stage in stages {
            let needs: Vec<Need> = serde_json::from_str(&stage.needs).unwrap_or_default();
            if needs.iter().any(|need| names.contains(need.stage.as_str())) {
                names.insert(&stage.stage_name);
            }
        }
        if names.len() == before {
            break;
        }
    }
    stages
        .iter()
        .filter(|s| names.contains(s.stage_name.as_str()))
        .map(|s| s.stage_id.clone())
        .collect()
}
