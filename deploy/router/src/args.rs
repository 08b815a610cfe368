//! Flags of `slipway-router` and `slipway router`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use slipway_daemon::telemetry::LogFormat;

use crate::config::Config;

/// Carries the traffic of services on this host.
#[derive(Debug, Parser)]
#[command(name = "slipway-router", version)]
pub struct Args {
    /// Settings file (TOML).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Folder of the state file and the control socket; overrides `state_dir`.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Control socket; overrides `control_socket`.
    #[arg(long)]
    pub control_socket: Option<PathBuf>,
    /// Control over mutual TLS, `host:port`; overrides `control_address`.
    #[arg(long)]
    pub control_address: Option<String>,
    /// Health and metrics address; overrides `health_address`.
    #[arg(long)]
    pub health_address: Option<String>,
    /// What is logged.
    #[arg(long, default_value = "info")]
    pub log: String,
}

impl Args {
    /// Settings: defaults, file, environment, then these flags.
    ///
    /// # Errors
    /// When a source cannot be used.
    pub fn config(&self) -> Result<Config, slipway_daemon::config::ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(dir) = &self.state_dir {
            config.state_dir.clone_from(dir);
        }
        if let Some(socket) = &self.control_socket {
            config.control_socket.clone_from(socket);
        }
        if let Some(address) = &self.control_address {
            config.control_address.clone_from(address);
        }
        if let Some(address) = &self.health_address {
            config.health_address.clone_from(address);
        }
        Ok(config)
    }
}

/// Parses the process's flags and runs until told to stop.
#[must_use]
pub fn start() -> ExitCode {
    start_with(&Args::parse())
}

/// Runs with these flags until told to stop.
#[must_use]
pub fn start_with(args: &Args) -> ExitCode {
    let config = args.config();
    slipway_daemon::start(
        "slipway-router",
        &args.log,
        LogFormat::Text,
        |shutdown| async move { crate::run(config?, shutdown).await },
    )
}
