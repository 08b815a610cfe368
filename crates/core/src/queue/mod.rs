//! WHICH stage on WHICH agent, and why not.
//!
//! [`Queue`] is an index in memory of what the store says; [`Queue::plan`] gives out as many stages
//! as fit, in this order: urgent ones; the repository that has used least for its weight; priority,
//! aged; the longest way to its build's end; age. Placement conserves work: after a plan no ready
//! stage and no fitting free slot are left over. Fair share stands above priority, so that one
//! repository's backlog never goes before another's first stage. An agent may prefer a stage shortly
//! behind the first that it is home to; nothing is passed over more than three times.
//!
//! Knows no clock and no store. A decision costs the number of kinds (distinct demands) and agents,
//! and the logarithm of what waits. `check` verifies finished plans with separate code, and the tests
//! compare them with the order above read naively.

mod check;
mod explain;
mod fit;
mod index;
mod order;
mod pass;
mod report;
mod shard;
mod snapshot;

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::Duration;

use crate::id::{AgentId, BuildId, RepoId, StageId};
use crate::time::Timestamp;

pub use check::{Flaw, check};
pub use explain::{Explanation, FullGroup, Holder};
pub use order::{AGING, HALF_LIFE};
pub use report::{Reason, Unfit};
pub use snapshot::{Agent, AgentState, Held, Waiting};

use index::Index;

/// One stage given to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which stage.
    pub stage: StageId,
    /// The attempt number before it: the fence.
    pub attempt: u32,
    /// To whom.
    pub agent: AgentId,
    /// Stages that were earlier, and that it went before because the agent is home to it.
    pub over: Vec<StageId>,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be persisted, then sent.
    pub assignments: Vec<Assignment>,
    /// When to ask again although nothing happened (the end of a back-off).
    pub wake_at: Option<Timestamp>,
}

/// The stages that wait and are held.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    index: Index,
}

impl Queue {
    /// Nothing waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a stage in, or replaces what was known of it.
    pub fn put(&mut self, stage: Waiting) {
        let known = self.index.waiting.get(&stage.stage);
        let passed = known.map_or(0, |entry| entry.passed);
        let (repo, weight) = (stage.repo.clone(), stage.weight);
        self.index.put(stage, passed);
        self.index.weigh(&repo, weight);
    }

    /// Notes that an agent holds a stage.
    pub fn hold(&mut self, stage: StageId, held: Held) {
        self.index.hold(stage, held);
    }

    /// Notes that an assignment holds: its stage is the agent's, and what it went before was passed
    /// over once more. What it is now, if the stage waited.
    pub fn grant(&mut self, assignment: &Assignment) -> Option<Waiting> {
        for stage in &assignment.over {
            if let Some(entry) = self.index.waiting.get_mut(stage) {
                entry.passed = entry.passed.saturating_add(1);
            }
        }
        let waiting = self.get(&assignment.stage)?.clone();
        let held = Held::of(&waiting, &assignment.agent);
        self.index.hold(assignment.stage.clone(), held);
        Some(waiting)
    }

    /// Forgets a stage: it ended, or somebody else changed it.
    pub fn remove(&mut self, stage: &StageId) {
        self.index.remove(stage);
    }

    /// Records slot time that a repository used.
    pub fn spend(&mut self, repo: &RepoId, slot_time: Duration, now: Timestamp) {
        let used = &mut self.index.repo(repo).used;
        used.level = used.level.with(slot_time, now);
        self.index.touch_repo(repo);
    }

    /// Stages that wait, in the order of their ids.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.index.waiting.values().map(|entry| &entry.stage)
    }

    /// A waiting stage.
    #[must_use]
    pub fn get(&self, stage: &StageId) -> Option<&Waiting> {
        self.index.waiting.get(stage).map(|entry| &entry.stage)
    }

    /// Stages that agents hold.
    pub fn held(&self) -> impl Iterator<Item = (&StageId, &Held)> {
        self.index.held.iter()
    }

    /// Who holds a stage.
    #[must_use]
    pub fn holder(&self, stage: &StageId) -> Option<&Held> {
        self.index.held.get(stage)
    }

    /// The builds that have a stage here.
    pub fn builds(&self) -> impl Iterator<Item = &BuildId> {
        self.index.builds.keys()
    }

    /// Those of them after one, up to and with another; `None` = no bound.
    pub fn builds_between(
        &self,
        after: Option<&BuildId>,
        to: Option<&BuildId>,
    ) -> impl Iterator<Item = &BuildId> {
        let after = after.map_or(Unbounded, Excluded);
        let to = to.map_or(Unbounded, Included);
        self.index
            .builds
            .range::<BuildId, _>((after, to))
            .map(|(build, _)| build)
    }

    /// The stages of a build that wait or are held.
    pub fn of_build(&self, build: &BuildId) -> impl Iterator<Item = &StageId> {
        self.index.builds.get(build).into_iter().flatten()
    }

    /// How many stages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.waiting.is_empty()
    }

    /// Gives out as many stages as fit. Nothing changes by it: see [`Queue::grant`].
    #[must_use]
    pub fn plan(&mut self, agents: &BTreeMap<AgentId, Agent>, now: Timestamp) -> Plan {
        pass::plan(&mut self.index, agents, now)
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
