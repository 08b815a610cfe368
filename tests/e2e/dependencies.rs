//! What a rollout needs is away: the engine of a Docker host, the image registry.

use std::time::Duration;

use serde_json::json;
use slipway_daemon::Clock;
use slipway_tests::{EngineSocket, ImageRegistry, traffic};

use crate::rollout::{Service, docker, image};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_while_a_version_is_watched_drops_no_request_and_nothing_is_left_half()
{
    let engine = EngineSocket::open();
    let address = engine.address();
    let Some(mut service) = Service::start_on(|target| target.docker = address).await else {
        return;
    };
    let clients = traffic::Traffic::start(service.address, 8);
    let id = service
        .deploy(&image("two"), json!(null))
        .await
        .expect("started");
    service
        .until(&id, "is watched", |row| row.phase == "watch")
        .await;
    engine.dies();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let row = service
        .db
        .rollout(&id)
        .await
        .expect("readable")
        .expect("there");
    let serving = service.serves().await;
    // Health and counters need no engine: it may have ended well meanwhile, or wait, or have gone back.
    assert!(
        ["one", "two"].contains(&serving.as_str()),
        "{serving}: {row:#?}"
    );
    engine.lives();
    let row = service.ended(&id).await;
    let expected = if row.status == "completed" {
        "two"
    } else {
        "one"
    };
    assert!(
        ["completed", "rolled_back"].contains(&row.status.as_str()),
        "{row:#?}"
    );
    assert_eq!(service.serves().await, expected, "{row:#?}");
    let seen = clients.stop().await;
    assert_eq!(seen.failures.len(), 0, "{:?}", seen.failures.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_no_dependencies_the_engine_is_dead_and_the_old_version_is_still_warm() {
    let engine = EngineSocket::open();
    let address = engine.address();
    let Some(mut service) = Service::start_on(|target| target.docker = address).await else {
        return;
    };
    let bad = service
        .deploy(&image("two"), json!(null))
        .await
        .expect("started");
    assert_eq!(service.ended(&bad).await.status, "completed");
    let clients = traffic::Traffic::start(service.address, 8);
    engine.dies();
    let clock = Clock::system();
    let asked = clock.monotonic();
    let back = service.roll_back(&bad).await;
    while service.serves().await != "one" {
        let waited = clock.monotonic() - asked;
        let row = service.db.rollout(&back).await.expect("readable");
        assert!(
            waited < Duration::from_secs(30),
            "traffic never went back: {row:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    engine.lives();
    assert_eq!(service.ended(&back).await.status, "completed");
    assert_eq!(service.serves().await, "one");
    let seen = clients.stop().await;
    assert_eq!(seen.failures.len(), 0, "{:?}", seen.failures.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_fails_a_new_version_before_any_traffic_and_no_rollback() {
    let Some(registry) = ImageRegistry::start() else {
        return;
    };
    let Some(mut service) = Service::start_on(|_| {}).await else {
        return;
    };
    let second = service
        .deploy(&image("two"), json!(null))
        .await
        .expect("started");
    assert_eq!(service.ended(&second).await.status, "completed");
    // Its image was pushed, is not on this host, and the registry goes away.
    let name = format!("{}/shop:three", registry.address);
    docker(&["tag", &image("three"), &name], "");
    docker(&["push", "-q", &name], "");
    let digest = docker(&["inspect", "-f", "{{index .RepoDigests 0}}", &name], "");
    assert!(digest.contains("@sha256:"), "pushed: {digest}");
    let id = image("three");
    docker(&["rmi", "-f", &name, &digest, &id], "");
    let left = docker(&["image", "inspect", "-f", "{{.Id}}", &digest], "");
    assert_eq!(left, "", "it is still here");
    drop(registry);
    let clients = traffic::Traffic::start(service.address, 8);
    let third = service.deploy(&digest, json!(null)).await.expect("started");
    let row = service.ended(&third).await;
    assert_eq!(
        (row.status.as_str(), row.canary_percentage),
        ("failed", 0.0),
        "{row:#?}"
    );
    let why = row.reason.unwrap_or_default();
    assert!(why.contains("pull"), "it says why: {why}");
    assert_eq!(service.serves().await, "two");
    let back = service.roll_back(&second).await;
    assert_eq!(service.ended(&back).await.status, "completed");
    assert_eq!(service.serves().await, "one");
    let seen = clients.stop().await;
    assert_eq!(seen.failures.len(), 0, "{:?}", seen.failures.first());
}
