//! The agent's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use slipway_daemon::telemetry::LogFormat;

use crate::config::{Config, DEFAULTS};

/// Executes stages in Docker.
#[derive(Debug, clap::Parser)]
pub struct Args {
    /// Settings.
    #[command(flatten)]
    pub options: Options,
}

/// The flags, shared with `slipway agent`.
#[derive(Debug, ClapArgs)]
pub struct Options {
    /// Settings file (TOML).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// What to log: a level, or tracing directives.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// How to log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl Args {
    /// Runs the process.
    #[must_use]
    pub fn start(self) -> ExitCode {
        self.options.start()
    }
}

impl Options {
    /// Runs the process.
    #[must_use]
    pub fn start(self) -> ExitCode {
        let config =
            slipway_daemon::config::load::<Config>(DEFAULTS, self.config.as_deref(), "AGENT");
        slipway_daemon::start(
            "slipway-agent",
            &self.log,
            self.log_format,
            |shutdown| async { crate::run(config?, shutdown).await },
        )
    }
}
