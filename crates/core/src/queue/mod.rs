//! WHICH stage on WHICH agent, and why not.
//!
//! [`Queue`] is an index in memory of what the store says; [`Queue::plan`] gives out as many stages
//! as fit, in this order: urgent ones; the repository that has used least for its weight; priority,
//! aged; the longest way to its build's end; age. Placement conserves work: after a plan no ready
//! stage and no fitting free slot are left over. Fair share stands above priority, so that one
//! repository's backlog never goes before another's first stage.
//!
//! Knows no clock and no store. The price of a plan depends on the number of classes (distinct
//! demands), not of stages. `check` verifies finished plans with separate code.

mod check;
mod fit;
mod order;
mod report;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{AgentId, BuildId, RepoId, StageId};
use crate::time::Timestamp;

pub use check::{Flaw, check};
pub use order::{AGING, Class};
pub use report::{Reason, Unfit};
pub use snapshot::{Agent, AgentState, HALF_LIFE, Held, Usage, Waiting};

use order::Key;

/// A running slot weighs as much as this much past use.
const RUNNING_WEIGHT: Duration = Duration::from_secs(60);

/// One stage given to one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which stage.
    pub stage: StageId,
    /// The attempt number before it: the fence.
    pub attempt: u32,
    /// To whom.
    pub agent: AgentId,
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
    waiting: BTreeMap<StageId, Waiting>,
    classes: BTreeMap<Class, BTreeSet<Key>>,
    held: BTreeMap<StageId, Held>,
    usage: BTreeMap<RepoId, Usage>,
    /// Stages whose back-off is not over when they were last put in.
    later: BTreeSet<(Timestamp, StageId)>,
}

impl Queue {
    /// Nothing waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a stage in, or replaces what was known of it.
    pub fn put(&mut self, stage: Waiting) {
        self.remove(&stage.stage);
        self.classes
            .entry(Class::of(&stage))
            .or_default()
            .insert(Key::of(&stage));
        if stage.not_before > stage.ready_at {
            self.later.insert((stage.not_before, stage.stage.clone()));
        }
        self.waiting.insert(stage.stage.clone(), stage);
    }

    /// Notes that an agent holds a stage.
    pub fn hold(&mut self, stage: StageId, held: Held) {
        self.remove(&stage);
        self.held.insert(stage, held);
    }

    /// Forgets a stage: it ended, or somebody else changed it.
    pub fn remove(&mut self, stage: &StageId) {
        self.held.remove(stage);
        let Some(known) = self.waiting.remove(stage) else {
            return;
        };
        self.later.remove(&(known.not_before, stage.clone()));
        let class = Class::of(&known);
        if let Some(keys) = self.classes.get_mut(&class) {
            keys.remove(&Key::of(&known));
            if keys.is_empty() {
                self.classes.remove(&class);
            }
        }
    }

    /// Records slot time that a repository used.
    pub fn spend(&mut self, repo: &RepoId, weight: u32, slot_time: Duration, now: Timestamp) {
        let usage = self
            .usage
            .entry(repo.clone())
            .or_insert_with(|| Usage::new(weight, now));
        usage.weight = weight.max(1);
        usage.add(slot_time, now);
    }

    /// Stages that wait.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    /// A waiting stage.
    #[must_use]
    pub fn get(&self, stage: &StageId) -> Option<&Waiting> {
        self.waiting.get(stage)
    }

    /// Stages that agents hold.
    pub fn held(&self) -> impl Iterator<Item = (&StageId, &Held)> {
        self.held.iter()
    }

    /// How many stages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives out as many stages as fit.
    #[must_use]
    pub fn plan(&self, agents: &BTreeMap<AgentId, Agent>, now: Timestamp) -> Plan {
        let mut pass = Pass::new(self, agents, now);
        let mut plan = Plan::default();
        while pass.free > 0 {
            let Some((class, key)) = pass.next() else {
                break;
            };
            let Some(stage) = self.waiting.get(&key.stage) else {
                break;
            };
            let candidates = pass.candidates(class);
            let Some(agent) = fit::best(stage, &candidates, agents, |id| pass.busy(id)) else {
                break;
            };
            plan.assignments.push(Assignment {
                stage: stage.stage.clone(),
                attempt: stage.attempt,
                agent: agent.clone(),
            });
            let agent = agent.clone();
            pass.take(stage, &agent);
        }
        plan.wake_at = self.later.iter().map(|(at, _)| *at).find(|at| *at > now);
        plan
    }

    /// Why a stage waits.
    #[must_use]
    pub fn explain(
        &self,
        stage: &StageId,
        agents: &BTreeMap<AgentId, Agent>,
        now: Timestamp,
    ) -> Reason {
        let Some(stage) = self.waiting.get(stage) else {
            return Reason::NotQueued;
        };
        if stage.not_before > now {
            let left = stage.not_before.since(now);
            return Reason::BackOff(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        }
        let class = Class::of(stage);
        let pass = Pass::new(self, agents, now);
        if let Some(group) = pass.full_group(&class) {
            return Reason::Group(group);
        }
        if agents.values().all(|a| !a.connected) {
            return Reason::NoAgents;
        }
        let unfit: Vec<Unfit> = agents
            .iter()
            .filter_map(|(id, agent)| {
                fit::suits(id, agents, &class)
                    .and_then(|()| fit::can_take(agent, pass.busy(id)))
                    .err()
            })
            .collect();
        let only_busy = unfit.contains(&Unfit::NoSlot) || unfit.len() < agents.len();
        match unfit.into_iter().min() {
            Some(nearest) if !only_busy => Reason::NoFit(nearest),
            _ => Reason::Busy {
                ahead: self.classes.get(&class).map_or(0, |keys| {
                    let own = Key::of(stage);
                    keys.iter().take_while(|key| **key < own).count()
                }),
            },
        }
    }
}

/// One planning pass: what is free, and what this pass has taken already.
struct Pass<'a> {
    queue: &'a Queue,
    agents: &'a BTreeMap<AgentId, Agent>,
    now: Timestamp,
    busy: BTreeMap<AgentId, u32>,
    free: u32,
    /// Stages that hold each stage group.
    groups: BTreeMap<String, u32>,
    /// Builds that hold each build group.
    build_groups: BTreeMap<String, BTreeSet<BuildId>>,
    running: BTreeMap<RepoId, u32>,
    taken: BTreeSet<StageId>,
}

