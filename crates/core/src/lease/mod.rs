//! WHO may execute a stage, and until when.
//!
//! The dispatcher's side is [`grantor`], the agent's is `holder`; [`fence`] says whose report counts, and [`rogue`] which agent gets nothing more. Both live by monotonic time alone:
//! a jump of a wall clock ends and extends nothing. SQL keeps ownership; deadlines live here, and
//! are made anew after a start. The agent counts from the *sending* of its last answered renewal, so
//! that it always believes less than the dispatcher does.

pub mod fence;
pub mod grantor;
pub mod holder;
pub mod rogue;
pub mod terms;

#[cfg(test)]
mod together_tests;
