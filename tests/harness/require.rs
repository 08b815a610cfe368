//! Services that a test needs and a machine may not have.
//!
//! A missing one skips the test, audibly: the lines go past the capture of the test harness. Where
//! `SLIPWAY_REQUIRE` lists the service, a skip is a failure.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

static SKIPPED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A service that is there.
#[derive(Clone, Debug)]
pub struct Available {
    /// The program that offers it.
    pub program: PathBuf,
}

/// The service `name` (`docker`, `postgres`, `registry`), or `None` after saying so.
///
/// # Panics
/// When `SLIPWAY_REQUIRE` lists the service and it is not there.
#[must_use]
pub fn require(name: &str) -> Option<Available> {
    let found = match name {
        "docker" => on_path("docker").filter(|_| docker_answers()),
        "postgres" => initdb(),
        "registry" => on_path("docker-registry"),
        "prometheus" => on_path("prometheus"),
        "git" => on_path("git"),
        _ => None,
    };
    if let Some(program) = found {
        return Some(Available { program });
    }
    assert!(
        !required(name),
        "SLIPWAY_REQUIRE lists {name}, which is not there"
    );
    skip(&format!("{name} not installed"));
    None
}

/// Says that something is not tested here, and lists what this suite skipped so far.
///
/// # Panics
/// Never.
pub fn skip(why: &str) {
    let mut skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    skipped.insert(why.to_owned());
    let all: Vec<&str> = skipped.iter().map(String::as_str).collect();
    let line = format!(
        "skipped: {why}\nskipped in this suite: {}\n",
        all.join(", ")
    );
    // Not `eprintln!`: that would be captured, and nobody would see it.
    let _closed = std::io::stderr().write_all(line.as_bytes());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test harness is its own main"
)]
fn required(name: &str) -> bool {
    std::env::var("SLIPWAY_REQUIRE")
        .unwrap_or_default()
        .split(',')
        .any(|word| word.trim() == name)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test harness is its own main"
)]
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|candidate| candidate.is_file())
}

fn docker_answers() -> bool {
    let mut info = Command::new("docker");
    info.args(["image", "inspect", "slipway-busybox:1"]);
    info.stdout(Stdio::null()).stderr(Stdio::null());
    info.status().is_ok_and(|status| status.success())
}

fn initdb() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter();
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin/initdb")))
        .filter(|candidate| candidate.is_file())
        .collect();
    found.sort();
    found.pop().or_else(|| on_path("initdb"))
}
