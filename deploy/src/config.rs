//! Settings of the coordinator.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use slipway_store::Settings;

const DEFAULTS: &str = include_str!("../default-config.toml");

/// Settings of the coordinator; see `default-config.toml`.
#[derive(Clone, Deserialize)]
pub struct Config {
    /// A file, or `postgres://…`.
    pub database: String,
    /// Who this node is.
    pub state_dir: PathBuf,
    /// The API.
    pub listen: String,
    /// The dispatcher, `https://host:port`: gives this coordinator its certificate.
    pub dispatcher: String,
    /// Redeemed once, at the first start.
    pub join_token: String,
    /// Health and metrics; empty = none.
    pub health_address: String,
    /// What a collector of metrics on another host brings; empty = only this host is told them.
    pub metrics_token: String,
    /// What a rollout takes when the file does not say.
    pub defaults: Defaults,
}

/// Shows no token.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

/// What a rollout takes when the pipeline file does not say.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Defaults {
    /// Passes in a row.
    pub warm_passes: u32,
    /// All instances ready within this.
    pub warm_deadline_ms: u64,
    /// And stay ready for this long.
    pub min_ready_ms: u64,
    /// For the first byte of an answer.
    pub upstream_timeout_ms: u64,
    /// For an instance to stop.
    pub stop_ms: u64,
    /// How often counters are read while gates look.
    pub tick_ms: u64,
}

impl Config {
    /// Defaults, then the file, then `SLIPWAY_COORDINATOR_…`.
    ///
    /// # Errors
    /// When a source cannot be used.
    pub fn load(file: Option<&Path>) -> Result<Self, slipway_daemon::config::ConfigError> {
        slipway_daemon::config::load(DEFAULTS, file, "COORDINATOR")
    }

    /// The defaults, with everything below `dir`, no health port, and an API port that the system
    /// chooses: what `slipway up` and tests start from.
    ///
    /// # Panics
    /// Never: the embedded defaults are valid (a test reads them).
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        let read = slipway_daemon::config::load(DEFAULTS, None, "_DEFAULTS_ONLY_");
        let mut config: Self =
            read.unwrap_or_else(|error| unreachable!("embedded defaults: {error}"));
        config.database = dir.join("slipway.db").display().to_string();
        config.state_dir = dir.join("coordinator");
        config.health_address = String::new();
        config.listen = "127.0.0.1:0".to_owned();
        config
    }

    /// The database as the store opens it.
    #[must_use]
    pub fn settings(&self) -> Settings {
        if self.database.starts_with("postgres://") || self.database.starts_with("postgresql://") {
            Settings::Postgres(self.database.clone())
        } else {
            Settings::Sqlite(PathBuf::from(&self.database))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_defaults_read() {
        let config = Config::in_dir(Path::new("/tmp/x"));
        assert!(
            matches!(config.settings(), Settings::Sqlite(path) if path.ends_with("slipway.db"))
        );
        assert_eq!(config.defaults.warm_passes, 3);
    }
}
