//! What a decision is made from, and what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hosts::HostView;
use super::phase::Phase;
use super::spec::RolloutPlan;
use super::state::{Effect, State, Transition};
use crate::access::Judgement;
use crate::gate::GateReport;
use crate::time::Timestamp;
use crate::traffic::Fence;

/// What a person asked of a rollout under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wish", rename_all = "snake_case")]
pub enum Wish {
    /// End it; go back when traffic was touched.
    Abort {
        /// Why.
        reason: String,
    },
    /// Stop moving.
    Pause {
        /// Why.
        reason: String,
    },
    /// Go on.
    Resume,
    /// End this bake or watch now.
    Promote {
        /// And every step that is left.
        #[serde(default)]
        full: bool,
    },
}

/// The lock, from this deployment's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockView {
    /// Not asked for, or waiting.
    NotMine,
    /// Waited too long.
    TimedOut,
    /// Ours until then.
    Mine {
        /// When it runs out.
        expires_at: Timestamp,
    },
    /// It was ours; somebody else resolves this rollout now, or our own clock says that it may be so.
    Lost,
}

/// One instance at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// Its name.
    pub id: String,
    /// `host:port`; `None` while it is not running.
    pub address: Option<String>,
    /// How often it ended by itself and was started again.
    pub exits: u64,
    /// Whether the last time was for want of memory.
    pub oom: bool,
}

/// What the target says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetView {
    /// Instances of the new version, running or not.
    pub new: Vec<InstanceView>,
    /// Instances of stable, running or not.
    pub stable: Vec<InstanceView>,
}

impl TargetView {
    /// How many of `instances` are running.
    #[must_use]
    pub fn running(instances: &[InstanceView]) -> usize {
        instances
            .iter()
            .filter(|instance| instance.address.is_some())
            .count()
    }
}

/// What the router says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficView {
    /// The fence of the table in use.
    pub fence: Fence,
    /// Weights in use.
    pub weights: BTreeMap<String, u32>,
    /// The new version keeps its weight only while somebody looks after it.
    pub leased: bool,
    /// Why the router took the new version out by itself.
    pub tripped: Option<String>,
    /// Hosts whose routers answer, and use another table than the others.
    pub apart: Vec<String>,
}

/// What health checks say about the new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Every instance has its passes, since this long.
    pub ready_for: Option<Duration>,
    /// Instances that failed three times in a row.
    pub failing: u32,
    /// The last thing that went wrong.
    pub detail: String,
}

/// What the smoke checks say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Smoke {
    /// Every check passed.
    Passed,
    /// One did not.
    Failed(String),
}

/// What was seen of the world. `None` = not known, which is never taken for good.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The target.
    pub target: Option<TargetView>,
    /// The router.
    pub traffic: Option<TrafficView>,
    /// For how long the router has not been readable.
    pub blind_for: Duration,
    /// What the gates say of this bake or watch.
    pub gates: Option<GateReport>,
    /// Health of the new version.
    pub health: Option<Health>,
    /// Smoke checks.
    pub smoke: Option<Smoke>,
    /// The target refuses the present step again and again.
    pub refused: Option<Refusal>,
    /// The hosts, where there are several.
    pub hosts: Vec<HostView>,
    /// Some routers took the table of this step and others did not.
    pub partial: Option<String>,
}

/// What the target says no to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For how long it has, without a yes between.
    pub lasting: Duration,
    /// Its reason.
    pub why: String,
}

/// Which parts of the world a decision in this state looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The target.
    pub target: bool,
    /// The router.
    pub traffic: bool,
    /// Health of the new version.
    pub health: bool,
    /// Smoke checks.
    pub smoke: bool,
}

/// Says what must be observed before the next decision.
#[must_use]
pub fn needs(state: &State) -> Needs {
    let mut needs = Needs::default();
    match state.phase {
        Phase::Prepare | Phase::Clean => needs.target = true,
        Phase::Warm => needs.health = true,
        Phase::Smoke => needs.smoke = true,
        Phase::Shift | Phase::ShiftBack | Phase::VerifyBack | Phase::Held => {
            needs.target = true;
            needs.traffic = true;
        }
        Phase::Bake | Phase::Watch | Phase::Paused => {
            needs.traffic = true;
            needs.health = true;
        }
        _ => {}
    }
    needs
}

/// Everything a decision is made from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The plan.
    pub plan: RolloutPlan,
    /// The stored state.
    pub state: State,
    /// The stored fencing token.
    pub token: u64,
    /// What a person asked.
    pub wish: Option<Wish>,
    /// The lock.
    pub lock: LockView,
    /// The approvals, judged now.
    pub approval: Judgement,
    /// The plan changed since it was stored (its hash differs now).
    pub plan_changed: bool,
    /// Why this environment may not be entered (the digest did not succeed where it must first).
    pub barred: Option<String>,
    /// That may still change by itself: the rollout that must succeed first is under way.
    pub awaited: bool,
    /// Why nothing may start here now.
    pub frozen: Option<String>,
    /// The version that was last proven good here.
    pub good_version: Option<String>,
    /// What was seen.
    pub observed: Observed,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until `wake_at`.
    Wait,
    /// Store the move to another phase.
    Enter(Transition),
    /// Ask the store for the lock.
    AskLock,
    /// Store the intent to do this, with a new generation.
    Intend(Effect),
    /// Do this, under the stored fence; store that it was done.
    Call(Effect),
    /// Store that the step was read back, and move on.
    Verified(Option<Transition>),
    /// Stop acting: somebody else owns this rollout.
    Stop,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub next: Next,
    /// Why, for people.
    pub report: String,
    /// When to ask again at the latest.
    pub wake_at: Timestamp,
}
