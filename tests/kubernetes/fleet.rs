//! Agents as pods, with the rights that the shipped manifest gives the dispatcher and no others.

use std::path::Path;

use slipway_dispatcher::config::FleetConfig;
use slipway_dispatcher::fleet::FleetProvider as _;
use slipway_dispatcher::fleet::contract::{keeps_the_contract, order};
use slipway_dispatcher::fleet::kubernetes::{Pods, Template};

use crate::control_plane::plane;
use crate::rights::AGENTS;

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
    assert_eq!(plane.admin(&asked, "").unwrap(), "", "something is left");

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
