//! Settings of the router.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::tls::TlsConfig;

const DEFAULTS: &str = include_str!("../default-config.toml");

/// Settings of the router; see `default-config.toml`.
#[derive(Clone, Deserialize)]
pub struct Config {
    /// Folder of the state file.
    pub state_dir: PathBuf,
    /// Control socket; empty = `<state_dir>/router.sock`.
    pub control_socket: PathBuf,
    /// Control over mutual TLS, for a coordinator on another host; empty = none.
    pub control_address: String,
    /// The dispatcher, `https://host:port`: gives this router its certificate.
    pub dispatcher: String,
    /// Redeemed once, at the first start.
    pub join_token: String,
    /// Health and metrics; empty = none.
    pub health_address: String,
    /// What a collector of metrics on another host brings; empty = only this host is told them.
    pub metrics_token: String,
    /// A line per request; empty = none.
    pub access_log: PathBuf,
    /// Certificates of listeners that speak TLS.
    pub tls: Vec<TlsConfig>,
    /// Threads that carry traffic; 0 = one per core.
    pub threads: usize,
    /// What it bears.
    pub limits: Limits,
}

/// Shows no token.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("state_dir", &self.state_dir)
            .field("control_address", &self.control_address)
            .finish_non_exhaustive()
    }
}

/// What the router bears.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Limits {
    /// Client connections at once.
    pub connections: usize,
    /// Requests in flight per service.
    pub in_flight: u64,
    /// For a request head, and for a TLS handshake.
    pub header_timeout_ms: u64,
    /// For an HTTP/2 connection without a request.
    pub idle_timeout_ms: u64,
    /// For a connection to an instance.
    pub connect_timeout_ms: u64,
    /// For long-lived connections of a version without weight.
    pub long_lived_grace_ms: u64,
    /// For requests in flight when the router stops.
    pub stop_ms: u64,
}

impl Config {
    /// Defaults, then the file, then `SLIPWAY_ROUTER_…`.
    ///
    /// # Errors
    /// When a source cannot be used.
    pub fn load(file: Option<&Path>) -> Result<Self, slipway_daemon::config::ConfigError> {
        slipway_daemon::config::load(DEFAULTS, file, "ROUTER")
    }

    /// The defaults, with state and socket below `dir` and no health port: what `slipway up` and
    /// tests start from.
    ///
    /// # Panics
    /// Never: the embedded defaults are valid (a test reads them).
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        let mut config: Self =
            toml_defaults().unwrap_or_else(|error| unreachable!("embedded defaults: {error}"));
        dir.clone_into(&mut config.state_dir);
        config.health_address = String::new();
        config
    }

    /// Where the control socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        if self.control_socket.as_os_str().is_empty() {
            self.state_dir.join("router.sock")
        } else {
            self.control_socket.clone()
        }
    }
}

fn toml_defaults() -> Result<Config, slipway_daemon::config::ConfigError> {
    // A prefix that no variable has: the defaults as they are.
    slipway_daemon::config::load(DEFAULTS, None, "_DEFAULTS_ONLY_")
}

impl Limits {
    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
    pub(crate) fn long_lived_grace(&self) -> Duration {
        Duration::from_millis(self.long_lived_grace_ms)
    }
    pub(crate) fn stop(&self) -> Duration {
        Duration::from_millis(self.stop_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_defaults_read() {
        let config = Config::in_dir(Path::new("/tmp/x"));
        assert_eq!(config.socket(), Path::new("/tmp/x/router.sock"));
        assert_eq!(config.limits.in_flight, 4_096);
    }
}