impl<'a> Pass<'a> {
    fn new(queue: &'a Queue, agents: &'a BTreeMap<AgentId, Agent>, now: Timestamp) -> Self {
        let mut pass = Self {
            queue,
            agents,
            now,
            busy: BTreeMap::new(),
            free: 0,
            groups: BTreeMap::new(),
            build_groups: BTreeMap::new(),
            running: BTreeMap::new(),
            taken: BTreeSet::new(),
        };
        for held in queue.held.values() {
            *pass.busy.entry(held.agent.clone()).or_default() += 1;
            *pass.running.entry(held.repo.clone()).or_default() += 1;
            if let Some(group) = &held.group {
                *pass.groups.entry(group.clone()).or_default() += 1;
            }
            if let Some(group) = &held.build_group {
                let builds = pass.build_groups.entry(group.clone()).or_default();
                builds.insert(held.build.clone());
            }
        }
        // A build that has begun keeps its group between two of its stages.
        for class in queue.classes.keys() {
            if let Some((group, _, build)) = &class.build_group
                && queue.classes[class]
                    .iter()
                    .filter_map(|key| queue.waiting.get(&key.stage))
                    .any(|stage| stage.build_begun)
            {
                let builds = pass.build_groups.entry(group.clone()).or_default();
                builds.insert(build.clone());
            }
        }
        pass.free = agents
            .iter()
            .filter(|(id, agent)| fit::can_take(agent, pass.busy(id)).is_ok())
            .map(|(id, agent)| agent.slots.saturating_sub(pass.busy(id)))
            .sum();
        pass
    }

    fn busy(&self, agent: &AgentId) -> u32 {
        self.busy.get(agent).copied().unwrap_or(0)
    }

    /// The next stage in order that some agent can take.
    fn next(&self) -> Option<(&'a Class, &'a Key)> {
        let mut best: Option<((bool, Duration, &Key), &Class)> = None;
        for (class, keys) in &self.queue.classes {
            let Some(key) = self.head(keys) else { continue };
            let rank = (key.not_urgent, self.share(&class.repo), key);
            if best.as_ref().is_some_and(|(known, _)| *known <= rank) {
                continue;
            }
            if self.full_group(class).is_none() && !self.candidates(class).is_empty() {
                best = Some((rank, class));
            }
        }
        best.map(|((_, _, key), class)| (class, key))
    }

    fn head(&self, keys: &'a BTreeSet<Key>) -> Option<&'a Key> {
        keys.iter().find(|key| {
            !self.taken.contains(&key.stage)
                && self
                    .queue
                    .waiting
                    .get(&key.stage)
                    .is_some_and(|stage| stage.not_before <= self.now)
        })
    }

    /// What a repository has used and is using, for its weight.
    fn share(&self, repo: &RepoId) -> Duration {
        let running = self.running.get(repo).copied().unwrap_or(0);
        let (spent, weight) = match self.queue.usage.get(repo) {
            Some(usage) => (usage.spent_at(self.now), usage.weight),
            None => (Duration::ZERO, 1),
        };
        (spent + RUNNING_WEIGHT * running) / weight.max(1)
    }

    fn full_group(&self, class: &Class) -> Option<String> {
        if let Some((name, limit)) = &class.group
            && self.groups.get(name).copied().unwrap_or(0) >= *limit
        {
            return Some(name.clone());
        }
        let (name, limit, build) = class.build_group.as_ref()?;
        let holders = self.build_groups.get(name)?;
        let full = !holders.contains(build) && holders.len() >= *limit as usize;
        full.then(|| name.clone())
    }

    fn candidates(&self, class: &Class) -> Vec<&'a AgentId> {
        self.agents
            .iter()
            .filter(|(id, agent)| {
                fit::can_take(agent, self.busy(id)).is_ok()
                    && fit::suits(id, self.agents, class).is_ok()
            })
            .map(|(id, _)| id)
            .collect()
    }

    fn take(&mut self, stage: &Waiting, agent: &AgentId) {
        self.taken.insert(stage.stage.clone());
        *self.busy.entry(agent.clone()).or_default() += 1;
        *self.running.entry(stage.repo.clone()).or_default() += 1;
        self.free = self.free.saturating_sub(1);
        if let Some(group) = &stage.group {
            *self.groups.entry(group.name.clone()).or_default() += 1;
        }
        if let Some(group) = &stage.build_group {
            let builds = self.build_groups.entry(group.name.clone()).or_default();
            builds.insert(stage.build.clone());
        }
    }
}

#[cfg(test)]
mod tests;
