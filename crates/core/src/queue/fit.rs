//! Which agent: hard filters first, then a score.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::order::Kind;
use super::report::Unfit;
use super::shard;
use super::snapshot::{Agent, AgentState, Waiting};
use crate::id::AgentId;

/// Pressure above which an agent that holds something gets nothing more, percent.
const CPU_PRESSURE_MAX: f32 = 75.0;
const MEMORY_PRESSURE_MAX: f32 = 80.0;
/// Free disk below which an agent gets nothing, percent.
const DISK_MIN: f32 = 15.0;
/// What a label is worth that is there exactly, and one that a wildcard stands for.
const EXACT: u32 = 10;
const WILDCARD: u32 = 1;
/// Locality: the agent that executed what the stage builds on; an agent that is home to its key.
pub(super) const NEAR: u8 = 3;
pub(super) const HOME: u8 = 2;

/// Whether an agent can take anything at all now. `busy` = attempts it holds.
pub(super) fn can_take(agent: &Agent, busy: u32) -> Result<(), Unfit> {
    if agent.state == AgentState::Quarantined {
        return Err(Unfit::Quarantined);
    }
    if agent.state == AgentState::Draining {
        return Err(Unfit::Draining);
    }
    if !agent.connected || agent.silent > agent.silent_max {
        return Err(Unfit::Silent);
    }
    if agent.disk_free < DISK_MIN {
        return Err(Unfit::DiskFull);
    }
    // Pressure that is not ours must not keep an idle agent from working.
    let pressed =
        agent.cpu_pressure > CPU_PRESSURE_MAX || agent.memory_pressure > MEMORY_PRESSURE_MAX;
    if busy > 0 && pressed {
        return Err(Unfit::UnderPressure);
    }
    if busy >= agent.slots {
        return Err(Unfit::NoSlot);
    }
    Ok(())
}

/// Whether an agent is one that a kind of stages asks for, and did not lose them before.
pub(super) fn suits(
    id: &AgentId,
    agent: &Agent,
    agents: &BTreeMap<AgentId, Agent>,
    kind: &Kind,
) -> Result<(), Unfit> {
    has_labels(agent, kind)?;
    // Where every present agent of the kind has lost it, one of them must try again.
    let elsewhere = || {
        agents.iter().any(|(other, agent)| {
            present(agent) && !kind.lost_by.contains(other) && has_labels(agent, kind).is_ok()
        })
    };
    if kind.lost_by.contains(id) && elsewhere() {
        return Err(Unfit::LostIt);
    }
    Ok(())
}

/// Whether an agent counts when homes, or somebody else for a lost stage, are looked for: busy ones do.
pub(super) fn present(agent: &Agent) -> bool {
    let heard = agent.connected && agent.silent <= agent.silent_max;
    heard && agent.state == AgentState::Ready
}

fn has_labels(agent: &Agent, kind: &Kind) -> Result<(), Unfit> {
    for (name, value) in &kind.labels {
        let good = match name.strip_prefix('!') {
            Some(absent) => !agent.labels.contains_key(absent),
            None => agent
                .labels
                .get(name)
                .is_some_and(|has| has == value || value == "*" || has == "*"),
        };
        if !good {
            return Err(Unfit::Label(name.clone(), value.clone()));
        }
    }
    Ok(())
}

/// An agent that could take a stage, and what speaks for it; greater = better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Score {
    pub(super) locality: u8,
    ease: u8,
    labels: u32,
    shard: f64,
}

impl Score {
    /// `homes` are those of the stage's key.
    pub(super) fn of(
        (id, agent, seed, busy): (&AgentId, &Agent, u64, u32),
        (stage, key): (&Waiting, u64),
        is_home: bool,
    ) -> Self {
        let locality = if stage.near.as_ref() == Some(id) {
            NEAR
        } else if is_home {
            HOME
        } else {
            0
        };
        Self {
            locality,
            ease: ease(agent, busy),
            labels: labels(agent, stage),
            shard: shard::score(key, seed, agent.slots),
        }
    }

    /// The first term that differs decides.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        (self.locality, self.ease, self.labels)
            .cmp(&(other.locality, other.ease, other.labels))
            .then_with(|| self.shard.total_cmp(&other.shard))
    }
}

/// 0–3: how little an agent is pressed.
fn ease(agent: &Agent, busy: u32) -> u8 {
    let free = f64::from(agent.slots.saturating_sub(busy)) / f64::from(agent.slots.max(1));
    let calm = agent.cpu_pressure < CPU_PRESSURE_MAX / 2.0
        && agent.memory_pressure < MEMORY_PRESSURE_MAX / 2.0;
    u8::from(free > 0.25) + u8::from(free > 0.75) + u8::from(calm)
}

/// An agent that has exactly what is asked for stands before one that takes anything.
fn labels(agent: &Agent, stage: &Waiting) -> u32 {
    let asked = stage.labels.iter();
    let worth = |(name, value): (&String, &String)| match agent.labels.get(name) {
        Some(has) if has == value => EXACT,
        Some(_) => WILDCARD,
        None => 0,
    };
    asked.map(worth).sum()
}
