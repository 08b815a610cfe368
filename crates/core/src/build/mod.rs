//! The life of a build: which stage may go on when another one ended, and what the build's status is.
//!
//! Owns the states and their transitions. Does not own placement (`queue`) or ownership (`lease`).
//! Invariant: a stage becomes ready only when every need of it ended well (I-22), and a state that
//! is final never changes.

mod advance;
pub mod critical;
mod outcome;
mod state;

pub use advance::{Need, RunsOn, StageView, Transition, advance};
pub use outcome::{
    Ending, LossPolicy, Outcome, after_loss, back_off_end, derive_outcome, retry_delay,
};
pub use state::{BuildStatus, StageState, UnknownState};
