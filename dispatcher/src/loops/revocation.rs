//! Connections of processes that were revoked, or whose certificate has expired, are closed: by
//! whomever of several dispatchers they were revoked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::access::PeerRole;
use slipway_daemon::Shutdown;

use crate::state::App;

/// Revocation reaches every connection within this, and the time of one query.
const LOOK: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub async fn run(app: Arc<App>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match close_what_may_not_call(&app).await {
            Ok(()) => app.health.recovered("revocation"),
            // Closing everybody because the database is away would only make it worse.
            Err(error) => app.health.degraded("revocation", error.to_string()),
        }
    }
}

async fn close_what_may_not_call(app: &App) -> Result<(), slipway_store::StoreError> {
    if app.connections.peers().is_empty() {
        return Ok(());
    }
    let rows = app.db.good_peers().await?;
    let good: BTreeSet<(String, String)> = rows.into_iter().map(|r| (r.role, r.peer_id)).collect();
    let now = app.clock.now();
    let closed = app.connections.close(|peer| {
        let key = (peer.role().word().to_owned(), peer.name.id.clone());
        // Dispatchers come from the authority itself and have no row.
        let known = peer.role() == PeerRole::Dispatcher || good.contains(&key);
        peer.expires <= now || !known
    });
    if closed > 0 {
        tracing::info!(
            closed,
            "connections of revoked or expired certificates are closed"
        );
    }
    Ok(())
}
