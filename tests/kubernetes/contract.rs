//! The suites of targets and of traffic, with the rights that the shipped manifest gives and no others.

use std::sync::Arc;
use std::time::Duration;

use slipway_deploy::KubernetesPlace;
use slipway_deploy::targets::{KubernetesTarget, Place, Target as _, TargetError};
use slipway_deploy::traffic::KubernetesTraffic;
use slipway_kubernetes::Cluster;

use crate::control_plane::{Plane, plane};
use crate::suites::{fence, running, target_suite, traffic_suite, ulid, version};

pub(crate) fn image(word: &str) -> String {
    format!("registry.test/{word}@sha256:{}", "a".repeat(64))
}

/// A namespace of services, and its cluster as the coordinator reaches it.
async fn shop(namespace: &str) -> (Arc<Plane>, Cluster) {
    let plane = plane();
    let file = crate::rights::coordinator(&plane, namespace).unwrap();
    let cluster = plane.cluster(&file, namespace).await;
    (plane, cluster)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn deployments_keep_the_contract_and_leave_nothing() {
    let (plane, cluster) = shop("contract-target").await;
    target_suite(&KubernetesTarget::on(cluster), &image("one")).await;
    let asked = ["get", "deployments,replicasets,pods,services", "-o", "name"];
    let namespace = ["-n", "contract-target"];
    let left = plane.admin(&[&asked[..], &namespace].concat(), "");
    assert_eq!(left.unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_selector_and_a_route_keep_the_contract() {
    let (_plane, cluster) = shop("contract-traffic").await;
    for gateway in ["", "edge/public"] {
        let place = KubernetesPlace {
            gateway: gateway.to_owned(),
            ..KubernetesPlace::default()
        };
        let traffic = KubernetesTraffic::on(cluster.clone(), &place);
        traffic_suite(&traffic, "gateway:80", false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn the_first_instances_go_on_when_a_version_is_parked_and_the_others_come_back() {
    let (plane, cluster) = shop("contract-park").await;
    let target = KubernetesTarget::on(cluster);
    let place = Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    };
    let old = version(&image("one"), 4);
    let id = &old.version_id;
    target.ensure(fence(1, 1), &place, &old).await.unwrap();
    let before = running(&target, &place, id, 4).await;
    for _ in 0..2 {
        let parked = target.park(fence(2, 2), &place, id, 2, Duration::ZERO);
        parked.await.unwrap();
        let after = target.observe(&place).await.unwrap();
        assert_eq!(after[id][..], before[id][..2]);
    }
    let stale = target.park(fence(1, 9), &place, id, 0, Duration::ZERO);
    let stale = stale.await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { seen: 2 })),
        "{stale:?}"
    );
    target.ensure(fence(2, 3), &place, &old).await.unwrap();
    running(&target, &place, id, 4).await;
    // Somebody makes it larger by hand: nothing of it is taken away.
    let name = format!("deployment/slipway-{}", id.to_lowercase());
    let scale = ["scale", &name, "--replicas=5", "-n", "contract-park"];
    plane.admin(&scale, "").unwrap();
    target.ensure(fence(3, 4), &place, &old).await.unwrap();
    running(&target, &place, id, 5).await;
    let retired = target.retire(fence(3, 5), &place, id, Duration::ZERO);
    retired.await.unwrap();
    assert!(target.observe(&place).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_version_that_something_holds_is_retired_when_it_is_let_go_and_not_before() {
    let (plane, cluster) = shop("contract-held").await;
    let target = KubernetesTarget::on(cluster);
    let place = Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    };
    let one = version(&image("one"), 1);
    let id = &one.version_id;
    target.ensure(fence(1, 1), &place, &one).await.unwrap();
    running(&target, &place, id, 1).await;
    let name = format!("deployment/slipway-{}", id.to_lowercase());
    let finalizers = |all: &str| {
        let patch = format!(r#"{{"metadata": {{"finalizers": {all}}}}}"#);
        let args = ["patch", &name, "-n", "contract-held", "-p", &patch];
        let merged = [&args[..], &["--type=merge"]].concat();
        plane.admin(&merged, "").unwrap();
    };
    finalizers(r#"["slipway.dev/held"]"#);
    let retiring = target.retire(fence(2, 2), &place, id, Duration::ZERO);
    let early = tokio::time::timeout(Duration::from_secs(5), retiring).await;
    assert!(early.is_err(), "{early:?}");
    let held = target.observe(&place).await.unwrap();
    assert!(held[id].is_empty(), "its pods are gone, and it is not");
    finalizers("[]");
    let retired = target.retire(fence(2, 2), &place, id, Duration::ZERO);
    retired.await.unwrap();
    assert!(target.observe(&place).await.unwrap().is_empty());
}
