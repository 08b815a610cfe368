//! Keeps what this coordinator owns: the lease on its rollouts and the locks that they hold.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slipway_core::rollout::HEARTBEAT;

use crate::run::{Coordinator, OWNER_LEASE};

/// How often the lease is renewed: three times within its length.
const TICK: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub(crate) async fn keep(coordinator: Arc<Coordinator>) {
    let mut locks_due = Duration::ZERO;
    loop {
        tokio::select! {
            () = coordinator.shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let now = coordinator.clock.now();
        let ticks = coordinator.clock.monotonic();
        let owner = &coordinator.owner;
        if let Err(error) = coordinator
            .db
            .renew_ownership(owner, OWNER_LEASE, now)
            .await
        {
            tracing::warn!(%error, "cannot renew the lease on rollouts");
            continue;
        }
        if ticks < locks_due {
            continue;
        }
        match coordinator.db.heartbeat_locks(owner, now).await {
            Ok(_) => {
                locks_due = ticks + HEARTBEAT;
                coordinator
                    .last_heartbeat_ms
                    .store(coordinator.clock.ticks().as_millis(), Ordering::SeqCst);
            }
            Err(error) => tracing::warn!(%error, "cannot keep the locks of rollouts"),
        }
    }
}
