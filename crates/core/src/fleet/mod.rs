//! HOW MANY agents a pool wants, and which of them may go.
//!
//! [`plan`] reads one [`Snapshot`] of all pools together, because a stage that fits two pools must
//! start an agent in one of them. Per pool the size that is wanted is
//! `clamp(ceil((needed slots + reserve) / slots per agent), min, max)`, where a slot is needed when it
//! is busy, when a waiting stage will take it before a new agent could boot, or when a waiting stage
//! has no such slot. Up at once; down one idle agent after another, the longest idle first.
//!
//! Starts and stops nothing: providers carry out what is planned, and the store decides the race
//! between a drain and an assignment. `orphans` judges what a provider lists; `check` verifies finished
//! plans with separate code.

mod check;
mod demand;
mod need;
mod orphans;
mod report;
mod settings;
mod snapshot;

use std::time::Duration;

use crate::id::AgentId;
use crate::time::Timestamp;

pub use check::{Flaw, check};
pub use demand::{Demand, LOOKED_AT, demand};
pub use orphans::{Listed, Listing, Record, Verdict, judge};
pub use report::{Degraded, PoolReport, Why};
pub use settings::{Invalid, PoolSettings, Provider, ScheduledMin, is_pool_name};
pub use snapshot::{Elsewhere, Machine, MachineState, Pool, Presence, Ready, Snapshot};

use need::Need;

/// A provider that failed is asked again after this, doubled with each further failure …
pub const BACK_OFF_MIN: Duration = Duration::from_secs(5);
/// … up to this, for as long as it takes: a pool is never stuck.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// An agent without a stream counts as capacity for so long: a lease and the time to reconnect.
pub const AWAY_MAX: Duration = Duration::from_secs(90);
/// A drained agent that holds nothing has so long to leave by itself.
pub const LEAVE: Duration = Duration::from_secs(30);

/// To be persisted, then done. Every one of them may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write so many new machines down, then start them.
    Start {
        /// In which pool.
        pool: String,
        /// How many.
        count: u32,
    },
    /// Ask the provider (again) to start a machine that is written down.
    Launch(AgentId),
    /// Let an idle agent take nothing new.
    Drain(AgentId),
    /// It holds nothing and is not coming back: from now on it is being stopped.
    Retire(AgentId, Why),
    /// Ask the provider (again) to stop it.
    Stop(AgentId),
}

/// What to do now, why, and when to ask again although nothing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// One for each pool.
    pub report: Vec<PoolReport>,
    /// An early question is harmless.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}

/// Plans the size of every pool.
#[must_use]
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let needs = need::needs(snapshot, now);
    let mut plan = Plan::default();
    for (pool, need) in snapshot.pools.iter().zip(needs) {
        Pass::new(pool, need, now).execute(&mut plan);
    }
    plan
}

/// One pool in one plan.
struct Pass<'a> {
    pool: &'a Pool,
    now: Timestamp,
    report: PoolReport,
    /// Machines that take work or will.
    capacity: u32,
}

impl<'a> Pass<'a> {
    fn new(pool: &'a Pool, need: Need, now: Timestamp) -> Self {
        let report = PoolReport::of(pool, need, now);
        let capacity = count(pool, |m| m.is_capacity(&pool.settings, now));
        Self {
            pool,
            now,
            report,
            capacity,
        }
    }

    fn execute(mut self, plan: &mut Plan) {
        self.give_up(plan);
        if self.capacity < self.report.desired {
            self.up(plan);
        } else {
            self.down(plan);
        }
        self.call(plan);
        if let Some(at) = self.pool.settings.min_changes_at(self.now) {
            plan.wake(at);
        }
        plan.report.push(self.report);
    }

