//! Logging: text for people on a terminal, JSON lines otherwise when asked. Field names are
//! constants with one meaning each: `build`, `stage`, `attempt`, `agent`, `service`, `environment`,
//! `rollout`, `step`, `blob`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// Installs the process's subscriber, once; later calls change nothing. Log lines go to standard
/// error: standard output belongs to data.
pub fn init(level: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let writer = std::io::stderr;
    // A second call in one process (tests, `slipway up`) is harmless and expected.
    let _already = match format {
        LogFormat::Text => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(writer)
                    .with_target(false),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(tracing_subscriber::fmt::layer().with_writer(writer).json())
            .try_init(),
    };
}
