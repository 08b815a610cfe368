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

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_to_a_version_that_is_just_being_removed_starts_it_anew() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let second = world
        .deploy("production", &image('2'), |_| {})
        .await
        .unwrap();
    assert_eq!(world.ended(&second).await.status, "completed");
    let started = world.fakes.target.started().len();
    // Somebody wrote down that it removes the old version, and is in the middle of it: it still runs.
    let old = world.db.version(&first).await.unwrap().unwrap();
    let due = slipway_core::time::Timestamp::from_millis(old.retire_at.unwrap());
    assert!(world.db.begin_retirement(&old, due).await.unwrap());
    let back = roll_back(&world, &second).await.unwrap();
    let row = world.ended(&back.deployment_id).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(world.serving("production").await.as_ref(), Some(&first));
    assert_eq!(
        world.fakes.target.started().len(),
        started + 2,
        "what was to go is not what serves now"
    );
    // The other one comes to its end, too late.
    world.db.version_is_gone(&first).await.unwrap();
    let now = world.db.version(&first).await.unwrap().unwrap();
    assert_eq!((now.state.as_str(), now.retire_at), ("warm", None));
}
