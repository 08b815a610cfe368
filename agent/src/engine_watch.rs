//! Whether the container engine is there. While it is away nothing is taken that would only be lost; when it
//! is back, it may be another one with other settings, and the dispatcher is told anew what this host can do.

use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::Health;

use crate::attempt::Shared;

/// Between two questions whether it is back.
const AGAIN: Duration = Duration::from_millis(500);
/// An engine that is away for less is being restarted, and nobody's trouble.
const TROUBLE: Duration = Duration::from_secs(10);
/// The part of `/readyz`.
const PART: &str = "docker";

/// What is known of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EngineLife {
    /// It does not answer now.
    pub(crate) away: bool,
    /// How often it came back.
    pub(crate) returns: u64,
}

/// Watches until the agent stops.
pub(crate) async fn watch(shared: Arc<Shared>, health: Health) {
    let watching = async {
        loop {
            shared.sandbox.gone().await;
            returned(&shared, &health).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = shared.shutdown.cancelled() => {}
    }
}

async fn returned(shared: &Shared, health: &Health) {
    shared.engine.send_modify(|engine| engine.away = true);
    tracing::warn!("the container engine is away: nothing is taken until it is back");
    let began = shared.clock.monotonic();
    let mut troubled = false;
    while let Err(error) = shared.sandbox.answers().await {
        if !troubled && shared.clock.monotonic() - began > TROUBLE {
            troubled = true;
            tracing::error!(%error, "no stage can begin here until it answers");
            health.degraded(
                PART,
                format!(
                    "{error}. No stage can begin here until it answers; start it (`systemctl start docker`), \
                     or set `docker` in the agent's settings to its socket"
                ),
            );
        }
        tokio::time::sleep(AGAIN).await;
    }
    health.recovered(PART);
    tracing::info!("the container engine answers again");
    shared.engine.send_modify(|engine| {
        engine.away = false;
        engine.returns += 1;
    });
}
