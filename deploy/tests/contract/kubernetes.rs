//! The suites on a cluster in memory, and what only a cluster can do wrong.

use std::time::Duration;

use slipway_core::rollout::TargetView;
use slipway_deploy::KubernetesPlace;
use slipway_deploy::targets::{KubernetesTarget, Place, Target, TargetError};
use slipway_deploy::traffic::{KubernetesTraffic, Traffic, TrafficError};

use super::cluster::{NAMESPACE, locked, serve};
use super::suites::{fence, target_suite, traffic_suite, ulid, version};
use super::table;

fn image() -> String {
    format!("registry.test/shop@sha256:{}", "a".repeat(64))
}

fn place() -> Place {
    Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    }
}

fn with_gateway() -> KubernetesPlace {
    KubernetesPlace {
        gateway: "edge/public".to_owned(),
        ..KubernetesPlace::default()
    }
}

#[tokio::test]
async fn deployments_keep_the_contract_and_leave_nothing() {
    let (objects, cluster) = serve().await;
    target_suite(&KubernetesTarget::on(cluster(NAMESPACE)), &image()).await;
    locked(&objects, |objects| {
        assert!(objects.all.is_empty(), "{:?}", objects.all)
    });
}

#[tokio::test]
async fn a_pod_is_an_instance_with_its_address_its_ends_and_no_more_when_it_is_not_ready() {
    let (objects, cluster) = serve().await;
    let (target, place, new) = (
        KubernetesTarget::on(cluster(NAMESPACE)),
        place(),
        version(&image(), 5),
    );
    target.ensure(fence(1, 1), &place, &new).await.unwrap();
    let seen = target.observe(&place).await.unwrap();
    let first = &seen[&new.version_id][0];
    assert_eq!(first.address.as_deref(), Some("10.1.2.3:8080"));
    assert_eq!(
        (first.exits, first.oom, seen[&new.version_id].len()),
        (2, true, 5)
    );
    locked(&objects, |objects| {
        let pod = ("pods".to_owned(), first.id.clone());
        objects.all.get_mut(&pod).unwrap()["status"]["conditions"][0]["status"] = "False".into();
    });
    let seen = target.observe(&place).await.unwrap();
    assert_eq!(TargetView::running(&seen[&new.version_id]), 4);
}

#[tokio::test]
async fn the_first_instances_go_on_when_a_version_is_parked_and_the_others_come_back() {
    let (_objects, cluster) = serve().await;
    let (target, place, old) = (
        KubernetesTarget::on(cluster(NAMESPACE)),
        place(),
        version(&image(), 4),
    );
    target.ensure(fence(1, 1), &place, &old).await.unwrap();
    let before = target.observe(&place).await.unwrap();
    let id = &old.version_id;
    for _ in 0..2 {
        let parked = target
            .park(fence(2, 2), &place, id, 2, Duration::ZERO)
            .await;
        parked.unwrap();
        let after = target.observe(&place).await.unwrap();
        assert_eq!(after[id][..], before[id][..2]);
    }
    let stale = target
        .park(fence(1, 9), &place, id, 0, Duration::ZERO)
        .await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { seen: 2 })),
        "{stale:?}"
    );
    target
        .park(fence(2, 3), &place, id, 0, Duration::ZERO)
        .await
        .unwrap();
    let empty = target.observe(&place).await.unwrap();
    assert!(
        empty[id].is_empty(),
        "without pods, and there to be retired"
    );
    target.ensure(fence(2, 4), &place, &old).await.unwrap();
    assert_eq!(target.observe(&place).await.unwrap()[id].len(), 4);
}

#[tokio::test]
async fn what_changes_at_the_same_time_is_read_again_and_not_for_ever() {
    let (objects, cluster) = serve().await;
    let target = KubernetesTarget::on(cluster(NAMESPACE));
    let (place, mut new) = (place(), version(&image(), 1));
    target.ensure(fence(1, 1), &place, &new).await.unwrap();
    new.replicas = 3;
    locked(&objects, |objects| objects.races = 2);
    target.ensure(fence(2, 1), &place, &new).await.unwrap();
    assert_eq!(
        target.observe(&place).await.unwrap()[&new.version_id].len(),
        3
    );
    locked(&objects, |objects| objects.races = 50);
    let crowded = target.ensure(fence(3, 1), &place, &new).await;
    assert!(
        matches!(crowded, Err(TargetError::Unknown(_))),
        "{crowded:?}"
    );
}

