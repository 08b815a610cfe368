//! What is stored about a rollout under way, and how it changes. Every change here is one durable
//! write of the driver.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hosts::HostTrouble;
use super::phase::Phase;
use crate::time::Timestamp;

/// Something done to the world outside: absolute, so that doing it twice is doing it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Effect {
    /// So many of the new version's instances exist.
    EnsureNew {
        /// How many; 0 = all of them.
        #[serde(default)]
        count: u32,
    },
    /// Stable's instances exist, all of them.
    EnsureStable,
    /// The new version has this share of the traffic, stable the rest.
    Route {
        /// Basis points.
        new_bp: u32,
    },
    /// The new version keeps all traffic for good: nobody has to look after it any more.
    Seal,
    /// No more than so many of stable's instances are running; the others are stopped, and kept.
    ParkStable {
        /// How many go on.
        keep: u32,
    },
    /// The new version finished what it was asked, or the deadline passed.
    DrainNew,
    /// No instance of the new version is left.
    RetireNew,
}

impl Effect {
    /// Its word in the store.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::EnsureNew { .. } => "ensure_new",
            Self::EnsureStable => "ensure_stable",
            Self::Route { .. } => "route",
            Self::Seal => "seal",
            Self::ParkStable { .. } => "park_stable",
            Self::DrainNew => "drain_new",
            Self::RetireNew => "retire_new",
        }
    }
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Written down; whether it happened is not known.
    Intent,
    /// The target said that it happened.
    Applied,
}

/// The step under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// Which of the rollout's steps, from 0.
    pub number: u32,
    /// Which try of it, from 1.
    pub attempt: u32,
    /// What.
    pub effect: Effect,
    /// How far.
    pub status: StepStatus,
    /// Whose: the owner's fencing token.
    pub token: u64,
    /// The generation that it was given.
    pub generation: u64,
    /// When it was written down.
    pub intent_at: Timestamp,
    /// When the target said that it happened.
    pub applied_at: Option<Timestamp>,
}

/// Why a rollout pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseWhy {
    /// Somebody asked for it.
    #[default]
    Manual,
    /// The gates could not say, and a person must.
    Inconclusive,
    /// Nothing can be seen.
    Blind,
    /// The step says that a person must agree before the next one.
    Approval,
    /// Somebody else changed what carries the traffic.
    Foreign,
}

/// A pause under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Where it goes on.
    pub from: Phase,
    /// Since when.
    pub since: Timestamp,
    /// When it ends the rollout.
    pub deadline: Timestamp,
    /// Why.
    #[serde(default)]
    pub why: PauseWhy,
}

/// A rollout's state between two decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it stands.
    pub phase: Phase,
    /// Which step of the plan.
    pub step_idx: u32,
    /// When it came into this phase.
    pub entered_at: Timestamp,
    /// When a step was last verified.
    pub progress_at: Timestamp,
    /// The step under way.
    pub step: Option<StepState>,
    /// Steps written down so far.
    pub steps_begun: u32,
    /// The version that held the traffic when the lock was taken.
    pub stable: Option<String>,
    /// An intent to give the new version traffic was written: from here on the way back is through
    /// the router.
    pub traffic_touched: bool,
    /// The pause under way.
    pub pause: Option<Pause>,
    /// Why it is going back, or ended.
    pub reason: Option<String>,
    /// Hosts that cannot be reached, or could not when it ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostTrouble>,
}

/// A move to another phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Where to.
    pub phase: Phase,
    /// Which step of the plan.
    pub step_idx: u32,
    /// Why; `None` keeps the reason that is there.
    pub reason: Option<String>,
    /// Resolved when the lock was taken.
    pub stable: Option<Option<String>>,
    /// Why it pauses.
    pub pause: PauseWhy,
    /// The lock goes to the next in line.
    pub release_lock: bool,
    /// The wish that led here is fulfilled.
    pub wish_done: bool,
}

impl Transition {
    /// To `phase`, at the same step, for no new reason.
    #[must_use]
    pub fn to(phase: Phase, step_idx: u32) -> Self {
        Self {
            phase,
            step_idx,
            reason: None,
            stable: None,
            pause: PauseWhy::Manual,
            release_lock: phase.is_terminal(),
            wish_done: false,
        }
    }

    /// With a reason.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl State {
    /// A rollout that was just stored.
    #[must_use]
    pub fn planned(now: Timestamp) -> Self {
        Self {
            phase: Phase::Planned,
            step_idx: 0,
            entered_at: now,
            progress_at: now,
            step: None,
            steps_begun: 0,
            stable: None,
            traffic_touched: false,
            pause: None,
            reason: None,
            hosts: Vec::new(),
        }
    }

    /// After `transition`.
    #[must_use]
    pub fn entered(&self, transition: &Transition, now: Timestamp, pause_ms: u64) -> Self {
        let mut next = self.clone();
        next.phase = transition.phase;
        next.step_idx = transition.step_idx;
        next.step = None;
        // A step that is retried within its own wait keeps the time it has used.
        let resumed = self
            .pause
            .as_ref()
            .filter(|pause| pause.from == transition.phase);
        next.entered_at = match resumed {
            Some(pause) => self.entered_at.after(now.since(pause.since)),
            None if transition.phase == Phase::Paused => self.entered_at,
            None if transition.phase == Phase::Held => self.entered_at,
            None => now,
        };
        next.pause = (transition.phase == Phase::Paused).then(|| Pause {
            from: self.phase,
            since: now,
            deadline: now.after(Duration::from_millis(pause_ms)),
            why: transition.pause,
        });
        next.progress_at = now;
        if let Some(stable) = &transition.stable {
            next.stable.clone_from(stable);
        }
        if let Some(reason) = &transition.reason {
            next.reason = Some(reason.clone());
        }
        next
    }

    /// After the intent to do `effect` (P1).
    #[must_use]
    pub fn intended(&self, effect: Effect, token: u64, generation: u64, now: Timestamp) -> Self {
        let mut next = self.clone();
        let again = self.step.as_ref().filter(|step| step.effect == effect);
        let number = again.map_or(self.steps_begun, |step| step.number);
        next.step = Some(StepState {
            number,
            attempt: again.map_or(1, |step| step.attempt.saturating_add(1)),
            effect,
            status: StepStatus::Intent,
            token,
            generation,
            intent_at: now,
            applied_at: None,
        });
        next.steps_begun = self.steps_begun.max(number.saturating_add(1));
        if self.phase == Phase::VerifyBack {
            next.phase = Phase::ShiftBack;
        }
        if matches!(effect, Effect::Route { new_bp } if new_bp > 0) {
            next.traffic_touched = true;
        }
        next
    }

    /// After the target said that the step happened (P4).
    #[must_use]
    pub fn applied(&self, now: Timestamp) -> Self {
        let mut next = self.clone();
        if let Some(step) = &mut next.step {
            step.status = StepStatus::Applied;
            step.applied_at = Some(now);
            if self.phase == Phase::ShiftBack && matches!(step.effect, Effect::Route { .. }) {
                next.phase = Phase::VerifyBack;
            }
        }
        next
    }

    /// After the read-back of a step that leads to no other phase (P5).
    #[must_use]
    pub fn verified(&self, now: Timestamp) -> Self {
        let mut next = self.clone();
        next.step = None;
        next.progress_at = now;
        next
    }
}
