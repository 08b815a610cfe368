//! What people and the dispatcher ask of rollouts: one file each.

mod approve;
mod facts;
mod follow_up;
mod from_file;
mod roll_back;
mod start_rollout;
mod steer;

use slipway_core::access::Refusal;
use slipway_core::rollout::PlanError;
use slipway_store::StoreError;

pub(crate) use approve::{approve, reject};
pub(crate) use follow_up::follow_up;
pub(crate) use roll_back::roll_back;
pub(crate) use start_rollout::{Start, start_rollout};
pub(crate) use steer::steer;

/// Why a command was refused. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Not allowed.
    #[error("`{who}` may not {what}; it needs {needed}")]
    MayNot {
        who: String,
        what: &'static str,
        needed: &'static str,
    },
    /// Another name than the caller's own.
    #[error(
        "approver_id names `{named}`, the token belongs to `{caller}`: approve with your own token"
    )]
    OtherName { named: String, caller: String },
    /// Not an approver of this one.
    #[error(transparent)]
    Approval(#[from] Refusal),
    /// A field that cannot be used.
    #[error("field `{0}` {1}")]
    Field(&'static str, String),
    /// A plan that must not start.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No such thing.
    #[error("no such {0}")]
    NoSuch(&'static str),
    /// The state of things forbids it: a reason in one word, and a sentence.
    #[error("{0}: {1}")]
    State(&'static str, String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Ours.
    #[error("{0:#}")]
    Internal(#[from] anyhow::Error),
}

/// Whether the same command may succeed later by itself.
fn later(refused: &Refused) -> bool {
    match refused {
        Refused::Store(error) => error.is_transient(),
        // Another environment that must come first may still be on its way.
        Refused::State(reason, _) => *reason == "staging_required",
        Refused::Internal(_) => true,
        _ => false,
    }
}
