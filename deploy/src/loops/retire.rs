//! Removes versions whose time is over. Written down before it is done: from then on a rollback to
//! such a version first finishes the removal and then starts it again (`effects`), so that neither is ever
//! done to the other's instances.

use std::sync::Arc;
use std::time::Duration;

use slipway_core::time::Timestamp;
use slipway_core::traffic::Fence;
use slipway_daemon::border;
use slipway_store::VersionRow;

use crate::run::Coordinator;
use crate::targets::Place;

/// How often old versions are looked for.
const TICK: Duration = Duration::from_secs(15);

/// Thirty days: readings of older deployments are judged by nobody again.
const READINGS_KEPT_MS: i64 = 30 * 24 * 3_600 * 1_000;

/// Looks at once, so that a coordinator which restarts often still gets to it; runs until shutdown.
pub(crate) async fn retire(coordinator: Arc<Coordinator>) {
    loop {
        let before = Timestamp::from_millis(
            coordinator
                .clock
                .now()
                .as_millis()
                .saturating_sub(READINGS_KEPT_MS),
        );
        if let Err(error) = coordinator.db.forget_gate_ticks(before).await {
            tracing::warn!(%error, "cannot forget old readings");
        }
        match coordinator
            .db
            .versions_to_retire(coordinator.clock.now())
            .await
        {
            Ok(due) => {
                for version in due {
                    if let Err(error) = retire_one(&coordinator, &version).await {
                        let version = version.version_id;
                        tracing::warn!(version, "cannot retire a version: {error:#}");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look for old versions"),
        }
        tokio::select! {
            () = coordinator.shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn retire_one(coordinator: &Coordinator, version: &VersionRow) -> anyhow::Result<()> {
    let now = coordinator.clock.now();
    border::reach("before intent", "retire_old");
    let id = &version.version_id;
    if !coordinator.db.begin_retirement(version, now).await? {
        return Ok(());
    }
    border::reach("after intent", "retire_old");
    let (_, target) = coordinator.environment(&version.environment_id).await?;
    let adapters = coordinator
        .connect
        .connect(&target)
        .map_err(anyhow::Error::msg)?;
    let place = Place {
        service_id: version.service_id.clone(),
        environment_id: version.environment_id.clone(),
        service: String::new(),
    };
    // The store let us in because no rollout holds the place; a fence of a rollout is not ours.
    let fence = Fence {
        token: u64::MAX,
        generation: 0,
    };
    let grace = Duration::from_millis(coordinator.defaults.stop_ms);
    adapters.target.retire(fence, &place, id, grace).await?;
    border::reach("after effect", "retire_old");
    coordinator.db.version_is_gone(id).await?;
    border::reach("after applied", "retire_old");
    tracing::info!(version = version.version_id, "retired");
    Ok(())
}
