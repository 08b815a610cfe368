//! The dispatcher's settings.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use slipway_core::lease::terms::Terms;

/// The commented defaults, printed by `--print-default-config`.
pub const DEFAULTS: &str = include_str!("default-config.toml");

/// Settings as read.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Where mirrors, objects and the embedded database live.
    pub data_dir: PathBuf,
    /// Empty = SQLite below `data_dir`; otherwise a `postgres://` address.
    pub database: String,
    /// The installation's key; empty = below `data_dir`.
    pub key_file: PathBuf,
    /// REST and pages.
    pub rest_address: SocketAddr,
    /// Webhooks.
    pub intake_address: SocketAddr,
    /// gRPC for agents and operators.
    pub grpc_address: SocketAddr,
    /// How agents reach the gRPC address; empty = as it is.
    pub grpc_url: String,
    /// Whether to insist on a database that loses nothing with one machine.
    pub high_availability: bool,
    /// Whether to start all the same where it may lose acknowledged work.
    pub accept_loss: bool,
    /// Health and metrics.
    pub health_address: SocketAddr,
    /// What a collector of metrics on another host brings; empty = only this host is told them.
    pub metrics_token: String,
    /// How people reach this installation.
    pub public_url: String,
    /// The coordinator's gRPC address; empty = nothing is deployed.
    pub coordinator: String,
    /// What renders charts: its path, or its name.
    pub helm: String,
    /// Repository addresses allowed besides https and ssh.
    pub allowed_sources: Vec<String>,
    /// How often refs are compared, seconds; 0 = never.
    pub reconcile_seconds: u64,
    /// How long an agent may be silent before what it holds is lost, seconds.
    pub lease_seconds: u64,
    /// Object storage.
    pub objects: ObjectsConfig,
    /// How pools of agents are started.
    pub fleet: FleetConfig,
}

/// How pools of agents are started. What an administrator of this host allows; pools themselves are
/// made over the API.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct FleetConfig {
    /// How agents reach this dispatcher; empty = its own gRPC address.
    pub dispatcher: String,
    /// Folders of process and docker agents; empty = below `data_dir`.
    pub directory: PathBuf,
    /// What is started as a process agent; empty = this program.
    pub command: Vec<String>,
    /// Socket of the Docker engine that agents are started on; empty = the usual place.
    pub docker: String,
    /// Programs that `exec` pools may name.
    pub programs: Vec<String>,
    /// Beginnings of addresses that `webhook` pools may name.
    pub webhooks: Vec<String>,
    /// Settings of every agent of a pool, wherever it is started.
    pub every_agent: toml::Table,
    /// Settings of every agent that is started on this host.
    pub agent: toml::Table,
}

/// Where objects live.
#[derive(Clone, Debug, Deserialize)]
pub struct ObjectsConfig {
    /// S3 bucket; empty = a folder.
    pub bucket: String,
    /// That folder; empty = below `data_dir`.
    pub folder: PathBuf,
    /// Region of the bucket.
    pub region: String,
    /// Another service's address.
    pub endpoint: String,
}

/// What is asked of the database at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: one dispatcher, or several without a claim.
    NotAsked,
    /// That a commit is on two machines; otherwise a warning.
    Warned,
    /// The same; otherwise no start.
    Demanded,
}

/// What the running dispatcher needs of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How people reach this installation.
    pub public_url: String,
    /// The coordinator's gRPC address; empty = nothing is deployed.
    pub coordinator: String,
    /// How agents reach this dispatcher.
    pub grpc_url: String,
    /// Whether to insist on a database that loses nothing with one machine.
    pub durability: Durability,
    /// What renders charts.
    pub helm: String,
    /// Repository addresses allowed besides https and ssh.
    pub allowed_sources: Vec<String>,
    /// How often refs are compared, seconds; 0 = never.
    pub reconcile_seconds: u64,
    /// How long an agent holds an attempt.
    pub terms: Terms,
    /// How pools of agents are started.
    pub fleet: FleetConfig,
}

/// An agent's connection attempt alone may take 5 s; longer than an hour would be no lease.
const LEASE_SECONDS: RangeInclusive<u64> = 6..=3_600;

impl Config {
    /// What the running dispatcher needs.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        anyhow::ensure!(
            LEASE_SECONDS.contains(&self.lease_seconds),
            "lease_seconds is {}; it must be {} to {}",
            self.lease_seconds,
            LEASE_SECONDS.start(),
            LEASE_SECONDS.end(),
        );
        Ok(Settings {
            public_url: self.public_url.trim_end_matches('/').to_owned(),
            coordinator: self.coordinator.clone(),
            grpc_url: self.advertised(),
            durability: match (self.high_availability, self.accept_loss) {
                (false, _) => Durability::NotAsked,
                (true, true) => Durability::Warned,
                (true, false) => Durability::Demanded,
            },
            helm: self.helm.clone(),
            allowed_sources: self.allowed_sources.clone(),
            reconcile_seconds: self.reconcile_seconds,
            terms: Terms::of(Duration::from_secs(self.lease_seconds)),
            fleet: self.fleet(),
        })
    }

    /// How agents reach this dispatcher.
    fn advertised(&self) -> String {
        if self.grpc_url.is_empty() {
            format!("https://{}", self.grpc_address)
        } else {
            self.grpc_url.clone()
        }
    }

    /// With what was left empty filled in.
    fn fleet(&self) -> FleetConfig {
        let mut fleet = self.fleet.clone();
        if fleet.dispatcher.is_empty() {
            fleet.dispatcher = self.advertised();
        }
        if fleet.directory.as_os_str().is_empty() {
            fleet.directory = self.data_dir.join("fleet");
        }
        fleet
    }
}
