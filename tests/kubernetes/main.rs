//! What speaks to a cluster, against a real API server with its real controllers: `make kubernetes`.
//!
//! Every test is marked as ignored, so that `cargo test` compiles it and passes it over aloud: the control
//! plane takes minutes to build. None is ever skipped once it was asked for.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod contract;
mod control_plane;
mod coordinator;
mod described;
mod executed;
mod fleet;
mod gateway;
mod manifests;
mod node;
#[expect(dead_code, reason = "shared with the suite that needs more of it")]
#[path = "../e2e/place.rs"]
mod place;
mod rights;
mod rollouts;
#[path = "../../deploy/tests/contract/suites.rs"]
mod suites;

const ZERO: &str = "0000000000000000000000000000000000000000";

fn binary() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_BIN_EXE_slipway-under-test"))
}

/// What the repository ships for a cluster.
fn shipped(file: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = root.join("deploy/packaging").join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
