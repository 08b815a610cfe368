//! One suite per port: what a target and what moves traffic must do, whoever they are.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use slipway_core::rollout::{TargetView, VersionSpec};
use slipway_core::traffic::{Fence, Instance, Share, TrafficTable};
use slipway_daemon::{Clock, Rng};
use slipway_deploy::targets::{Instances, Place, Target, TargetError};
use slipway_deploy::traffic::{Traffic, TrafficError};

/// For instances to serve, on a loaded machine.
const STARTS: Duration = Duration::from_secs(60);

pub(crate) fn fence(token: u64, generation: u64) -> Fence {
    Fence { token, generation }
}

pub(crate) fn ulid() -> String {
    Rng::system().ulid(Clock::system().now())
}

pub(crate) fn version(image: &str, replicas: u32) -> VersionSpec {
    VersionSpec {
        version_id: ulid(),
        image: image.to_owned(),
        port: 8080,
        replicas,
        health_path: "/".to_owned(),
        environment: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        memory_bytes: 0,
        cpu_millis: 0,
        pods: None,
    }
}

/// What is there once so many instances of a version serve: they start after it was asked for them.
pub(crate) async fn running(
    target: &dyn Target,
    place: &Place,
    version: &str,
    count: usize,
) -> Instances {
    let reached = tokio::time::timeout(STARTS, async {
        loop {
            let seen = target.observe(place).await.unwrap();
            let instances = seen.get(version).map(Vec::as_slice);
            if TargetView::running(instances.unwrap_or_default()) == count {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let late = |_| panic!("never {count} instances of {version}");
    reached.await.unwrap_or_else(late)
}

/// Every effect one to three times; adopted, not doubled; stale owners refused.
pub(crate) async fn target_suite(target: &dyn Target, image: &str) {
    target_suite_on(target, image, 1).await;
}

/// The same on so many hosts (one or two): each has one instance at least.
pub(crate) async fn target_suite_on(target: &dyn Target, image: &str, hosts: usize) {
    let place = Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    };
    assert!(target.observe(&place).await.unwrap().is_empty());
    let (old, new) = (version(image, 1), version(image, 2));
    target.ensure(fence(5, 1), &place, &old).await.unwrap();
    for _ in 0..3 {
        target.ensure(fence(6, 2), &place, &new).await.unwrap();
    }
    running(target, &place, &old.version_id, hosts).await;
    let seen = running(target, &place, &new.version_id, 2).await;
    assert_eq!(seen.len(), 2);
    let instances = &seen[&new.version_id];
    assert_eq!(instances.len(), 2);
    let named = format!("slipway-{}-", new.version_id.to_lowercase());
    let is_named = instances[0].id.to_lowercase().starts_with(&named);
    assert!(is_named, "{}", instances[0].id);

    // An owner that was replaced is refused, and changes nothing.
    let stale = target.ensure(fence(5, 9), &place, &version(image, 1)).await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { seen: 6 })),
        "{stale:?}"
    );
    let stale = target
        .retire(fence(5, 9), &place, &new.version_id, Duration::ZERO)
        .await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { seen: 6 })),
        "{stale:?}"
    );
    assert_eq!(target.observe(&place).await.unwrap(), seen);

    for _ in 0..2 {
        target
            .retire(fence(7, 3), &place, &new.version_id, Duration::ZERO)
            .await
            .unwrap();
    }
    let left = target.observe(&place).await.unwrap();
    assert_eq!(left.keys().collect::<Vec<_>>(), [&old.version_id]);
    // What was retired can be started again.
    target.ensure(fence(7, 4), &place, &new).await.unwrap();
    assert_eq!(running(target, &place, &new.version_id, 2).await.len(), 2);
    for gone in [&old, &new] {
        target
            .retire(fence(8, 5), &place, &gone.version_id, Duration::ZERO)
            .await
            .unwrap();
    }
    assert!(target.observe(&place).await.unwrap().is_empty());
    let network = format!("slipway-env-{}", place.environment_id.to_lowercase());
    let _fakes_have_none = Command::new("docker")
        .args(["network", "rm", &network])
        .output();
}

/// A table with an instance of each version on each of these hosts (`@name`; `""` = the only one).
pub(crate) fn table_on(
    service: &str,
    listen: &str,
    weights: &[(&str, u32)],
    hosts: &[&str],
) -> TrafficTable {
    let share = |(version, weight_bp): &(&str, u32)| Share {
        version: (*version).to_owned(),
        weight_bp: *weight_bp,
        instances: hosts
            .iter()
            .map(|host| Instance {
                id: format!("{version}-1{host}"),
                address: "127.0.0.1:9".to_owned(),
            })
            .collect(),
    };
    TrafficTable {
        service: service.to_owned(),
        hosts: vec![],
        listen: listen.to_owned(),
        versions: weights.iter().map(share).collect(),
        upstream_timeout_ms: 1_000,
        canary: String::new(),
        stickiness: slipway_core::traffic::Stickiness::None,
        lease: None,
    }
}

/// `counts`: whether it counts requests.
pub(crate) async fn traffic_suite(traffic: &dyn Traffic, listen: &str, counts: bool) {
    traffic_suite_on(traffic, listen, counts, &[""]).await;
}

/// The same of the routers of these hosts (`@name`).
pub(crate) async fn traffic_suite_on(
    traffic: &dyn Traffic,
    listen: &str,
    counts: bool,
    hosts: &[&str],
) {
    let table = |service: &str, listen: &str, weights: &[(&str, u32)]| {
        table_on(service, listen, weights, hosts)
    };
    let empty = traffic.read("shop/production").await.unwrap();
    assert_eq!((empty.table, empty.fence), (None, Fence::default()));
    let one = table("shop/production", listen, &[("v1", 10_000)]);
    let two = table("shop/production", listen, &[("v1", 0), ("v2", 10_000)]);
    for _ in 0..3 {
        traffic.apply(fence(3, 1), &one).await.unwrap();
    }
    traffic.apply(fence(3, 2), &two).await.unwrap();
    let seen = traffic.read("shop/production").await.unwrap();
    assert_eq!((seen.fence, seen.table.as_ref()), (fence(3, 2), Some(&two)));
    let counted = seen.counters.get("v2").map(|counted| counted.total);
    assert_eq!(counted, counts.then_some(0));

    let stale = traffic.apply(fence(2, 9), &one).await;
    assert!(
        matches!(stale, Err(TrafficError::StaleToken { seen: 3 })),
        "{stale:?}"
    );
    for refused in [
        traffic.apply(fence(3, 1), &one).await,
        traffic.apply(fence(3, 2), &one).await,
    ] {
        assert!(
            matches!(refused, Err(TrafficError::Refused(_))),
            "{refused:?}"
        );
    }
    let half = table("shop/production", listen, &[("v1", 5_000)]);
    assert!(matches!(
        traffic.apply(fence(4, 1), &half).await,
        Err(TrafficError::Refused(_))
    ));
    assert_eq!(
        traffic.read("shop/production").await.unwrap(),
        seen,
        "a refusal changed something"
    );

    let limit = Duration::from_secs(1);
    let busy = traffic.drain("shop/production", "v2", limit).await;
    assert!(matches!(busy, Err(TrafficError::Refused(_))), "{busy:?}");
    assert_eq!(
        traffic.drain("shop/production", "v1", limit).await.unwrap(),
        0
    );
}
