//! Settings of the cache daemon.

use std::path::PathBuf;

use serde::Deserialize;

/// Settings; their meaning is in `default-config.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where blobs and the index live.
    pub directory: PathBuf,
    /// The unix socket for the agent.
    pub socket: PathBuf,
    /// Bytes on disk that the store may take; 0 = chosen by the size of the file system.
    pub quota_bytes: u64,
    /// Health and metrics; empty = none.
    pub health_address: String,
    /// What a collector of metrics on another host brings; empty = only this host is told them.
    pub metrics_token: String,
}
