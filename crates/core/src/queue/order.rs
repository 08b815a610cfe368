//! Which stage is next. Stages of one class (same repository, same demands) differ only by order,
//! and that order does not change with time, so that a queue of any length is planned by looking at
//! the first of each class.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::snapshot::Waiting;
use crate::id::{AgentId, BuildId, RepoId, StageId};

/// A stage's priority rises by one each time it has waited so long.
pub const AGING: Duration = Duration::from_secs(600);

/// What decides where a stage may be executed: equal for all stages of a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    pub(super) repo: RepoId,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) lost_by: BTreeSet<AgentId>,
    pub(super) group: Option<(String, u32)>,
    /// The build matters only where the build holds a group.
    pub(super) build_group: Option<(String, u32, BuildId)>,
}

impl Class {
    pub(super) fn of(stage: &Waiting) -> Self {
        Self {
            repo: stage.repo.clone(),
            labels: stage.labels.clone(),
            lost_by: stage.lost_by.clone(),
            group: stage.group.as_ref().map(|g| (g.name.clone(), g.limit)),
            build_group: stage
                .build_group
                .as_ref()
                .map(|g| (g.name.clone(), g.limit, stage.build.clone())),
        }
    }
}

/// The order inside one class; smaller = earlier.
///
/// Priority plus one per [`AGING`] waited is, for comparing two stages at the same instant, the same
/// as the instant at which each became ready, moved back by its priority: a number that stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) not_urgent: bool,
    due: i64,
    shorter: std::cmp::Reverse<Duration>,
    ready: i64,
    pub(super) stage: StageId,
}

impl Key {
    pub(super) fn of(stage: &Waiting) -> Self {
        let step = i64::try_from(AGING.as_millis()).unwrap_or(i64::MAX);
        let lead = step.saturating_mul(i64::from(stage.priority));
        Self {
            not_urgent: !stage.urgent,
            due: stage.ready_at.as_millis().saturating_sub(lead),
            shorter: std::cmp::Reverse(stage.critical),
            ready: stage.ready_at.as_millis(),
            stage: stage.stage.clone(),
        }
    }
}
