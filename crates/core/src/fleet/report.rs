//! Why a pool has the size it has, as data: `slipway pool explain` prints it.

use std::fmt;
use std::time::Duration;

use super::need::Need;
use super::snapshot::{MachineState, Pool};
use crate::time::Timestamp;

/// Why a machine is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its agent did not connect in time.
    BootDeadline,
    /// Its agent was connected, is not any more, and holds nothing.
    Away,
    /// It was drained, and holds nothing.
    Drained,
    /// It was written down and is not needed any more.
    NotNeeded,
    /// The provider does not have it any more.
    Missing,
}

impl Why {
    /// For the row and the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BootDeadline => "its agent did not connect before the boot deadline",
            Self::Away => "its agent went away and holds nothing",
            Self::Drained => "it was idle for long enough",
            Self::NotNeeded => "it is not needed any more",
            Self::Missing => "the provider does not have it any more",
        }
    }
}

/// Why a pool cannot have the size it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Degraded {
    /// The day's hours of agents are spent.
    CostCap {
        /// How many there are.
        hours: u32,
    },
    /// The provider fails.
    Provider {
        /// In a row.
        failures: u32,
        /// When it is asked again.
        retry_at: Timestamp,
        /// What it said.
        error: String,
    },
}

/// One pool at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolReport {
    /// Its name.
    pub pool: String,
    /// What holds now.
    pub min: u32,
    /// What may be.
    pub max: u32,
    /// What is wanted.
    pub desired: u32,
    /// Machines whose agent takes work.
    pub ready: u32,
    /// Machines whose agent is expected.
    pub booting: u32,
    /// Machines whose agent takes nothing new.
    pub draining: u32,
    /// Machines that are taken away, or that are no capacity for another reason.
    pub leaving: u32,
    /// Slots that hold something.
    pub busy_slots: u32,
    /// Waiting stages that need a further agent.
    pub waiting: u32,
    /// Waiting stages that present slots take before a new agent could boot.
    pub absorbed: u32,
    /// Waiting stages beyond what the pool may have.
    pub unmet: u32,
    /// Free slots that are kept.
    pub reserve: u32,
    /// Slots of one agent.
    pub slots: u32,
    /// Time of agents today.
    pub spent: Duration,
    /// What stands in the way.
    pub degraded: Option<Degraded>,
}

impl PoolReport {
    pub(super) fn of(pool: &Pool, need: Need, now: Timestamp) -> Self {
        let settings = &pool.settings;
        let max = if pool.removed { 0 } else { settings.max };
        let min = settings.min_at(now).min(max);
        let state = |state| super::count(pool, |m| m.state == state);
        let capacity =
            |state| super::count(pool, |m| m.state == state && m.is_capacity(settings, now));
        let (ready, booting) = (
            capacity(MachineState::Ready),
            capacity(MachineState::Starting),
        );
        let draining = state(MachineState::Draining);
        let all = super::count(pool, |_| true);
        Self {
            pool: pool.name.clone(),
            min,
            max,
            desired: need.agents(pool).clamp(min, max),
            ready,
            booting,
            draining,
            leaving: all - ready - booting - draining,
            busy_slots: need.busy,
            waiting: need.waiting,
            absorbed: need.absorbed,
            unmet: need.unmet,
            reserve: settings.reserve,
            slots: settings.slots,
            spent: pool.spent,
            degraded: degraded(pool, now),
        }
    }

    /// Why, a sentence each.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let mut words = vec![format!(
            "{} agents are wanted: {} busy slots, {} stages that need a further slot, {} kept free, {} slots per \
             agent; at least {}, at most {}",
            self.desired,
            self.busy_slots,
            self.waiting,
            self.reserve,
            self.slots,
            self.min,
            self.max
        )];
        if self.absorbed > 0 {
            words.push(format!(
                "{} waiting stages get a present or booting slot before a new agent could boot",
                self.absorbed
            ));
        }
        if self.unmet > 0 {
            words.push(format!(
                "{} waiting stages find no room: every fitting pool is at its `max`",
                self.unmet
            ));
        }
        if self.ready + self.booting > self.desired {
            words.push(
                "more agents than wanted: idle ones go after the pool's idle time".to_owned(),
            );
        }
        if let Some(degraded) = &self.degraded {
            words.push(degraded.to_string());
        }
        words
    }
}

fn degraded(pool: &Pool, now: Timestamp) -> Option<Degraded> {
    if let Some(hours) = pool.settings.max_agent_hours
        && pool.is_capped(now)
    {
        return Some(Degraded::CostCap { hours });
    }
    (pool.failures > 0).then(|| Degraded::Provider {
        failures: pool.failures,
        retry_at: pool.retry_at(),
        error: pool.error.clone(),
    })
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CostCap { hours } => write!(
                f,
                "pool_degraded(cost_cap): today's {hours} agent hours are spent; nothing new is started before \
                 midnight UTC (raise `max_agent_hours`)"
            ),
            Self::Provider {
                failures, error, ..
            } => write!(
                f,
                "pool_degraded(provider): {failures} failures in a row, and it is asked again: {error}"
            ),
        }
    }
}
