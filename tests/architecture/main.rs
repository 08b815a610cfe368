//! The rules of the house that the compiler cannot hold: who may import whom, where vendor crates
//! live, how long a file may be, which words name nothing.

mod crates;
mod files;
mod routes;
mod wire;

use std::path::PathBuf;

/// The root of the repository.
fn root() -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map(PathBuf::from).unwrap_or(tests)
}
