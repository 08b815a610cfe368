//! Keeps traffic pointed at the good version's instances between rollouts: containers that came back
//! at another address, a router that lost its table.
//!
//! Never changes which version has the traffic, and does nothing while a rollout holds the place.

mod several;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::rollout::InstanceView;
use slipway_core::traffic::{FULL_BP, Fence, Instance, Share, Stickiness, TrafficTable};
use slipway_store::{EnvironmentRow, ServiceRow};

use crate::run::Coordinator;

use super::quiet::{Quiet, quiet};

/// How often places are looked at.
const TICK: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub(crate) async fn follow(coordinator: Arc<Coordinator>) {
    loop {
        tokio::select! {
            () = coordinator.shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if let Err(error) = look(&coordinator).await {
            tracing::warn!("cannot follow instances: {error:#}");
        }
    }
}

async fn look(coordinator: &Coordinator) -> anyhow::Result<()> {
    let services = coordinator.db.services().await?;
    for environment in coordinator.db.environments().await? {
        for service in &services {
            if let Err(error) = follow_one(coordinator, &environment, service).await {
                let (service, environment) = (&service.name, &environment.name);
                tracing::warn!(service, environment, "cannot follow instances: {error:#}");
            }
        }
    }
    Ok(())
}

async fn follow_one(
    coordinator: &Coordinator,
    environment: &EnvironmentRow,
    service: &ServiceRow,
) -> anyhow::Result<()> {
    let (service_id, environment_id) = (&service.service_id, &environment.environment_id);
    let Some(good) = coordinator.good_version(service_id, environment_id).await? else {
        return Ok(());
    };
    let Some(Quiet {
        target,
        adapters,
        place,
    }) = quiet(coordinator, environment, service).await?
    else {
        return Ok(());
    };
    let mut seen = adapters.target.observe(&place).await?;
    if several::brought_back(coordinator, &adapters, &place, &good, &seen).await? {
        return Ok(());
    }
    let live = live_of(seen.remove(&good).unwrap_or_default());
    let route = format!("{}/{}", service.name, environment.name);
    let reading = adapters.traffic.read(&route).await?;
    let now = coordinator.clock.now().as_millis();
    let lately = super::gates::as_stable(&reading, &good, now);
    coordinator.baselines.push(&route, &good, lately);
    let several = !adapters.target.hosts().is_empty();
    let live = if several {
        several::healthy(coordinator, &adapters, &good, &reading, live).await?
    } else {
        live
    };
    let same = reading.apart.is_empty() && points_at(reading.table.as_ref(), &good, &live);
    if live.is_empty() || same {
        return Ok(());
    }
    let Some((token, generation)) = coordinator
        .db
        .quiet_fence(service_id, environment_id)
        .await?
    else {
        return Ok(());
    };
    let address = target.address_of(&service.name);
    let table = TrafficTable {
        service: route,
        hosts: address.hosts,
        listen: address.listen,
        versions: vec![Share {
            version: good,
            weight_bp: FULL_BP,
            instances: live,
        }],
        upstream_timeout_ms: coordinator.defaults.upstream_timeout_ms,
        canary: String::new(),
        stickiness: Stickiness::None,
        lease: None,
    };
    let fence = Fence { token, generation };
    if several {
        // The good version is right on every router: a host that is still away is not waited for.
        adapters.traffic.take_back(fence, &table).await?;
    } else {
        adapters.traffic.apply(fence, &table).await?;
    }
    let (service, environment) = (&service.name, &environment.name);
    tracing::info!(service, environment, "traffic follows its instances");
    Ok(())
}

/// Those that are running.
fn live_of(instances: Vec<InstanceView>) -> Vec<Instance> {
    let live = instances.into_iter().filter_map(|one| {
        Some(Instance {
            id: one.id,
            address: one.address?,
        })
    });
    live.collect()
}

/// Whether a table gives all traffic to exactly these instances of a version.
fn points_at(table: Option<&TrafficTable>, version: &str, live: &[Instance]) -> bool {
    let Some(table) = table else {
        return false;
    };
    let share = table.versions.iter().find(|share| share.version == version);
    let set = |list: &[Instance]| list.iter().cloned().collect::<BTreeSet<_>>();
    share.is_some_and(|share| {
        // Another version with weight is a rollout's business, or somebody's who must be asked.
        share.weight_bp != FULL_BP || set(&share.instances) == set(live)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_moved_instances_of_the_version_with_all_traffic_are_followed() {
        let at = |address: &str| Instance {
            id: "a".to_owned(),
            address: address.to_owned(),
        };
        let table = |weight_bp| TrafficTable {
            service: "shop/production".to_owned(),
            hosts: vec![],
            listen: "127.0.0.1:1".to_owned(),
            versions: vec![Share {
                version: "v".to_owned(),
                weight_bp,
                instances: vec![at("10.0.0.1:80")],
            }],
            upstream_timeout_ms: 1,
            canary: String::new(),
            stickiness: Stickiness::None,
            lease: None,
        };
        let (same, moved) = ([at("10.0.0.1:80")], [at("10.0.0.2:80")]);
        assert!(points_at(Some(&table(FULL_BP)), "v", &same));
        assert!(!points_at(Some(&table(FULL_BP)), "v", &moved));
        assert!(
            points_at(Some(&table(0)), "v", &moved),
            "not ours to decide"
        );
        assert!(!points_at(None, "v", &same), "a router that lost its table");
    }
}
