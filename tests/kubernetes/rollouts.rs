//! Whole rollouts by a real coordinator process, under the shipped rights: what is in the cluster is
//! compared with what was promised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use slipway_core::traffic::Fence;
use slipway_daemon::Clock;
use slipway_deploy::KubernetesPlace;
use slipway_deploy::targets::{KubernetesTarget, Place, Target as _, TargetError};
use slipway_deploy::traffic::{KubernetesTraffic, Traffic as _, TrafficError};
use slipway_store::RolloutRow;

use crate::contract::image;
use crate::control_plane::{Plane, plane};
use crate::coordinator::Coordinator;
use crate::suites::version;

/// A namespace, the coordinator that deploys there, and the administrator who looks.
pub(crate) struct World {
    pub(crate) plane: Arc<Plane>,
    namespace: String,
    place: KubernetesPlace,
    pub(crate) coordinator: Coordinator,
}

pub(crate) fn name(version: &str) -> String {
    format!("slipway-{}", version.to_lowercase())
}

impl World {
    pub(crate) async fn start(namespace: &str, gateway: &str) -> Self {
        let plane = plane();
        let file = crate::rights::coordinator(&plane, namespace).unwrap();
        let place = KubernetesPlace {
            namespace: namespace.to_owned(),
            kubeconfig: file.display().to_string(),
            gateway: gateway.to_owned(),
            ..KubernetesPlace::default()
        };
        let coordinator = Coordinator::start(place.clone()).await;
        Self {
            plane,
            namespace: namespace.to_owned(),
            place,
            coordinator,
        }
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let asked = ["get", kind, name, "-n", &self.namespace, "-o", "json"];
        let text = self.plane.admin(&asked, "").ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    /// The route's weights: (version's object, weight), as they are in the object.
    pub(crate) fn weights(&self) -> Vec<(String, u64)> {
        let route = self.get("httproute", "shop").unwrap_or_default();
        let backends = route.pointer("/spec/rules/0/backendRefs");
        let backends = backends.and_then(Value::as_array).cloned();
        let weight = |one: &Value| {
            let name = one["name"].as_str().unwrap_or_default().to_owned();
            (name, one["weight"].as_u64().unwrap_or(1))
        };
        let mut all: Vec<_> = backends.unwrap_or_default().iter().map(weight).collect();
        all.retain(|(_, weight)| *weight > 0);
        all.sort();
        all
    }

    async fn completed(&mut self, strategy: &str, word: &str) -> RolloutRow {
        let id = self.coordinator.deploy(strategy, word).await;
        let row = self.coordinator.ended(&id).await;
        assert_eq!(row.status, "completed", "{row:#?}");
        row
    }

    pub(crate) fn replicas(&self, version: &str) -> Option<u64> {
        let found = self.get("deployment", &name(version))?;
        found["spec"]["replicas"].as_u64()
    }
}

fn token(object: &Value) -> u64 {
    let token = object["metadata"]["annotations"]["slipway.dev/token"].as_str();
    token.and_then(|token| token.parse().ok()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_canary_moves_the_weights_of_its_route_step_by_step_and_back() {
    let mut world = World::start("canary", "edge/public").await;
    let one = world.completed("canary", "one").await;
    let all = vec![(name(&one.target_version), 10_000)];
    assert_eq!(world.weights(), all);

    let id = world.coordinator.deploy("canary", "two").await;
    let mut seen = BTreeSet::new();
    let row = loop {
        let row = world.coordinator.db.rollout(&id).await.unwrap().unwrap();
        let weights = world.weights();
        let sum: u64 = weights.iter().map(|(_, weight)| weight).sum();
        assert_eq!(sum, 10_000, "{weights:?}");
        let new = name(&row.target_version);
        seen.extend(
            weights
                .into_iter()
                .filter(|(n, _)| *n == new)
                .map(|(_, w)| w),
        );
        if row.status != "in_progress" {
            break row;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(seen, BTreeSet::from([1_000, 5_000, 10_000]));
    assert_eq!(world.weights(), [(name(&row.target_version), 10_000)]);
    // The old version stays as it is until its time is over.
    assert_eq!(world.replicas(&one.target_version), Some(2));
    assert_eq!(world.replicas(&row.target_version), Some(2));
    let route = world.get("httproute", "shop").unwrap();
    let made = world.get("deployment", &name(&row.target_version)).unwrap();
    let container = &made["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], json!(image("two")));
    is_refused_to_the_stale(&world, &row, token(&route)).await;

    let back = world.coordinator.roll_back(&id).await;
    let row = world.coordinator.ended(&back).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(world.weights(), all);
    let route = world.get("httproute", "shop").unwrap();
    assert!(token(&route) > token(&made), "the token grew");
}

/// A coordinator that was replaced changes nothing any more.
async fn is_refused_to_the_stale(world: &World, row: &RolloutRow, seen: u64) {
    let account = world.plane.account("slipway", "slipway-coordinator");
    let cluster = world
        .plane
        .cluster(&account.unwrap(), &world.namespace)
        .await;
    let before = world.weights();
    let fence = Fence {
        token: seen - 1,
        generation: 999,
    };
    let traffic = KubernetesTraffic::on(cluster.clone(), &world.place);
    let reading = traffic.read("shop/production").await.unwrap();
    let stale = traffic.apply(fence, &reading.table.unwrap()).await;
    assert!(
        matches!(stale, Err(TrafficError::StaleToken { seen: s }) if s == seen),
        "{stale:?}"
    );
    let target = KubernetesTarget::on(cluster);
    let place = Place {
        service_id: row.service_id.clone(),
        environment_id: row.environment_id.clone(),
        service: "shop".to_owned(),
    };
    let stale = target
        .ensure(fence, &place, &version(&image("three"), 1))
        .await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { .. })),
        "{stale:?}"
    );
    let old = target
        .retire(fence, &place, &row.target_version, Duration::ZERO)
        .await;
    assert!(
        matches!(old, Err(TargetError::StaleToken { .. })),
        "{old:?}"
    );
    assert_eq!(world.weights(), before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn blue_green_switches_a_selector_and_back_and_a_broken_version_leaves_nothing() {
    let mut world = World::start("bluegreen", "").await;
    let one = world.completed("blue-green", "one").await;
    let selected = |world: &World| {
        let service = world.get("service", "shop").unwrap();
        service["spec"]["selector"]["slipway.dev/version"].clone()
    };
    assert_eq!(selected(&world), json!(one.target_version));

    let id = world.coordinator.deploy("blue-green", "broken").await;
    let row = world.coordinator.ended(&id).await;
    assert_eq!(row.status, "failed", "{row:#?}");
    assert_eq!(selected(&world), json!(one.target_version));
    assert_eq!(world.replicas(&row.target_version), None);

    // Killed in the middle of it.
    let id = world.coordinator.deploy("blue-green", "two").await;
    let moved = |row: &RolloutRow| ["warm", "shift", "watch"].contains(&row.phase.as_str());
    world.coordinator.until(&id, "is under way", moved).await;
    world.coordinator.crash().await;
    let two = world.coordinator.ended(&id).await;
    assert_eq!(two.status, "completed", "{two:#?}");
    assert_eq!(selected(&world), json!(two.target_version));

    let clock = Clock::system();
    let asked = clock.monotonic();
    let back = world.coordinator.roll_back(&id).await;
    let row = world.coordinator.ended(&back).await;
    let took = clock.monotonic() - asked;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(selected(&world), json!(one.target_version));
    assert!(took < Duration::from_secs(30), "the way back took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_route_that_somebody_changes_is_left_to_them_and_taken_on_the_way_back() {
    let mut world = World::start("foreign", "edge/public").await;
    let one = world.completed("canary", "one").await;
    let id = world.coordinator.deploy("canary", "two").await;
    let bakes = |row: &RolloutRow| row.phase == "bake";
    world.coordinator.until(&id, "bakes", bakes).await;
    let theirs = r#"[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 7000},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 3000}]"#;
    let patch = ["patch", "httproute", "shop", "-n", "foreign", "--type=json"];
    let patched = world
        .plane
        .admin(&[&patch[..], &["-p", theirs]].concat(), "");
    patched.unwrap();
    let changed = world.weights();
    let pauses = |row: &RolloutRow| row.phase == "paused";
    let row = world.coordinator.until(&id, "pauses", pauses).await;
    let reason = row.reason.clone().unwrap_or_default();
    assert!(reason.contains("`kubectl-patch`"), "{row:#?}");
    assert_eq!(world.weights(), changed, "it is theirs");

    // Somebody resumes it without putting it back: it is still theirs.
    let events = world.coordinator.phases(&id).await;
    world.coordinator.resume(&id).await;
    let again = format!("pauses again, after {events} phases");
    let reached = slipway_tests::eventually(&again, Duration::from_secs(30), || async {
        let more = world.coordinator.phases(&id).await >= events + 2;
        let row = world.coordinator.db.rollout(&id).await.unwrap().unwrap();
        (more && row.phase == "paused").then_some(())
    });
    reached.await.unwrap();
    assert_eq!(world.weights(), changed);

    world.coordinator.abort(&id).await;
    let row = world.coordinator.ended(&id).await;
    assert_eq!(row.status, "rolled_back", "{row:#?}");
    assert_eq!(world.weights(), [(name(&one.target_version), 10_000)]);
    assert_eq!(world.replicas(&row.target_version), None);
    // The next one finds a route that is its own again.
    world.completed("canary", "three").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn rolling_parks_the_old_version_as_the_new_one_takes_over_and_starts_it_again_to_go_back() {
    let mut world = World::start("rolling", "edge/public").await;
    let one = world.completed("rolling", "one").await;
    let id = world.coordinator.deploy("rolling", "two").await;
    let two = world.coordinator.ended(&id).await;
    assert_eq!(two.status, "completed", "{two:#?}");
    assert_eq!(world.weights(), [(name(&two.target_version), 10_000)]);
    assert_eq!(world.replicas(&two.target_version), Some(2));
    assert!(
        world.replicas(&one.target_version) < Some(2),
        "it is parked"
    );
    let back = world.coordinator.roll_back(&id).await;
    let row = world.coordinator.ended(&back).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(world.weights(), [(name(&one.target_version), 10_000)]);
    assert_eq!(world.replicas(&one.target_version), Some(2));
}
