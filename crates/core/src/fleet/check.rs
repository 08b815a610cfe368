//! Verifies a finished plan with separate code: in property tests, and by `debug_assert!` in the loop.

use std::collections::BTreeMap;
use std::time::Duration;

use super::snapshot::{Machine, MachineState, Pool, Presence, Snapshot};
use super::{Action, Plan, Why};
use crate::id::AgentId;
use crate::time::Timestamp;

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// More machines than the pool may have.
    AboveMax(String),
    /// Fewer agents than the pool must have, by a drain.
    BelowMin(String),
    /// An agent that holds something.
    Busy(AgentId),
    /// An agent that was not idle for long enough.
    TooEarly(AgentId),
    /// More than half of a pool within one period.
    TooMany(String),
    /// Two actions for one machine contradict each other, or the machine is not there.
    Confused(AgentId),
    /// Something was started although the day's hours are spent or the provider rests.
    Forbidden(String),
}

/// Everything that is wrong with a plan; empty = good.
#[must_use]
pub fn check(snapshot: &Snapshot, now: Timestamp, plan: &Plan) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    for pool in &snapshot.pools {
        let settings = &pool.settings;
        let mine = |agent: &AgentId| pool.machines.iter().find(|m| m.agent == *agent);
        let (mut started, mut drained) = (0, 0);
        for action in &plan.actions {
            match action {
                Action::Start { pool: name, count } if *name == pool.name => {
                    started += *count as usize;
                }
                Action::Drain(agent) => {
                    let Some(machine) = mine(agent) else { continue };
                    drained += 1;
                    flaws.extend(drain(pool, machine, now));
                }
                Action::Retire(agent, why) => {
                    let Some(machine) = mine(agent) else { continue };
                    if machine.state != MachineState::Starting && !machine.busy.is_empty() {
                        flaws.push(Flaw::Busy(agent.clone()));
                    }
                    let early =
                        *why == Why::BootDeadline && now.since(machine.created) < settings.boot();
                    if early {
                        flaws.push(Flaw::TooEarly(agent.clone()));
                    }
                }
                Action::Start { .. } | Action::Launch(_) | Action::Stop(_) => {}
            }
        }
        let total = pool.machines.len() + started;
        if started > 0 && total > settings.max as usize {
            flaws.push(Flaw::AboveMax(pool.name.clone()));
        }
        if started > 0 && (pool.is_capped(now) || pool.retry_at() > now || pool.removed) {
            flaws.push(Flaw::Forbidden(pool.name.clone()));
        }
        let capacity = pool
            .machines
            .iter()
            .filter(|m| m.is_capacity(settings, now));
        let kept = capacity.count().saturating_sub(drained);
        if drained > 0 && !pool.removed && kept < settings.min_at(now) as usize {
            flaws.push(Flaw::BelowMin(pool.name.clone()));
        }
        let begun = now.before(settings.down_period());
        let recent = pool.drains.iter().filter(|at| **at > begun).count();
        if drained > 0 && 2 * (drained + recent) > kept + drained + recent + 1 {
            flaws.push(Flaw::TooMany(pool.name.clone()));
        }
    }
    flaws.extend(confused(plan));
    flaws
}

/// Two actions for one machine.
fn confused(plan: &Plan) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let mut seen: BTreeMap<&AgentId, u32> = BTreeMap::new();
    for action in &plan.actions {
        let agent = match action {
            Action::Start { .. } => continue,
            Action::Launch(a) | Action::Drain(a) | Action::Stop(a) | Action::Retire(a, _) => a,
        };
        let times = seen.entry(agent).or_default();
        *times += 1;
        if *times > 1 {
            flaws.push(Flaw::Confused(agent.clone()));
        }
    }
    flaws
}

/// Draining one machine.
fn drain(pool: &Pool, machine: &Machine, now: Timestamp) -> Vec<Flaw> {
    let (settings, mut flaws) = (&pool.settings, Vec::new());
    if !machine.busy.is_empty() {
        flaws.push(Flaw::Busy(machine.agent.clone()));
    }
    let idle = if pool.removed {
        Duration::ZERO
    } else {
        settings.idle()
    };
    if now.since(machine.last_busy) < idle {
        flaws.push(Flaw::TooEarly(machine.agent.clone()));
    }
    let there = machine.state == MachineState::Ready && machine.presence == Presence::Connected;
    if !there {
        flaws.push(Flaw::Confused(machine.agent.clone()));
    }
    flaws
}