    /// What will not come, or has left.
    fn give_up(&self, plan: &mut Plan) {
        for machine in &self.pool.machines {
            let (at, why) = match machine.state {
                MachineState::Starting => (
                    machine.created.after(self.pool.settings.boot()),
                    Why::BootDeadline,
                ),
                MachineState::Ready if machine.busy.is_empty() => match machine.presence {
                    Presence::Away(since) => (since.after(AWAY_MAX), Why::Away),
                    Presence::Connected => continue,
                },
                MachineState::Draining if machine.busy.is_empty() => match machine.presence {
                    Presence::Away(_) => (self.now, Why::Drained),
                    Presence::Connected => (machine.changed.after(LEAVE), Why::Drained),
                },
                _ => continue,
            };
            if at <= self.now {
                plan.actions
                    .push(Action::Retire(machine.agent.clone(), why));
            } else {
                plan.wake(at);
            }
        }
    }

    /// More: at once, but for what stands in the way.
    fn up(&mut self, plan: &mut Plan) {
        if self.pool.settings.is_external() {
            return;
        }
        if self.pool.is_capped(self.now) {
            // The report says it; tomorrow begins with the next slow tick.
            return;
        }
        let retry_at = self.pool.retry_at();
        if retry_at > self.now {
            plan.wake(retry_at);
            return;
        }
        let total = u32::try_from(self.pool.machines.len()).unwrap_or(u32::MAX);
        let room = self.pool.settings.max.saturating_sub(total);
        let count = (self.report.desired - self.capacity).min(room);
        if count > 0 {
            plan.actions.push(Action::Start {
                pool: self.pool.name.clone(),
                count,
            });
            self.report.booting += count;
        }
    }

    /// Less: what was never asked for first, then the longest idle, never more than half in a period.
    fn down(&mut self, plan: &mut Plan) {
        let settings = &self.pool.settings;
        let mut surplus = self.capacity - self.report.desired;
        if surplus == 0 {
            return;
        }
        for machine in &self.pool.machines {
            if surplus > 0 && machine.is_unasked() && machine.is_capacity(settings, self.now) {
                plan.actions
                    .push(Action::Retire(machine.agent.clone(), Why::NotNeeded));
                surplus -= 1;
                self.capacity -= 1;
            }
        }
        let idle_for = if self.pool.removed {
            Duration::ZERO
        } else {
            settings.idle()
        };
        let mut idle: Vec<(Timestamp, &AgentId)> = self
            .pool
            .machines
            .iter()
            .filter_map(|m| Some((m.idle_since()?, &m.agent)))
            .collect();
        idle.sort();
        let mut left = self.allowed_down();
        for (since, agent) in idle.into_iter().take(surplus as usize) {
            let due = since.after(idle_for);
            if due > self.now {
                plan.wake(due);
                break;
            }
            if left == 0 {
                plan.wake(self.now.after(settings.down_period()));
                break;
            }
            left -= 1;
            self.capacity -= 1;
            plan.actions.push(Action::Drain(agent.clone()));
        }
    }

    /// Half of what there was when the period began, less what went since.
    fn allowed_down(&self) -> u32 {
        let begun = self.now.before(self.pool.settings.down_period());
        let recent = self.pool.drains.iter().filter(|at| **at > begun).count();
        let recent = u32::try_from(recent).unwrap_or(u32::MAX);
        let size = self.capacity.saturating_add(recent);
        size.div_ceil(2).saturating_sub(recent)
    }

    /// Calls that are still to be made for machines that are written down.
    fn call(&self, plan: &mut Plan) {
        let retry_at = self.pool.retry_at();
        let capped = self.pool.is_capped(self.now);
        for machine in self.pool.machines.iter().filter(|m| !m.in_hand) {
            let retired = Action::Retire(machine.agent.clone(), Why::NotNeeded);
            let action = match machine.state {
                MachineState::Stopping => Action::Stop(machine.agent.clone()),
                MachineState::Starting
                    if !machine.known
                        && !capped
                        && machine.is_capacity(&self.pool.settings, self.now)
                        && !plan.actions.contains(&retired) =>
                {
                    Action::Launch(machine.agent.clone())
                }
                _ => continue,
            };
            if retry_at > self.now {
                plan.wake(retry_at);
            } else {
                plan.actions.push(action);
            }
        }
    }
}

fn count(pool: &Pool, which: impl Fn(&Machine) -> bool) -> u32 {
    let found = pool.machines.iter().filter(|m| which(m)).count();
    u32::try_from(found).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
