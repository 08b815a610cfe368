//! Which agent: hard filters first, then a score.

use std::collections::BTreeMap;

use super::order::Class;
use super::report::Unfit;
use super::snapshot::{Agent, AgentState, Waiting};
use crate::id::AgentId;

/// Pressure above which an agent that holds something gets nothing more, percent.
const CPU_PRESSURE_MAX: f32 = 75.0;
const MEMORY_PRESSURE_MAX: f32 = 80.0;
/// Free disk below which an agent gets nothing, percent.
const DISK_MIN: f32 = 15.0;
/// How many agents are home to a shard.
const HOMES: usize = 2;

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

/// Whether an agent is of the kind that a class asks for, and did not lose the stage before.
pub(super) fn suits(
    id: &AgentId,
    agents: &BTreeMap<AgentId, Agent>,
    class: &Class,
) -> Result<(), Unfit> {
    let Some(agent) = agents.get(id) else {
        return Err(Unfit::Silent);
    };
    is_of_kind(agent, class)?;
    // Where every present agent of the kind has lost it, one of them must try again.
    let elsewhere = || {
        agents.iter().any(|(other, agent)| {
            let present = agent.connected && agent.state == AgentState::Ready;
            present && !class.lost_by.contains(other) && is_of_kind(agent, class).is_ok()
        })
    };
    if class.lost_by.contains(id) && elsewhere() {
        return Err(Unfit::LostIt);
    }
    Ok(())
}

fn is_of_kind(agent: &Agent, class: &Class) -> Result<(), Unfit> {
    for (name, value) in &class.labels {
        let good = match name.strip_prefix('!') {
            Some(absent) => !agent.labels.contains_key(absent),
            None => agent
                .labels
                .get(name)
                .is_some_and(|has| has == value || value == "*"),
        };
        if !good {
            return Err(Unfit::Label(name.clone(), value.clone()));
        }
    }
    Ok(())
}

/// The best of the candidates for a stage; the first term that differs decides.
pub(super) fn best<'a>(
    stage: &Waiting,
    candidates: &[&'a AgentId],
    agents: &BTreeMap<AgentId, Agent>,
    busy: impl Fn(&AgentId) -> u32,
) -> Option<&'a AgentId> {
    let mut ranked: Vec<(&AgentId, f64)> = candidates
        .iter()
        .map(|id| {
            let slots = agents.get(*id).map_or(1, |a| a.slots);
            (*id, rendezvous(stage, id, slots))
        })
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let homes: Vec<&AgentId> = ranked.iter().take(HOMES).map(|(id, _)| *id).collect();
    let score = |id: &AgentId| {
        let locality = if stage.near.as_ref() == Some(id) {
            3
        } else if homes.contains(&id) {
            2
        } else {
            0
        };
        let ease = agents.get(id).map_or(0, |agent| ease(agent, busy(id)));
        (locality, ease)
    };
    // `ranked` is by shard already; a stable maximum keeps that as the last term.
    ranked
        .iter()
        .rev()
        .max_by_key(|(id, _)| score(id))
        .map(|(id, _)| *id)
}

/// 0–3: how little an agent is pressed.
fn ease(agent: &Agent, busy: u32) -> u8 {
    let free = f64::from(agent.slots.saturating_sub(busy)) / f64::from(agent.slots.max(1));
    let calm = agent.cpu_pressure < CPU_PRESSURE_MAX / 2.0
        && agent.memory_pressure < MEMORY_PRESSURE_MAX / 2.0;
    u8::from(free > 0.25) + u8::from(free > 0.75) + u8::from(calm)
}

/// Weighted rendezvous hashing: a joining or leaving agent moves only its own share of the keys.
fn rendezvous(stage: &Waiting, agent: &AgentId, slots: u32) -> f64 {
    let mut hasher = blake3::Hasher::new();
    for part in [stage.repo.as_str(), &stage.name, agent.as_str()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let hash = hasher.finalize();
    let mut bytes = [0_u8; 4];
    bytes.copy_from_slice(&hash.as_bytes()[..4]);
    // In (0, 1): a hash of 0 would divide by infinity.
    let unit = (f64::from(u32::from_le_bytes(bytes)) + 0.5) / (f64::from(u32::MAX) + 1.0);
    -f64::from(slots) / unit.ln()
}
