//! Agents as pods, with the rights that the shipped manifest gives the dispatcher and no others.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use slipway_dispatcher::config::FleetConfig;
use slipway_dispatcher::fleet::FleetProvider as _;
use slipway_dispatcher::fleet::contract::{keeps_the_contract, order};
use slipway_dispatcher::fleet::kubernetes::{Pods, Template};

use crate::control_plane::{Plane, plane};
use crate::place::Place;
use crate::rights::AGENTS;

/// For a build whose agents have to be made first, on a loaded machine.
const SOON: Duration = Duration::from_secs(120);
/// Two listings, a minute apart, agree that a machine is nobody's.
const SWEPT: Duration = Duration::from_secs(240);

fn config(dir: &Path) -> FleetConfig {
    FleetConfig {
        directory: dir.to_owned(),
        dispatcher: "https://dispatcher.test:7701".to_owned(),
        ..FleetConfig::default()
    }
}

fn template(engine: &str) -> Template {
    Template {
        image: "registry.test/agent:1".to_owned(),
        engine_image: engine.to_owned(),
        service_account: String::new(),
        grace_seconds: 3_600,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn pods_keep_the_contract_and_leave_no_secret() {
    let plane = plane();
    let file = crate::rights::dispatcher(&plane).unwrap();
    let cluster = plane.cluster(&file, AGENTS).await;
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    // With the node's own engine, and with one beside the agent, which is privileged.
    for engine in ["", "registry.test/engine:1"] {
        let pods = |pool| Pods::of(cluster.clone(), "here", pool, template(engine));
        keeps_the_contract(&pods("contract"), &pods("contract"), &config).await;
    }
    let asked = ["get", "pods,secrets", "-n", AGENTS, "-o", "name"];
    let own = ["-l", "slipway.dev/pool=contract"];
    let left = plane.admin(&[&asked[..], &own].concat(), "").unwrap();
    assert_eq!(left, "", "something is left");

    // Another pool's pods, and those of somebody else, are not listed.
    let (ours, others) = (
        Pods::of(cluster.clone(), "here", "contract", template("")),
        Pods::of(cluster.clone(), "here", "other", template("")),
    );
    let foreign = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "theirs"},
        "spec": {"containers": [{"name": "x", "image": "registry.test/x:1"}]}}"#;
    plane
        .admin(&["apply", "-n", AGENTS, "-f", "-"], foreign)
        .unwrap();
    let five: Vec<_> = (10..15).map(|n| order(&config, n)).collect();
    for order in &five {
        ours.start(order).await.unwrap();
    }
    assert!(others.list().await.unwrap().machines.is_empty());
    let listed = ours.list().await.unwrap();
    assert_eq!((listed.machines.len(), listed.complete), (5, true));
    // The join token is where only the kubelet and the agent read it.
    let pods = ["get", "pods", "-n", AGENTS, "-o", "json"];
    assert!(!plane.admin(&pods, "").unwrap().contains("slpj_"));
    let secrets = ["get", "secrets", "-n", AGENTS, "-o", "json"];
    let read = crate::control_plane::kubectl(&file, &secrets, "").unwrap_err();
    assert!(read.to_string().contains("forbidden"), "{read}");
    // Elsewhere it may do nothing.
    let elsewhere = plane.cluster(&file, "default").await;
    let refused = Pods::of(elsewhere, "here", "contract", template(""));
    let error = refused.list().await.unwrap_err().to_string();
    assert!(error.contains("403"), "{error}");
}

/// The pods with this label, as they are.
fn pods(plane: &Plane, label: &str) -> Vec<Value> {
    let asked = ["get", "pods", "-n", AGENTS, "-l", label, "-o", "json"];
    let text = plane.admin(&asked, "").unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(all["items"].take()).unwrap()
}

/// Two stages at once: as many agents of one slot.
fn pipeline() -> String {
    let mut text =
        "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n".to_owned();
    for n in 0..2 {
        writeln!(text, "  part-{n}:\n    commands:\n      - sleep 3").unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_pool_grows_from_no_pod_executes_a_build_shrinks_and_ends_what_is_nobodys() {
    assert!(
        slipway_tests::require("docker").is_some(),
        "Docker is needed"
    );
    let plane = plane();
    let file = crate::rights::dispatcher(&plane).unwrap();
    let mut place = Place::sqlite().await;
    let variables = [("KUBECONFIG", file.display().to_string())];
    place.start_dispatcher_with(&variables).await;
    let provider = json!({"kind": "kubernetes", "namespace": AGENTS,
        "image": "registry.test/executed:1", "grace_seconds": 60});
    let settings =
        json!({"provider": provider, "max": 2, "idle_seconds": 2, "down_period_seconds": 1});
    let set = place
        .rest
        .call(reqwest::Method::PUT, "/pools/burst", Some(settings));
    let answer = set.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let ours = "slipway.dev/pool=burst";
    assert!(pods(&plane, ours).is_empty());

    let (hook, body) = place.pushed(&pipeline()).await;
    hook.deliver(&place.rest, "d", body).await.unwrap();
    let row = place.rest.decided(&hook, "d", SOON).await.unwrap();
    let id = row["build_id"].as_str().unwrap().to_owned();
    let two = slipway_tests::eventually("two agents are pods", SOON, || async {
        let pods = pods(&plane, ours);
        (pods.len() == 2).then_some(pods)
    });
    let two = two.await.unwrap();
    let ended = place.rest.build_ended(&id, SOON).await.unwrap();
    assert_eq!(ended["status"], "passed", "{ended}");
    let gone = slipway_tests::eventually("no pod and no secret is left", SOON, || async {
        let asked = ["get", "secrets", "-n", AGENTS, "-l", ours, "-o", "name"];
        let secrets = plane.admin(&asked, "").unwrap();
        (pods(&plane, ours).is_empty() && secrets.is_empty()).then_some(())
    });
    gone.await.unwrap();

    // A pod of this pool that no row speaks of, and one of another installation.
    let mut labels = two[0]["metadata"]["labels"].clone();
    labels["slipway.dev/agent"] = json!("01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let made = |name: &str, labels: &Value| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": AGENTS, "labels": labels},
            "spec": {"containers": [{"name": "x", "image": "registry.test/x:1"}]}});
        plane
            .admin(&["apply", "-f", "-"], &pod.to_string())
            .unwrap();
    };
    made("slipway-agent-01arz3ndektsv4rrffq69g5fav", &labels);
    labels["slipway.dev/fleet"] = json!("another");
    made("theirs-too", &labels);
    let swept = slipway_tests::eventually("the orphan is gone", SWEPT, || async {
        let left = pods(&plane, ours);
        (left.len() == 1).then_some(left)
    });
    let left = swept.await.unwrap();
    assert_eq!(left[0]["metadata"]["name"], "theirs-too");
}
