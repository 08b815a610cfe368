//! Places that no rollout holds, opened for what keeps them in order between rollouts.
//!
//! Decides nothing about them.

use slipway_store::{EnvironmentRow, ServiceRow};

use crate::places::{Adapters, EnvironmentTarget};
use crate::run::Coordinator;
use crate::targets::Place;

/// A place with its way to the target and the router.
pub(super) struct Quiet {
    pub(super) target: EnvironmentTarget,
    pub(super) adapters: Adapters,
    pub(super) place: Place,
}

/// Opens a place; `None` while a rollout holds its lock.
///
/// # Errors
/// When the store does not answer or the target's settings cannot be used.
pub(super) async fn quiet(
    coordinator: &Coordinator,
    environment: &EnvironmentRow,
    service: &ServiceRow,
) -> anyhow::Result<Option<Quiet>> {
    let (service_id, environment_id) = (&service.service_id, &environment.environment_id);
    let lock = coordinator.db.lock(service_id, environment_id).await?;
    if lock.is_some() {
        return Ok(None);
    }
    let target: EnvironmentTarget = serde_json::from_str(&environment.target)?;
    let adapters = coordinator
        .connect
        .connect(&target)
        .map_err(anyhow::Error::msg)?;
    let place = Place {
        service_id: service_id.clone(),
        environment_id: environment_id.clone(),
        service: service.name.clone(),
    };
    Ok(Some(Quiet {
        target,
        adapters,
        place,
    }))
}
