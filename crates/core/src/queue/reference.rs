//! The order of `mod.rs` read naively: everything is counted anew for every decision.

use std::collections::{BTreeMap, BTreeSet};

use super::fit::{self, Score};
use super::order::{Key, Kind, Use};
use super::pass::{BYPASS_MAX, LOOKAHEAD};
use super::{Agent, Assignment, Held, Queue, Waiting, shard};
use crate::id::{AgentId, BuildId, StageId};
use crate::time::Timestamp;

pub(super) struct Reference<'a> {
    agents: &'a BTreeMap<AgentId, Agent>,
    now: Timestamp,
    queue: &'a Queue,
    waiting: BTreeMap<StageId, Waiting>,
    held: BTreeMap<StageId, Held>,
    passed: BTreeMap<StageId, u8>,
}

/// What the queue's plan must be.
pub(super) fn plan(
    queue: &Queue,
    agents: &BTreeMap<AgentId, Agent>,
    now: Timestamp,
) -> Vec<Assignment> {
    let entries = queue.index.waiting.iter();
    let mut reference = Reference {
        agents,
        now,
        queue,
        waiting: queue
            .waiting()
            .map(|w| (w.stage.clone(), w.clone()))
            .collect(),
        held: queue
            .held()
            .map(|(id, held)| (id.clone(), held.clone()))
            .collect(),
        passed: entries
            .map(|(id, entry)| (id.clone(), entry.passed))
            .collect(),
    };
    let mut assignments = Vec::new();
    while let Some(assignment) = reference.next() {
        for stage in &assignment.over {
            *reference.passed.entry(stage.clone()).or_default() += 1;
        }
        let stage = reference.waiting.remove(&assignment.stage).unwrap();
        let held = Held::of(&stage, &assignment.agent);
        reference.held.insert(assignment.stage.clone(), held);
        assignments.push(assignment);
    }
    assignments
}

impl Reference<'_> {
    fn busy(&self, agent: &AgentId) -> u32 {
        let held = self.held.values().filter(|h| &h.agent == agent);
        u32::try_from(held.count()).unwrap()
    }

    fn holders(&self, group: &str) -> BTreeSet<BuildId> {
        let of_held = self.held.values();
        let of_held = of_held.filter(|h| h.build_group.as_deref() == Some(group));
        let begun = self
            .waiting
            .values()
            .filter(|w| w.build_begun && w.build_group.as_ref().is_some_and(|g| g.name == group));
        let of_held = of_held.map(|h| h.build.clone());
        of_held.chain(begun.map(|w| w.build.clone())).collect()
    }

    fn may_go_on(&self, stage: &Waiting) -> bool {
        let group = stage.group.as_ref().is_none_or(|group| {
            let held = self.held.values();
            let held = held.filter(|h| h.group.as_ref() == Some(&group.name));
            held.count() < group.limit as usize
        });
        let build_group = stage.build_group.as_ref().is_none_or(|group| {
            let holders = self.holders(&group.name);
            holders.contains(&stage.build) || holders.len() < group.limit as usize
        });
        stage.not_before <= self.now && group && build_group
    }

    fn used(&self, stage: &Waiting) -> Use {
        let known = &self.queue.index.repos[&stage.repo].used;
        let running = self.held.values().filter(|h| h.repo == stage.repo);
        Use {
            running: u32::try_from(running.count()).unwrap(),
            ..*known
        }
    }

    fn candidates(&self, stage: &Waiting) -> Vec<&AgentId> {
        let kind = Kind::of(stage);
        let agents = self.agents.iter();
        let agents = agents.filter(|(id, agent)| {
            fit::can_take(agent, self.busy(id)).is_ok()
                && fit::suits(id, agent, self.agents, &kind).is_ok()
        });
        agents.map(|(id, _)| id).collect()
    }

    fn best(&self, stage: &Waiting) -> (AgentId, Score) {
        let (kind, key) = (Kind::of(stage), shard::key(stage));
        let mut ranked: Vec<(f64, &AgentId)> = self
            .agents
            .iter()
            .filter(|(id, agent)| {
                fit::present(agent) && fit::suits(id, agent, self.agents, &kind).is_ok()
            })
            .map(|(id, agent)| (shard::score(key, shard::seed(id), agent.slots), id))
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let mut scored: Vec<(AgentId, Score)> = self
            .candidates(stage)
            .into_iter()
            .map(|id| {
                let is_home = ranked.iter().take(2).any(|(_, home)| *home == id);
                let agent = (id, &self.agents[id], shard::seed(id), self.busy(id));
                (id.clone(), Score::of(agent, (stage, key), is_home))
            })
            .collect();
        scored.sort_by(|a, b| b.1.compare(&a.1).then(a.0.cmp(&b.0)));
        scored.remove(0)
    }

    fn next(&self) -> Option<Assignment> {
        let possible = self.waiting.values();
        let possible = possible.filter(|w| self.may_go_on(w) && !self.candidates(w).is_empty());
        let first = possible.min_by_key(|w| {
            let used = self.used(w);
            let key = Key::of(w);
            (key.not_urgent, used.share(self.now), used.level, key)
        })?;
        let (agent, score) = self.best(first);
        if score.locality < 2
            && let Some(other) = self.other(first)
        {
            return Some(other);
        }
        Some(assignment(first, agent, Vec::new()))
    }

    /// One shortly behind the first that a free agent is home to.
    fn other(&self, first: &Waiting) -> Option<Assignment> {
        let kind = Kind::of(first);
        let mut line: Vec<&Waiting> = self
            .waiting
            .values()
            .filter(|w| w.repo == first.repo && Kind::of(w) == kind && self.may_go_on(w))
            .collect();
        line.sort_by_key(|w| Key::of(w));
        let mut grouped = BTreeSet::new();
        line.retain(|w| {
            let waits = w.build_group.as_ref();
            let waits = waits.filter(|g| !self.holders(&g.name).contains(&w.build));
            let class = (
                w.group.as_ref().map(|g| (g.name.clone(), g.limit)),
                waits.map(|g| (g.name.clone(), g.limit)),
            );
            class == (None, None) || grouped.insert(class)
        });
        let mut over = Vec::new();
        for stage in line.into_iter().take(LOOKAHEAD) {
            if (stage.priority, stage.urgent) != (first.priority, first.urgent) {
                return None;
            }
            let (agent, score) = self.best(stage);
            if score.locality >= 2 {
                return Some(assignment(stage, agent, over));
            }
            if self.passed[&stage.stage] >= BYPASS_MAX {
                return None;
            }
            over.push(stage.stage.clone());
        }
        None
    }
}

fn assignment(stage: &Waiting, agent: AgentId, over: Vec<StageId>) -> Assignment {
    Assignment {
        stage: stage.stage.clone(),
        attempt: stage.attempt,
        agent,
        over,
    }
}
