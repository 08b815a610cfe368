//! Text → checked plan: the pipeline file `.slipway.yml`.
//!
//! Owns the grammar, its limits and every message about a mistake in it. Reads no file and knows no
//! commit: text and facts come in as arguments. Invariant: a plan that leaves this module is valid
//! (names, needs, counts and durations are in range, the graph has no cycle).

pub mod plan;

pub use plan::*;
