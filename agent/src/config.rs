//! The agent's settings.

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
