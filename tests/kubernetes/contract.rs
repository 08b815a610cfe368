//! The suites of targets and of traffic, with the rights that the shipped manifest gives and no others.

use std::sync::Arc;

use slipway_deploy::KubernetesPlace;
use slipway_deploy::targets::KubernetesTarget;
use slipway_deploy::traffic::KubernetesTraffic;
use slipway_kubernetes::Cluster;

use crate::control_plane::{Plane, plane};
use crate::suites::{target_suite, traffic_suite};

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
