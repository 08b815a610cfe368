//! What is said between a dispatcher and its agents.

use slipway_core::build::StageState;
use slipway_core::lease::grantor::Attempt;

#[derive(Clone, Debug)]
pub(crate) enum ToDispatcher {
    /// The number of its stream, its slots, and every attempt on its disk.
    Hello(u32, u32, Vec<Attempt>),
    Renew(Vec<Attempt>),
    Taken(Attempt),
    Prepared(Attempt),
    Progress(Attempt),
    Result(Attempt, StageState, String),
}

#[derive(Clone, Debug)]
pub(crate) enum ToAgent {
    /// What it goes on with.
    Welcome(Vec<Attempt>),
    /// An attempt, and whether it waits for the word to go.
    Assign(Attempt, bool),
    Go(Attempt),
    /// What it named and does not hold.
    Renewed(Vec<Attempt>),
    /// Answered, however: the agent may forget it.
    Ack(Attempt),
}
