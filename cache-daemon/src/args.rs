//! The command line of the cache daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use slipway_daemon::telemetry::LogFormat;

use crate::{Config, DEFAULT_CONFIG};

/// Blobs and workspaces for the agent beside it.
#[derive(Debug, Parser)]
#[command(name = "slipway-cache", version)]
pub struct Args {
    /// Settings file.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Log level, or a filter such as `info,slipway_cache=debug`.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// Log format.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Parses the command line, loads settings, runs until told to stop.
#[must_use]
pub fn main() -> ExitCode {
    start_with(&Args::parse())
}

/// The same for arguments that were parsed already: `slipway cache`.
#[must_use]
pub fn start_with(args: &Args) -> ExitCode {
    slipway_daemon::start("cache", &args.log, args.log_format, async |shutdown| {
        let path = args.config.as_deref();
        let config: Config = slipway_daemon::config::load(DEFAULT_CONFIG, path, "CACHE")?;
        crate::run(config, shutdown).await
    })
}
