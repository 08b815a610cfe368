//! What follows inside a build from the states of its stages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::{BuildStatus, StageState};

/// One need of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The name of the needed stage, after expansion.
    pub stage: String,
    /// A skipped optional need does not skip the stage that names it.
    #[serde(default)]
    pub optional: bool,
}

/// After which outcome of its needs a stage is executed (`when: status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunsOn {
    /// Every need ended well.
    #[default]
    Success,
    /// Some need failed.
    Failure,
    /// Either way.
    Always,
}

/// What `advance` needs to know of one stage.
#[derive(Clone, Debug)]
pub struct StageView {
    /// Unique in its build.
    pub name: String,
    /// Where it stands.
    pub state: StageState,
    /// What must end first.
    pub needs: Vec<Need>,
    /// Its failure does not fail the build.
    pub failure_ignored: bool,
    /// After which outcome it is executed.
    pub runs_on: RunsOn,
}

/// A change of one waiting stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It may be given to an agent now.
    Ready,
    /// It will not be executed, for this reason.
    Skipped(String),
}

/// Moves every waiting stage that can move, until nothing moves, and says what the build is then.
///
/// Waiting stages without a transition keep waiting for needs that are not final yet.
#[must_use]
pub fn advance(stages: &[StageView]) -> (BTreeMap<String, Transition>, BuildStatus) {
    let mut states: BTreeMap<&str, (StageState, bool)> = stages
        .iter()
        .map(|s| (s.name.as_str(), (s.state, s.failure_ignored)))
        .collect();
    let mut moved = BTreeMap::new();
    loop {
        let mut progress = false;
        for stage in stages {
            if states.get(stage.name.as_str()).map(|(s, _)| *s) != Some(StageState::Waiting) {
                continue;
            }
            let Some(transition) = decide(stage, &states) else {
                continue;
            };
            let next = match &transition {
                Transition::Ready => StageState::Ready,
                Transition::Skipped(_) => StageState::Skipped,
            };
            states.insert(&stage.name, (next, stage.failure_ignored));
            moved.insert(stage.name.clone(), transition);
            progress = true;
        }
        if !progress {
            return (moved, status(&states));
        }
    }
}

fn decide(stage: &StageView, states: &BTreeMap<&str, (StageState, bool)>) -> Option<Transition> {
    let mut failed: Option<&str> = None;
    let mut skipped: Option<&str> = None;
    for need in &stage.needs {
        match states.get(need.stage.as_str()) {
            // The graph was validated; a need that is not there can only mean an optional one.
            None if need.optional => {}
            None => skipped = Some(&need.stage),
            Some((state, _)) if !state.is_final() => return None,
            Some((StageState::Succeeded, _)) => {}
            Some((StageState::Failed, true)) => {}
            Some((StageState::Skipped, _)) if need.optional => {}
            Some((StageState::Skipped, _)) => skipped = Some(&need.stage),
            Some(_) => failed = Some(&need.stage),
        }
    }
    Some(match (stage.runs_on, failed, skipped) {
        (RunsOn::Always, _, _) | (RunsOn::Failure, Some(_), _) | (RunsOn::Success, None, None) => {
            Transition::Ready
        }
        (RunsOn::Failure, None, _) => Transition::Skipped("no need failed".to_owned()),
        (RunsOn::Success, Some(need), _) => {
            Transition::Skipped(format!("needs `{need}`, which did not succeed"))
        }
        (RunsOn::Success, None, Some(need)) => {
            Transition::Skipped(format!("needs `{need}`, which was skipped"))
        }
    })
}

fn status(states: &BTreeMap<&str, (StageState, bool)>) -> BuildStatus {
    let all = || states.values();
    if all().any(|(s, _)| !s.is_final()) {
        let begun = all().any(|(s, _)| {
            matches!(
                s,
                StageState::Assigned
                    | StageState::Running
                    | StageState::Succeeded
                    | StageState::Failed
                    | StageState::Unknown
            )
        });
        return if begun {
            BuildStatus::Building
        } else {
            BuildStatus::Queued
        };
    }
    if all().any(|(s, ignored)| *s == StageState::Unknown || (*s == StageState::Failed && !ignored))
    {
        return BuildStatus::Failed;
    }
    if all().any(|(s, _)| matches!(s, StageState::Cancelled | StageState::Superseded)) {
        return BuildStatus::Cancelled;
    }
    BuildStatus::Passed
}

#[cfg(test)]
#[path = "advance_tests.rs"]
mod tests;
