//! What the planner looks at: pools with their machines, stages that wait, and agents that belong to
//! no pool.

use std::collections::BTreeMap;
use std::time::Duration;

use super::settings::PoolSettings;
use super::{AWAY_MAX, BACK_OFF_MAX, BACK_OFF_MIN};
use crate::id::AgentId;
use crate::time::Timestamp;

/// Everything at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// In the order in which they are filled.
    pub pools: Vec<Pool>,
    /// Stages that could be executed now, in the order in which they are given out.
    pub ready: Vec<Ready>,
    /// Agents that take work and belong to no pool.
    pub elsewhere: Vec<Elsewhere>,
}

/// Stages that wait and ask for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Labels that an agent must have.
    pub labels: BTreeMap<String, String>,
    /// How many.
    pub count: u32,
    /// How long one is expected to take.
    pub expected: Duration,
}

/// An agent that belongs to no pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its slots.
    pub slots: u32,
    /// What it holds: how long each is expected to take from now.
    pub busy: Vec<Duration>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: PoolSettings,
    /// Whether it was removed, and only has to be emptied.
    pub removed: bool,
    /// Every machine that is not gone.
    pub machines: Vec<Machine>,
    /// Median time from the order of a machine to its agent's hello; `None` = nothing is known.
    pub boot: Option<Duration>,
    /// Time of agents, today.
    pub spent: Duration,
    /// Failures of the provider in a row, and when the last one was.
    pub failures: u32,
    /// The last failure.
    pub failed_at: Timestamp,
    /// What the provider said.
    pub error: String,
    /// When agents were drained lately, those that are gone included.
    pub drains: Vec<Timestamp>,
}

impl Pool {
    /// Until then the provider is left alone.
    #[must_use]
    pub fn retry_at(&self) -> Timestamp {
        let Some(doubled) = self.failures.checked_sub(1) else {
            return Timestamp::EPOCH;
        };
        let wait = BACK_OFF_MIN.saturating_mul(1 << doubled.min(10));
        self.failed_at.after(wait.min(BACK_OFF_MAX))
    }

    /// Whether the day's hours of agents are spent.
    #[must_use]
    pub fn is_capped(&self, _now: Timestamp) -> bool {
        let cap = self.settings.max_agent_hours;
        cap.is_some_and(|hours| self.spent >= Duration::from_secs(u64::from(hours) * 3_600))
    }
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineState {
    /// Written down; its agent has not said hello yet.
    Starting,
    /// Its agent has said hello.
    Ready,
    /// Its agent takes nothing new.
    Draining,
    /// It holds nothing; the provider takes it away.
    Stopping,
}

/// Whether an agent has a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It has.
    Connected,
    /// It has had none since.
    Away(Timestamp),
}

/// One machine: one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its agent, chosen before it is started.
    pub agent: AgentId,
    /// Where it is in its life.
    pub state: MachineState,
    /// Since when it is written down.
    pub created: Timestamp,
    /// Since when it is in its state.
    pub changed: Timestamp,
    /// Whether the provider has said which machine it is.
    pub known: bool,
    /// Whether a call to the provider is under way for it.
    pub in_hand: bool,
    /// Whether its agent has a stream.
    pub presence: Presence,
    /// Whether its agent may be given work: neither drained nor quarantined.
    pub takes_work: bool,
    /// Its agent's slots.
    pub slots: u32,
    /// What its agent holds: how long each is expected to take from now.
    pub busy: Vec<Duration>,
    /// When it last held something, or said hello.
    pub last_busy: Timestamp,
}

impl Machine {
    /// Whether it takes work or will before its deadline.
    #[must_use]
    pub fn is_capacity(&self, settings: &PoolSettings, now: Timestamp) -> bool {
        match self.state {
            MachineState::Starting => self.created.after(settings.boot()) > now,
            MachineState::Ready => {
                self.takes_work
                    && match self.presence {
                        Presence::Connected => true,
                        Presence::Away(since) => since.after(AWAY_MAX) > now,
                    }
            }
            MachineState::Draining | MachineState::Stopping => false,
        }
    }

    /// Whether nobody was asked to start it yet, or nobody answered that it did.
    #[must_use]
    pub fn is_unasked(&self) -> bool {
        self.state == MachineState::Starting && !self.known && !self.in_hand
    }

    /// Since when it holds nothing although it could; `None` = it is no candidate for going.
    #[must_use]
    pub fn idle_since(&self) -> Option<Timestamp> {
        let idle = self.state == MachineState::Ready
            && self.takes_work
            && self.presence == Presence::Connected
            && self.busy.is_empty();
        idle.then_some(self.last_busy)
    }
}
