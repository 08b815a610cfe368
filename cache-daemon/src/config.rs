//! Settings of the cache daemon.

use std::net::SocketAddr;
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
    /// The dispatchers that say who this daemon is, `https://host:port` each; empty = it has no
    /// dealings with other daemons.
    pub dispatcher: String,
    /// Redeemed once for this daemon's certificate.
    pub join_token: String,
    /// A display name.
    pub name: String,
    /// Where other daemons are answered, UDP and TCP.
    pub peers_address: SocketAddr,
    /// What others are told instead, `host:port`; empty = `peers_address`.
    pub peers_advertise: String,
    /// Health and metrics; empty = none.
    pub health_address: String,
    /// What a collector of metrics on another host brings; empty = only this host is told them.
    pub metrics_token: String,
}
