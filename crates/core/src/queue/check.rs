//! Is a finished plan right? Separate code, used by property tests and by the scheduling loop's
//! debug assertion. It costs what waits, so that the loop asks it about small queues only.

use std::collections::{BTreeMap, BTreeSet};

use super::order::Kind;
use super::{Agent, Plan, Queue, fit};
use crate::id::{AgentId, StageId};
use crate::time::Timestamp;

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A stage is given out twice, or was not waiting.
    NotWaiting(StageId),
    /// An agent gets more than it has slots for, or may not take anything.
    OverCapacity(AgentId),
    /// An agent gets a stage that it does not suit.
    Misplaced(StageId, AgentId),
    /// A group holds more than its limit.
    GroupOverfull(String),
    /// A stage waits although a fitting slot is free.
    LeftOver(StageId, AgentId),
}

/// All flaws of a plan for a queue and its agents.
#[must_use]
pub fn check(
    queue: &Queue,
    agents: &BTreeMap<AgentId, Agent>,
    now: Timestamp,
    plan: &Plan,
) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let mut busy: BTreeMap<&AgentId, u32> = BTreeMap::new();
    let mut groups: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, held) in queue.held() {
        *busy.entry(&held.agent).or_default() += 1;
        if let Some(group) = &held.group {
            *groups.entry(group).or_default() += 1;
        }
    }
    let mut given = BTreeSet::new();
    for assignment in &plan.assignments {
        let Some(stage) = queue.get(&assignment.stage) else {
            flaws.push(Flaw::NotWaiting(assignment.stage.clone()));
            continue;
        };
        if !given.insert(&assignment.stage) || stage.not_before > now {
            flaws.push(Flaw::NotWaiting(assignment.stage.clone()));
        }
        let held = busy.entry(&assignment.agent).or_default();
        let Some(agent) = agents.get(&assignment.agent) else {
            flaws.push(Flaw::OverCapacity(assignment.agent.clone()));
            continue;
        };
        if fit::can_take(agent, *held).is_err() {
            flaws.push(Flaw::OverCapacity(assignment.agent.clone()));
        }
        *held += 1;
        if fit::suits(&assignment.agent, agent, agents, &Kind::of(stage)).is_err() {
            flaws.push(Flaw::Misplaced(
                assignment.stage.clone(),
                assignment.agent.clone(),
            ));
        }
        if let Some(group) = &stage.group {
            let holders = groups.entry(&group.name).or_default();
            *holders += 1;
            if *holders > group.limit {
                flaws.push(Flaw::GroupOverfull(group.name.clone()));
            }
        }
    }
    left_over(queue, agents, now, &given, &busy, &mut flaws);
    flaws
}

fn left_over(
    queue: &Queue,
    agents: &BTreeMap<AgentId, Agent>,
    now: Timestamp,
    given: &BTreeSet<&StageId>,
    busy: &BTreeMap<&AgentId, u32>,
    flaws: &mut Vec<Flaw>,
) {
    let free: Vec<(&AgentId, &Agent)> = agents
        .iter()
        .filter(|(id, agent)| fit::can_take(agent, busy.get(id).copied().unwrap_or(0)).is_ok())
        .collect();
    if free.is_empty() {
        return;
    }
    for stage in queue.waiting() {
        let open = stage.group.is_none() && stage.build_group.is_none();
        if given.contains(&stage.stage) || stage.not_before > now || !open {
            continue;
        }
        let kind = Kind::of(stage);
        for (id, agent) in &free {
            if fit::suits(id, agent, agents, &kind).is_ok() {
                flaws.push(Flaw::LeftOver(stage.stage.clone(), (*id).clone()));
            }
        }
    }
}
