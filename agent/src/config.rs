//! The agent's settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The commented defaults, printed by `--print-default-config`.
pub const DEFAULTS: &str = include_str!("default-config.toml");

/// What the dispatcher takes of one log.
const LOG_LIMIT_MAX_MIB: u64 = 256;

/// Settings as read.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Held attempts, workspaces, spooled output, credential.
    pub data_dir: PathBuf,
    /// gRPC address of the dispatcher.
    pub dispatcher: String,
    /// Redeemed once.
    pub join_token: String,
    /// Shown to people; empty = the host's name.
    pub name: String,
    /// Attempts at once; 0 = one per processor.
    pub slots: u32,
    /// Socket of the Docker engine; empty = the usual place.
    pub docker: String,
    /// Socket of the cache daemon.
    pub cache: PathBuf,
    /// Repository addresses allowed besides https and ssh.
    pub allowed_sources: Vec<String>,
    /// Private addresses, with ports, that stages may reach.
    pub allowed_addresses: Vec<String>,
    /// What `slipway doctor --agent` probes the sandbox with: an image with busybox's tools.
    pub probe_image: String,
    /// Whether code from outside may be executed by an engine without user namespaces.
    pub without_user_namespaces: bool,
    /// Most memory of a stage's container, MiB; 0 = what its sandbox says.
    pub memory_mib: u64,
    /// Most that a stage has on the disk, MiB; 0 = what its sandbox says.
    pub disk_mib: u64,
    /// Most output of one attempt, MiB.
    pub log_limit_mib: u64,
    /// Health and metrics; empty = none.
    pub health_address: String,
    /// What a collector of metrics on another host brings; empty = only this host is told them.
    pub metrics_token: String,
    /// Logins by image registry host.
    pub registries: BTreeMap<String, LoginSetting>,
    /// Amazon ECR registries, whose passwords are fetched and renewed.
    pub ecr: Vec<EcrSetting>,
}

/// Login for one image registry. Shows no password.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginSetting {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for LoginSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoginSetting(..)")
    }
}

/// One ECR registry; keys come from the environment's usual chain.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EcrSetting {
    /// Host in image references.
    pub host: String,
    /// Region.
    pub region: String,
    /// Another address of the service; empty = the region's own.
    #[serde(default)]
    pub endpoint: String,
}

impl Config {
    /// The dispatchers' addresses.
    #[must_use]
    pub(crate) fn dispatchers(&self) -> Vec<String> {
        let all = self.dispatcher.split(',').map(str::trim);
        all.filter(|address| !address.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// The most output of one attempt, bytes.
    ///
    /// # Errors
    /// When the setting is out of its range.
    pub(crate) fn log_limit(&self) -> anyhow::Result<u64> {
        let mib = self.log_limit_mib;
        anyhow::ensure!(
            (1..=LOG_LIMIT_MAX_MIB).contains(&mib),
            "`log_limit_mib` is {mib}: it must be from 1 to {LOG_LIMIT_MAX_MIB}"
        );
        Ok(mib << 20)
    }

    /// The most that a stage has on the disk, bytes.
    #[must_use]
    pub(crate) fn disk(&self) -> Option<u64> {
        (self.disk_mib > 0).then(|| self.disk_mib.saturating_mul(1 << 20))
    }

    /// The most memory of a stage's container, bytes.
    #[must_use]
    pub(crate) fn memory(&self) -> Option<u64> {
        (self.memory_mib > 0).then(|| self.memory_mib.saturating_mul(1 << 20))
    }

    /// Defaults, then the file, then `SLIPWAY_AGENT_…`.
    ///
    /// # Errors
    /// When a source cannot be used.
    pub fn load(file: Option<&Path>) -> Result<Self, slipway_daemon::config::ConfigError> {
        slipway_daemon::config::load(DEFAULTS, file, "AGENT")
    }

    /// The defaults with everything below `dir` and no health port: what `slipway up` and tests
    /// start from.
    ///
    /// # Panics
    /// Never: the embedded defaults are valid (a test reads them).
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        let read = slipway_daemon::config::load(DEFAULTS, None, "_DEFAULTS_ONLY_");
        let mut config: Self =
            read.unwrap_or_else(|error| unreachable!("embedded defaults: {error}"));
        config.data_dir = dir.to_owned();
        config.health_address = String::new();
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_defaults_read() {
        assert_eq!(Config::in_dir(Path::new("/tmp/x")).slots, 0);
    }
}
