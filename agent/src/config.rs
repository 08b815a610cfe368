//! The agent's settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The commented defaults, printed by `--print-default-config`.
pub const DEFAULTS: &str = include_str!("default-config.toml");

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
    /// Health and metrics; empty = none.
    pub health_address: String,
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
