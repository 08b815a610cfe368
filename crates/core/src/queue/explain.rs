//! Why a stage waits: in a word for a list, at length for one.

use std::collections::BTreeMap;

use super::Queue;
use super::fit;
use super::index::{Entry, Members};
use super::order::{Key, Kind};
use super::report::{Reason, Unfit};
use super::snapshot::Agent;
use crate::id::{AgentId, BuildId, StageId};
use crate::time::Timestamp;

/// Stages ahead that a list counts, and an answer about one stage: counting is the only part of an
/// answer that grows with the queue.
const AHEAD_LISTED: usize = 100;
const AHEAD_MAX: usize = 10_000;
/// Agents and holders of one answer.
const NEAREST_MAX: usize = 5;
const HOLDERS_MAX: usize = 10;

/// Everything about one waiting stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// In a word.
    pub reason: Reason,
    /// How many stages of its repository and kind go before it; counted up to 10,000.
    pub ahead: usize,
    /// What is left of a back-off, milliseconds.
    pub back_off: u64,
    /// The group that is full.
    pub group: Option<FullGroup>,
    /// What the nearest agents lack, nearest first.
    pub nearest: Vec<(AgentId, Unfit)>,
}

/// A group that is full, and whom it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FullGroup {
    /// Its name, as one repository's own.
    pub name: String,
    /// How many may hold it.
    pub limit: u32,
    /// Who holds it; the first ten.
    pub holders: Vec<Holder>,
}

/// Who holds a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A stage, on an agent.
    Stage(StageId, AgentId),
    /// A build that has begun.
    Build(BuildId),
}

impl Queue {
    /// Why a stage waits.
    #[must_use]
    pub fn explain(
        &self,
        stage: &StageId,
        agents: &BTreeMap<AgentId, Agent>,
        now: Timestamp,
    ) -> Reason {
        match self.index.waiting.get(stage) {
            Some(entry) => self.reason(entry, agents, now, AHEAD_LISTED).0,
            None => Reason::NotQueued,
        }
    }

    /// Everything about one waiting stage; `None` when it does not wait.
    #[must_use]
    pub fn explain_fully(
        &self,
        stage: &StageId,
        agents: &BTreeMap<AgentId, Agent>,
        now: Timestamp,
    ) -> Option<Explanation> {
        let entry = self.index.waiting.get(stage)?;
        let (reason, mut nearest) = self.reason(entry, agents, now, AHEAD_MAX);
        nearest.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
        nearest.truncate(NEAREST_MAX);
        let left = entry.stage.not_before.since(now).as_millis();
        Some(Explanation {
            ahead: self.ahead(entry, AHEAD_MAX),
            back_off: u64::try_from(left).unwrap_or(u64::MAX),
            group: self.full_group(entry).map(|(name, limit)| FullGroup {
                holders: self.holders(name),
                name: name.to_owned(),
                limit,
            }),
            reason,
            nearest: nearest
                .into_iter()
                .map(|(id, why)| (id.clone(), why))
                .collect(),
        })
    }

    fn reason<'a>(
        &self,
        entry: &Entry,
        agents: &'a BTreeMap<AgentId, Agent>,
        now: Timestamp,
        ahead_max: usize,
    ) -> (Reason, Vec<(&'a AgentId, Unfit)>) {
        let kind = Kind::of(&entry.stage);
        let unfit: Vec<(&AgentId, Unfit)> = agents
            .iter()
            .filter_map(|(id, agent)| {
                let busy = self.index.busy.get(id).copied().unwrap_or(0);
                let fits = fit::suits(id, agent, agents, &kind);
                let why = fits.and_then(|()| fit::can_take(agent, busy)).err()?;
                Some((id, why))
            })
            .collect();
        let only_busy =
            unfit.len() < agents.len() || unfit.iter().any(|(_, why)| *why == Unfit::NoSlot);
        let reason = if entry.stage.not_before > now {
            let left = entry.stage.not_before.since(now).as_millis();
            Reason::BackOff(u64::try_from(left).unwrap_or(u64::MAX))
        } else if let Some((group, _)) = self.full_group(entry) {
            Reason::Group(group.to_owned())
        } else if agents.values().all(|a| !a.connected) {
            Reason::NoAgents
        } else {
            match unfit.iter().map(|(_, why)| why).min() {
                Some(nearest) if !only_busy => Reason::NoFit(nearest.clone()),
                _ => {
                    let ahead = self.ahead(entry, ahead_max);
                    let more = ahead == ahead_max;
                    Reason::Busy { ahead, more }
                }
            }
        };
        (reason, unfit)
    }

    fn members(&self, entry: &Entry) -> Option<&Members> {
        self.index.classes.get(&entry.class?)
    }

    fn full_group<'a>(&'a self, entry: &Entry) -> Option<(&'a str, u32)> {
        self.index.full_group(self.members(entry)?)
    }

    /// Stages before it: in its repository's line, or in its class where that may not go on.
    fn ahead(&self, entry: &Entry, max: usize) -> usize {
        let own = Key::of(&entry.stage);
        let Some(members) = self.members(entry) else {
            return 0;
        };
        if self.index.full_group(members).is_some() {
            return members.keys.range(..own).take(max).count();
        }
        let line = self.index.repos.get(&entry.stage.repo);
        let line = line.and_then(|repo| repo.lines.get(&members.kind()));
        let heads = line.into_iter().flat_map(|line| &line.heads);
        let classes = heads.filter_map(|(_, class)| self.index.classes.get(class));
        classes
            .flat_map(|members| members.keys.range(..own.clone()))
            .take(max)
            .count()
    }

    fn holders(&self, group: &str) -> Vec<Holder> {
        let stages = self.index.groups.get(group).into_iter().flatten();
        let stages = stages.filter_map(|stage| {
            let held = self.index.held.get(stage)?;
            Some(Holder::Stage(stage.clone(), held.agent.clone()))
        });
        let builds = self.index.build_groups.get(group).into_iter();
        let builds = builds.flat_map(BTreeMap::keys).cloned().map(Holder::Build);
        stages.chain(builds).take(HOLDERS_MAX).collect()
    }
}
