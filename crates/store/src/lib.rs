//! All SQL, for SQLite (the embedded default) and PostgreSQL (several dispatchers).
//!
//! One method = one transaction. Every state change carries its precondition in `WHERE` and answers
//! with what happened; the fence is checked by the statement that writes, not by its caller. Nothing
//! is decided here, but one thing: inside the transaction that ends a stage, `core::build::advance`
//! is asked what follows, so that a stage and its dependants change together or not at all.
//!
//! There are no traits by aggregate yet: `Db` is one type over both engines, and the conformance
//! suite runs on both. Logs and artifacts never go into SQL.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

mod access;
mod agents;
mod announce;
mod artifacts;
mod audit;
mod builds;
mod cancels;
mod creation;
mod creations;
mod db;
mod durability;
mod environments;
mod error;
mod finish;
mod flags;
mod fleet;
mod gate_ticks;
mod groups;
mod inbox;
mod leaders;
mod locks;
mod lookups;
mod losses;
mod memo;
mod migrate;
mod peers;
mod queue;
mod repositories;
mod results;
mod rollout_changes;
mod rollout_health;
mod rollouts;
mod sql;
mod versions;
mod writer;

pub use access::{IdempotencyClaim, TokenRow};
pub use agents::{AgentRow, EndedAttempt, JoinOutcome, NewPeer};
pub use announce::{ANNOUNCEMENT_MAX, Announcements};
pub use artifacts::{ArtifactRow, NewArtifact, NewReport, ReportRow};
pub use audit::{AuditEntry, AuditRow};
pub use builds::{BuildFilter, BuildRow, Created, LayerRow, NewBuild, NewStage, StageRow};
pub use cancels::ToTell;
pub use db::{Db, Settings};
pub use environments::{EnvironmentRow, ServiceRow};
pub use error::StoreError;
pub use flags::FlagRow;
pub use fleet::{MachineRow, PoolRow};
pub use gate_ticks::GateTickRow;
pub use inbox::{Delivery, NewDelivery, Recorded};
pub use leaders::LeaderRow;
pub use locks::LockRow;
pub use losses::Loss;
pub use memo::{Decided, Memo, OutcomeRow};
pub use peers::{AuthorityRow, PeerRow};
pub use queue::{Assignment, LiveStage, QueueRow};
pub use repositories::{HookRow, RepositoryRow, ScheduleRow};
pub use results::{Acceptance, AttemptResult, AttemptRow, BuildChange, Finished};
pub use rollout_changes::{Ending, RolloutChange};
pub use rollout_health::RolloutHealthRow;
pub use rollouts::{
    ApprovalRow, Begun, NewRollout, NewVersion, RolloutEventRow, RolloutFilter, RolloutRow, StepRow,
};
pub use sql::{Arg, Rows};
pub use versions::VersionRow;
pub use writer::{Standing, Tx};
