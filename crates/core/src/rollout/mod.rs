//! What step of a rollout comes next, or back.
//!
//! Owns the phases, the step protocol (intent → effect → applied → read back → verified), the lock
//! of a service in an environment, and what follows from what the gates say. Does not own clocks,
//! stores, targets or routers: [`plan`] looks at a snapshot and says one thing to do; the driver
//! persists it, then does it, then asks again. Asking too often is harmless.
//!
//! Invariants: nothing outside is touched without a stored intent; only a read-back lets a rollout
//! go on; what was not observed is never taken for good; after traffic was touched the only ends are
//! the new version proven or the stable one back; nobody acts without the lock.

mod decide;
mod explain;
mod freeze;
mod hosts;
mod judge;
mod lock;
mod phase;
mod snapshot;
mod spec;
mod state;

pub use decide::plan;
pub use explain::explain;
pub use freeze::{Freeze, check_freezes, frozen};
pub use hosts::{
    Agreed, HOSTS_AT_ONCE, HOSTS_MAX, HostTrouble, HostView, Standing, agreed, at_host, host_of,
    replicas_at, share_of, standing, table_of, troubles, unheard, wanted_at,
};
pub use judge::{Windows, instances_at, judge_gates, judge_recorded, parked_to};
pub use lock::{
    HEARTBEAT, Held, LOCK_TTL, LockAnswer, SAFETY_MARGIN, WAIT_LIMIT, Waiter, ask, is_lost,
};
pub use phase::{Phase, UnknownPhase};
pub use snapshot::{
    Health, InstanceView, LockView, Needs, Next, Observed, Plan, Refusal, Smoke, Snapshot,
    TargetView, TrafficView, Wish, needs,
};
pub use spec::{
    Facts, Kind, PlanError, RolloutPlan, Step, Timings, VersionSpec, is_pinned, pinned_digest,
};
pub use state::{Effect, Pause, PauseWhy, State, StepState, StepStatus, Transition};

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod rollback_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod world;
