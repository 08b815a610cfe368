//! The profiles: how much a stage's container may. No profile is privileged or sees the engine.

use std::collections::BTreeMap;

use slipway_core::pipeline::Sandbox as Profile;
use slipway_docker::{Limits, Security};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// The user of strict stages: no user of the host.
const NOBODY: u32 = 65_532;

/// Limits, rights, memory file systems and user of a profile.
pub struct Confinement {
    /// Resource limits.
    pub limits: Limits,
    /// What it may.
    pub security: Security,
    /// Bytes on the host's disk: the workspace and the container's own layer.
    pub disk_bytes: u64,
    /// Memory file systems.
    pub tmpfs: BTreeMap<String, String>,
    /// `uid:gid`; `None` = the image's.
    pub user: Option<String>,
}

/// What a profile comes to.
#[must_use]
pub fn confine(profile: Profile) -> Confinement {
    let mut confinement = match profile {
        Profile::Strict => strict(),
        // What `trusted` adds is named by an administrator per project; none is named yet.
        Profile::Standard | Profile::Trusted => standard(),
    };
    // An engine cannot give more open files than this host allows (a nested one allows less).
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if let Some(allowed) = allowed {
        confinement.limits.nofile = confinement.limits.nofile.min(allowed);
    }
    confinement
}

/// The user that a profile executes as, when it is not the image's own.
#[must_use]
pub(crate) fn stage_user(profile: Profile) -> Option<u32> {
    (profile == Profile::Strict).then_some(NOBODY)
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn strict() -> Confinement {
    Confinement {
        limits: Limits {
            memory_bytes: 2 * GIB,
            nano_cpus: 1_000_000_000,
            pids: 512,
            shm_bytes: 64 * MIB,
            nofile: 4_096,
            oom_score_adj: Some(800),
        },
        security: Security {
            cap_drop: words(&["ALL"]),
            cap_add: Vec::new(),
            options: words(&["no-new-privileges:true"]),
            read_only_root: true,
            init: true,
        },
        disk_bytes: 10 * GIB,
        tmpfs: BTreeMap::from([
            (
                "/tmp".to_owned(),
                "rw,nosuid,nodev,size=1g,mode=1777".to_owned(),
            ),
            (
                "/run".to_owned(),
                "rw,nosuid,nodev,noexec,size=64m".to_owned(),
            ),
        ]),
        user: Some(format!("{NOBODY}:{NOBODY}")),
    }
}

fn standard() -> Confinement {
    Confinement {
        limits: Limits {
            memory_bytes: 4 * GIB,
            nano_cpus: 2_000_000_000,
            pids: 4_096,
            shm_bytes: 64 * MIB,
            nofile: 65_536,
            oom_score_adj: Some(500),
        },
        security: Security {
            cap_drop: words(&["ALL"]),
            // The five that installing packages as root needs.
            cap_add: words(&["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID"]),
            options: words(&["no-new-privileges:true"]),
            read_only_root: false,
            init: true,
        },
        disk_bytes: 20 * GIB,
        tmpfs: BTreeMap::new(),
        user: None,
    }
}
