//! The proof that is left behind: good for as long as what was probed is what executes stages.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use slipway_core::digest::Digest;
use slipway_core::pipeline::Sandbox as Profile;
use slipway_core::time::Timestamp;

use crate::sandbox::EngineSaid;
use crate::sandbox::profile::confine;

/// Below the agent's folder.
const FILE: &str = "probe.json";

/// What was proven, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Whether the strict profile holds.
    pub strict: bool,
    engine: String,
    /// Whether the engine remapped users: switching that off later is another sandbox.
    user_namespaces: bool,
    kernel: String,
    agent: String,
    /// Digest of the profiles' settings.
    profiles: String,
    /// For people.
    at_ms: i64,
}

/// What executes stages here, now.
fn kernel() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

fn profiles() -> String {
    let text: String = [Profile::Strict, Profile::Standard]
        .map(|profile| {
            let c = confine(profile);
            format!("{:?}{:?}{:?}{:?}", c.limits, c.security, c.tmpfs, c.user)
        })
        .concat();
    Digest::of(text.as_bytes()).to_string()
}

impl Proof {
    pub(super) fn new(engine: &EngineSaid, strict: bool, now: Timestamp) -> Self {
        Self {
            strict,
            engine: engine.version.clone(),
            user_namespaces: engine.user_namespaces,
            kernel: kernel(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            profiles: profiles(),
            at_ms: now.as_millis(),
        }
    }

    fn path(dir: &Path) -> PathBuf {
        dir.join(FILE)
    }

    pub(super) fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let beside = Self::path(dir).with_extension("new");
        std::fs::write(&beside, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&beside, Self::path(dir))?;
        Ok(())
    }

    /// Whether the strict profile is proven for this engine, kernel and version. A file that is not
    /// there, cannot be read, or is of something else, proves nothing.
    #[must_use]
    pub fn of_strict(dir: &Path, engine: &EngineSaid) -> bool {
        let Ok(bytes) = std::fs::read(Self::path(dir)) else {
            return false;
        };
        let Ok(kept) = serde_json::from_slice::<Self>(&bytes) else {
            return false;
        };
        let now = Self::new(engine, kept.strict, Timestamp::from_millis(kept.at_ms));
        kept.strict && kept == now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(version: &str, user_namespaces: bool) -> EngineSaid {
        EngineSaid {
            version: version.to_owned(),
            buildkit: true,
            reproducible_images: true,
            user_namespaces,
        }
    }

    #[test]
    fn a_proof_is_good_for_what_was_probed_and_for_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (probed, at) = (engine("26.1", true), Timestamp::from_millis(5));
        assert!(!Proof::of_strict(dir.path(), &probed), "nothing was probed");
        Proof::new(&probed, true, at).save(dir.path()).unwrap();
        assert!(Proof::of_strict(dir.path(), &probed));
        for other in [engine("27.0", true), engine("26.1", false)] {
            assert!(!Proof::of_strict(dir.path(), &other), "{other:?}");
        }
        Proof::new(&probed, false, at).save(dir.path()).unwrap();
        assert!(!Proof::of_strict(dir.path(), &probed), "it did not hold");
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(!Proof::of_strict(dir.path(), &probed), "unreadable");
    }
}
