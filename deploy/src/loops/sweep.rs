//! Removes instances whose version is gone: left behind when a target did not answer in time.

use std::sync::Arc;
use std::time::Duration;

use slipway_core::traffic::Fence;
use slipway_store::{EnvironmentRow, ServiceRow, VersionRow};

use crate::run::Coordinator;

use super::quiet::{Quiet, quiet};

/// How often places are swept.
const TICK: Duration = Duration::from_secs(60);

/// Runs until shutdown.
pub(crate) async fn sweep(coordinator: Arc<Coordinator>) {
    loop {
        tokio::select! {
            () = coordinator.shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if let Err(error) = look(&coordinator).await {
            tracing::warn!("cannot sweep: {error:#}");
        }
    }
}

async fn look(coordinator: &Coordinator) -> anyhow::Result<()> {
    let services = coordinator.db.services().await?;
    for environment in coordinator.db.environments().await? {
        for service in &services {
            if let Err(error) = sweep_one(coordinator, &environment, service).await {
                let (service, environment) = (&service.name, &environment.name);
                tracing::warn!(service, environment, "cannot sweep: {error:#}");
            }
        }
    }
    Ok(())
}

async fn sweep_one(
    coordinator: &Coordinator,
    environment: &EnvironmentRow,
    service: &ServiceRow,
) -> anyhow::Result<()> {
    let (service_id, environment_id) = (&service.service_id, &environment.environment_id);
    let versions = coordinator.db.versions(service_id, environment_id).await?;
    let is_gone = |version: &VersionRow| version.state == "gone";
    if !versions.iter().any(is_gone) {
        return Ok(());
    }
    // A rollback may be starting a version again that is still written down as gone.
    let Some(Quiet {
        adapters, place, ..
    }) = quiet(coordinator, environment, service).await?
    else {
        return Ok(());
    };
    let fence = Fence {
        token: u64::MAX,
        generation: 0,
    };
    let grace = Duration::from_millis(coordinator.defaults.stop_ms);
    for left in adapters.target.observe(&place).await?.into_keys() {
        let Some(version) = versions.iter().find(|v| is_gone(v) && v.version_id == left) else {
            continue;
        };
        // A rollback to it may begin at any time from here on, and then finishes this first.
        let now = coordinator.clock.now();
        if coordinator.db.begin_retirement(version, now).await? {
            adapters.target.retire(fence, &place, &left, grace).await?;
            coordinator.db.version_is_gone(&left).await?;
            tracing::info!(version = left, "left-over instances were removed");
        }
    }
    Ok(())
}
