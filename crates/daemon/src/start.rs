//! Starting a process: crypto provider, logging, settings, signals; then the role's `run`.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use crate::shutdown::Shutdown;
use crate::telemetry::{self, LogFormat};

/// How long a role may take to stop once asked, before it is cut.
pub const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Runs `role` on a fresh runtime until it ends or a signal asks it to stop. The first SIGINT or
/// SIGTERM begins the shutdown; a third one ends the process at once.
pub fn start<F, Fut>(name: &'static str, level: &str, format: LogFormat, role: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    telemetry::init(level, format);
    install_crypto();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let shutdown = Shutdown::new();
    let outcome = runtime.block_on(async {
        crate::spawn::spawn("signals", signals(shutdown.clone()));
        role(shutdown.clone()).await
    });
    shutdown.begin();
    runtime.shutdown_timeout(Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(process = name, "stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Chooses ring as the process's TLS provider; later calls change nothing.
pub fn install_crypto() {
    // `Err` means that a provider is installed already, which is what we want.
    let _installed = rustls::crypto::ring::default_provider().install_default();
}

#[expect(clippy::exit, reason = "the third signal means: now")]
async fn signals(shutdown: Shutdown) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tracing::warn!("cannot listen for signals");
        return;
    };
    let mut seen = 0_u8;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        seen += 1;
        match seen {
            1 => {
                tracing::info!("stopping");
                shutdown.begin();
            }
            2 => tracing::warn!("still stopping; once more ends the process at once"),
            _ => std::process::exit(130),
        }
    }
}
