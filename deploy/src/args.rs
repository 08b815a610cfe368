//! Flags of `slipway-deploy` and `slipway coordinator`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use slipway_daemon::telemetry::LogFormat;

use crate::config::Config;

/// Rolls services out, watches them, and takes them back.
#[derive(Debug, Parser)]
#[command(name = "slipway-deploy", version)]
pub struct Args {
    /// Settings file (TOML).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Database: a file, or `postgres://…`; overrides `database`.
    #[arg(long)]
    pub database: Option<String>,
    /// Address of the API; overrides `listen`.
    #[arg(long)]
    pub listen: Option<String>,
    /// Folder of the node's identity; overrides `state_dir`.
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
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
        if let Some(database) = &self.database {
            config.database.clone_from(database);
        }
        if let Some(listen) = &self.listen {
            config.listen.clone_from(listen);
        }
        if let Some(dir) = &self.state_dir {
            config.state_dir.clone_from(dir);
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
        "slipway-deploy",
        &args.log,
        LogFormat::Text,
        |shutdown| async move { crate::run(config?, shutdown).await },
    )
}
