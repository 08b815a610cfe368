//! The whole system: stories through one process with fakes, and through real processes that are
//! killed in the middle of their work.

mod away;
mod borders;
mod caches;
mod crash;
mod declining;
mod dependencies;
mod described;
mod disk;
mod fleet;
mod fleet_docker;
mod full;
mod ha;
mod history;
mod hosts;
mod intake;
mod keyed;
mod live;
mod memo;
mod mixed;
mod nemesis;
mod own_gates;
mod place;
mod power;
mod remote;
mod rollout;
mod stalled;
mod stories;
mod storm;

use std::path::Path;

/// The real binary.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_slipway-under-test"))
}

const ZERO: &str = "0000000000000000000000000000000000000000";
