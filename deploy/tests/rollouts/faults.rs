//! What a rollout depends on goes away in the middle: the router, its counters, the target.

use std::time::Duration;

use serde_json::json;
use slipway_daemon::Clock;

use crate::harness::{Instance, World, image};
use crate::{roll_back, serving_one};

async fn canary(world: &mut World, bake_ms: u64) -> (String, Instance) {
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let step = |weight: u32| json!({ "weight_bp": weight, "bake_ms": bake_ms, "approval": false });
    let change = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["strategy"] = json!("canary");
        deploy["environments"][1]["steps"] = json!([step(1_000), step(5_000), step(10_000)]);
    };
    let id = world
        .deploy("production", &image('2'), change)
        .await
        .unwrap();
    (id, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blackout_of_the_counters_during_a_bake_promotes_nothing_until_they_are_back() {
    let (mut world, _one, _first) = serving_one().await;
    let (id, _two) = canary(&mut world, 500).await;
    world.until(&id, "baked", |row| row.phase == "bake").await;
    world.fakes.traffic.set_readable(false);
    let seen = world.row(&id).await;
    // Six times the bake.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let now = world.row(&id).await;
    assert_eq!(
        (now.phase.as_str(), now.canary_percentage),
        ("bake", seen.canary_percentage),
        "promoted blind: {now:#?}"
    );
    world.fakes.traffic.set_readable(true);
    assert_eq!(world.ended(&id).await.status, "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_cut_off_during_a_commit_is_asked_again_and_ends_with_one_proven_version() {
    let (mut world, _one, _first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    // From before the shift until it has been tried in vain.
    world.fakes.traffic.set_reachable(false);
    let id = world
        .deploy("production", &image('2'), |_| {})
        .await
        .unwrap();
    world
        .until(&id, "shifting", |row| row.phase == "shift")
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.row(&id).await.phase, "shift", "it goes on unproven");
    world.fakes.traffic.set_reachable(true);
    let row = world.ended(&id).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(world.serving("production").await, Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_answers_nothing_does_not_delay_the_way_back() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let long = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["watch_ms"] = json!(60_000);
    };
    let id = world.deploy("production", &image('2'), long).await.unwrap();
    world
        .until(&id, "watched", |row| row.phase == "watch")
        .await;
    world.fakes.target.set_readable(false);
    let clock = Clock::system();
    let asked = clock.monotonic();
    roll_back(&world, &id).await.unwrap();
    world
        .until(&id, "past the way back", |row| row.phase == "clean")
        .await;
    let took = clock.monotonic() - asked;
    assert!(took < Duration::from_secs(10), "the way back took {took:?}");
    assert_eq!(world.serving("production").await, Some(first));
    // Only what is left to be removed waits for the engine.
    world.fakes.target.set_readable(true);
    assert_eq!(world.ended(&id).await.status, "rolled_back");
}