#[tokio::test]
async fn what_a_cluster_cannot_do_is_refused_with_a_way_out() {
    let (objects, cluster) = serve().await;
    let target = KubernetesTarget::on(cluster(NAMESPACE));
    let (place, new) = (place(), version(&image(), 1));
    let tagged = target
        .ensure(fence(1, 1), &place, &version("shop:1", 1))
        .await;
    let text = tagged.unwrap_err().to_string();
    assert!(text.contains("push it first"), "{text}");
    let elsewhere = KubernetesTarget::on(cluster("elsewhere"));
    let text = elsewhere.observe(&place).await.unwrap_err().to_string();
    assert!(
        text.contains("403") && text.contains("coordinator.yaml"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "the cluster's own words: {text}");
    // Somebody changed the image by hand.
    target.ensure(fence(1, 1), &place, &new).await.unwrap();
    let mut other = new.clone();
    other.image = format!("registry.test/shop@sha256:{}", "b".repeat(64));
    let text = target
        .ensure(fence(1, 2), &place, &other)
        .await
        .unwrap_err();
    assert!(text.to_string().contains("another image"), "{text}");
    locked(&objects, |objects| {
        assert_eq!(objects.all.len(), 2, "one Deployment, one pod")
    });
}

#[tokio::test]
async fn a_version_is_retired_when_its_objects_are_gone_and_not_before() {
    let (objects, cluster) = serve().await;
    let target = KubernetesTarget::on(cluster(NAMESPACE));
    let (place, new) = (place(), version(&image(), 1));
    target.ensure(fence(1, 1), &place, &new).await.unwrap();
    locked(&objects, |objects| objects.lingers = 3);
    let id = &new.version_id;
    let retired = target.retire(fence(2, 1), &place, id, Duration::ZERO).await;
    retired.unwrap();
    assert!(target.observe(&place).await.unwrap().is_empty());
    target.ensure(fence(2, 2), &place, &new).await.unwrap();
}

#[tokio::test]
async fn an_effect_is_not_done_before_its_controller_saw_it() {
    let (objects, cluster) = serve().await;
    let target = KubernetesTarget::on(cluster(NAMESPACE));
    let (place, new) = (place(), version(&image(), 1));
    locked(&objects, |objects| objects.stopped = true);
    let ensuring = target.ensure(fence(1, 1), &place, &new);
    let early = tokio::time::timeout(Duration::from_secs(1), ensuring).await;
    assert!(early.is_err(), "{early:?}");
    locked(&objects, |objects| objects.stopped = false);
    target.ensure(fence(1, 1), &place, &new).await.unwrap();
}

#[tokio::test]
async fn a_selector_and_a_route_keep_the_contract() {
    for place in [KubernetesPlace::default(), with_gateway()] {
        let (_objects, cluster) = serve().await;
        let traffic = KubernetesTraffic::on(cluster(NAMESPACE), &place);
        traffic_suite(&traffic, "gateway:80", false).await;
    }
}

#[tokio::test]
async fn a_route_has_the_weights_and_a_selector_refuses_them() {
    let (objects, cluster) = serve().await;
    let shares = table(
        "shop/production",
        "gateway:80",
        &[("v2", 500), ("v1", 9_500)],
    );
    let traffic = KubernetesTraffic::on(cluster(NAMESPACE), &KubernetesPlace::default());
    let refused = traffic.apply(fence(1, 1), &shares).await.unwrap_err();
    assert!(
        refused.to_string().contains("kubernetes.gateway"),
        "{refused}"
    );
    let traffic = KubernetesTraffic::on(cluster(NAMESPACE), &with_gateway());
    traffic.apply(fence(1, 1), &shares).await.unwrap();
    let route = ("httproutes".to_owned(), "shop".to_owned());
    locked(&objects, |objects| {
        let spec = &objects.all[&route]["spec"];
        assert_eq!(spec["parentRefs"][0]["namespace"], "edge");
        let backends = spec["rules"][0]["backendRefs"].as_array().unwrap();
        assert_eq!(
            (&backends[0]["name"], &backends[0]["weight"]),
            (&"slipway-v2".into(), &500.into())
        );
        let own = ("services".to_owned(), "slipway-v1".to_owned());
        assert_eq!(
            objects.all[&own]["spec"]["selector"]["slipway.dev/version"],
            "v1"
        );
    });
    // By hand, the annotations left as they are: the weights in use are read, and put right.
    locked(&objects, |objects| {
        let spec = &mut objects.all.get_mut(&route).unwrap()["spec"];
        spec["rules"][0]["backendRefs"][0]["weight"] = 9_000.into();
    });
    let seen = traffic
        .read("shop/production")
        .await
        .unwrap()
        .table
        .unwrap();
    assert_eq!(seen.weight_of("v2"), 9_000);
    traffic.apply(fence(1, 1), &shares).await.unwrap();
    assert_eq!(
        traffic.read("shop/production").await.unwrap().table,
        Some(shares)
    );
}

#[tokio::test]
async fn what_belongs_to_others_is_not_taken() {
    let (objects, cluster) = serve().await;
    let traffic = KubernetesTraffic::on(cluster(NAMESPACE), &KubernetesPlace::default());
    let one = table("shop/production", "gateway:80", &[("v1", 10_000)]);
    let key = ("services".to_owned(), "shop".to_owned());
    let theirs =
        serde_json::json!({"metadata": {"name": "shop", "resourceVersion": "1"}, "spec": {}});
    locked(&objects, |objects| objects.all.insert(key.clone(), theirs));
    let refused = traffic.apply(fence(1, 1), &one).await.unwrap_err();
    assert!(
        refused.to_string().contains("not made by Slipway"),
        "{refused}"
    );
    locked(&objects, |objects| objects.all.remove(&key));
    traffic.apply(fence(1, 1), &one).await.unwrap();
    let staging = table("shop/staging", "gateway:80", &[("v1", 10_000)]);
    let refused = traffic.apply(fence(1, 1), &staging).await.unwrap_err();
    assert!(
        refused.to_string().contains("carries `shop/production`"),
        "{refused}"
    );
    locked(&objects, |objects| objects.foreign = true);
    let two = table("shop/production", "gateway:80", &[("v2", 10_000)]);
    let refused = traffic.apply(fence(1, 2), &two).await;
    assert!(
        matches!(&refused, Err(TrafficError::Foreign(t)) if t.contains("`kubectl-edit`")),
        "{refused:?}"
    );
    traffic.take_back(fence(1, 2), &two).await.unwrap();
    let seen = traffic.read("shop/production").await.unwrap().table;
    assert_eq!(seen, Some(two));
    let odd = table("Shop!/x", "gateway:80", &[("v1", 10_000)]);
    let refused = traffic.apply(fence(1, 1), &odd).await.unwrap_err();
    assert!(
        refused.to_string().contains("kubernetes.route"),
        "{refused}"
    );
}
