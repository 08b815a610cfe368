//! The dispatcher's command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use slipway_daemon::telemetry::LogFormat;

use crate::config::{Config, DEFAULTS};

/// Takes webhooks, plans builds, gives stages to agents.
#[derive(Debug, clap::Parser)]
pub struct Args {
    /// Settings.
    #[command(flatten)]
    pub options: Options,
}

/// The flags, shared with `slipway dispatcher`.
#[derive(Debug, ClapArgs)]
pub struct Options {
    /// Settings file (TOML).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// With `high_availability`: start although the database may lose acknowledged work.
    #[arg(long)]
    pub i_accept_loss: bool,
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
            slipway_daemon::config::load::<Config>(DEFAULTS, self.config.as_deref(), "DISPATCHER");
        slipway_daemon::start(
            "slipway-dispatcher",
            &self.log,
            self.log_format,
            |shutdown| async {
                let mut config = config?;
                config.accept_loss |= self.i_accept_loss;
                crate::run(config, shutdown).await
            },
        )
    }
}
