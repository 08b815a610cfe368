//! The command line of the cache daemon.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use slipway_cache_client::{CacheError, LocalCache};
use slipway_daemon::telemetry::LogFormat;

use crate::{Config, DEFAULT_CONFIG};

/// Blobs and workspaces for the agent beside it.
#[derive(Debug, Parser)]
#[command(name = "slipway-cache", version)]
pub struct Args {
    /// Settings file.
    #[arg(long, global = true)]
    pub config: Option<PathBuf>,
    /// Log level, or a filter such as `info,slipway_cache=debug`.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// Log format.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What to ask a running daemon; without it, the daemon is started.
    #[command(subcommand)]
    pub ask: Option<Ask>,
}

/// Questions to a running daemon.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Ask {
    /// How much there is, and what happened since the start.
    Stats,
    /// Hashes every file, and puts damaged ones aside.
    Fsck {
        /// Make the index from the directory first.
        #[arg(long)]
        rebuild: bool,
    },
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
        match args.ask {
            None => crate::run(config, shutdown).await,
            Some(ask) => answer(&config, ask).await,
        }
    })
}

async fn answer(config: &Config, ask: Ask) -> anyhow::Result<()> {
    let socket = config.socket.display();
    let asked = || {
        format!(
            "asking the cache daemon at {socket}; is it running, and is this its settings file \
             (--config)?"
        )
    };
    let cache = LocalCache::new(&config.socket)?;
    let text = match ask {
        Ask::Stats => stats(&cache).await.with_context(asked)?,
        Ask::Fsck { rebuild } => {
            let found = cache.check(rebuild).await.with_context(asked)?;
            format!(
                "files    {}\nbytes    {}\ndamaged  {} (put aside in {}/quarantine)\n",
                found.files,
                found.bytes,
                found.damaged,
                config.directory.display()
            )
        }
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

async fn stats(cache: &LocalCache) -> Result<String, CacheError> {
    let now = cache.stats().await?;
    let rows = [
        ("files", now.blobs),
        ("bytes", now.bytes),
        ("quota", now.quota_bytes),
        ("reserved", now.reserved_bytes),
        ("pins", now.pins),
        ("hits", now.hits),
        ("misses", now.misses),
        ("damaged", now.damaged),
        ("evicted", now.evicted),
        ("evicted bytes", now.evicted_bytes),
        ("refused as full", now.full),
    ];
    let lines = rows.map(|(name, value)| format!("{name:<16} {value}\n"));
    Ok(lines.concat())
}
