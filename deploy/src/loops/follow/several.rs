//! Between rollouts, where there are several hosts: one that was away gets what the others have.
//!
//! Does not choose the version, and puts nothing into a table that is not healthy.

use slipway_core::rollout::{VersionSpec, host_of, wanted_at};
use slipway_core::traffic::{Fence, Instance};

use crate::places::Adapters;
use crate::probes::is_healthy;
use crate::run::Coordinator;
use crate::targets::{Instances, Place};
use crate::traffic::Reading;

async fn spec(coordinator: &Coordinator, version: &str) -> anyhow::Result<Option<VersionSpec>> {
    let row = coordinator.db.version(version).await?;
    Ok(row
        .map(|row| serde_json::from_str(&row.config_json))
        .transpose()?)
}

/// Makes what a host that answers lacks of the good version; whether anything was made.
pub(super) async fn brought_back(
    coordinator: &Coordinator,
    adapters: &Adapters,
    place: &Place,
    good: &str,
    seen: &Instances,
) -> anyhow::Result<bool> {
    let hosts = adapters.target.hosts();
    if hosts.is_empty() {
        return Ok(false);
    }
    let Some(spec) = spec(coordinator, good).await? else {
        return Ok(false);
    };
    let own = |name: &str| {
        let all = seen.get(good).into_iter().flatten();
        all.filter(|one| host_of(&one.id).1 == Some(name)).count()
    };
    let lacking: Vec<&str> = (0..)
        .zip(&hosts)
        .filter(|(index, host)| {
            let wanted = wanted_at(spec.replicas, spec.replicas, *index, hosts.len());
            !host.is_silent() && own(&host.name) < usize::try_from(wanted).unwrap_or(usize::MAX)
        })
        .map(|(_, host)| host.name.as_str())
        .collect();
    if lacking.is_empty() {
        return Ok(false);
    }
    let (service_id, environment_id) = (&place.service_id, &place.environment_id);
    let fence = coordinator
        .db
        .quiet_fence(service_id, environment_id)
        .await?;
    let Some((token, generation)) = fence else {
        return Ok(false);
    };
    tracing::info!(
        version = good,
        hosts = lacking.join(", "),
        "hosts get the good version"
    );
    let fence = Fence { token, generation };
    adapters.target.ensure(fence, place, &spec).await?;
    Ok(true)
}

/// Of `live` what is in the table already, and what is healthy.
pub(super) async fn healthy(
    coordinator: &Coordinator,
    adapters: &Adapters,
    good: &str,
    reading: &Reading,
    live: Vec<Instance>,
) -> anyhow::Result<Vec<Instance>> {
    let shares = reading.table.iter().flat_map(|table| &table.versions);
    let share = shares.into_iter().find(|share| share.version == good);
    let known = |one: &Instance| share.is_some_and(|share| share.instances.contains(one));
    let mut kept = Vec::with_capacity(live.len());
    let mut path = None;
    for one in live {
        if known(&one) {
            kept.push(one);
            continue;
        }
        if path.is_none() {
            path = spec(coordinator, good).await?.map(|spec| spec.health_path);
        }
        let Some(path) = &path else { continue };
        if is_healthy(&*adapters.traffic, &one.id, &one.address, path).await {
            kept.push(one);
        }
    }
    Ok(kept)
}
