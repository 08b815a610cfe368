//! A service on several hosts: real engines over mutual TLS in network namespaces of their own, a real router on each,
//! one coordinator beside them.

mod parts;
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the suites of one host are other tests', and a test stops at what it did not expect"
)]
#[path = "../../../deploy/tests/contract/suites.rs"]
mod suites;
mod world;

use std::time::Duration;

use slipway_daemon::Clock;

use world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_blue_green_switch_on_two_hosts_moves_both_routers_and_drops_nothing() {
    let Some(mut world) = World::start(&["a", "b"]).await else {
        return;
    };
    let clients = world.clients();
    let id = world.deploy("two", "blue-green").await;
    let row = world.ended(&id).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    for name in ["a", "b"] {
        assert_eq!(
            world.weights(name).await,
            [(id.clone(), 10_000)],
            "host {name}"
        );
        assert_eq!(world.word(name).await, "two");
        assert_eq!(
            world.running(name, &id).len(),
            2,
            "four instances, two on each host"
        );
    }
    world.none_failed(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_has_an_instance_and_its_weight_on_each_of_three_hosts_and_drops_nothing() {
    let Some(mut world) = World::start(&["a", "b", "c"]).await else {
        return;
    };
    let clients = world.clients();
    let id = world.deploy("two", "canary").await;
    world
        .until(&id, "bakes at a tenth", |row| row.phase == "bake")
        .await;
    for name in ["a", "b", "c"] {
        assert!(!world.running(name, &id).is_empty(), "host {name}");
        let weights = world.weights(name).await;
        let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
        assert_eq!(sum, 10_000, "host {name}: {weights:?}");
    }
    let row = world.ended(&id).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    for name in ["a", "b", "c"] {
        assert_eq!(world.word(name).await, "two", "host {name}");
    }
    world.none_failed(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_stands_still_in_the_commit_brings_all_of_them_back_to_stable() {
    let Some(mut world) = World::start(&["a", "b", "c"]).await else {
        return;
    };
    let stable = world.good.clone();
    // All are prepared and none has committed when the coordinator stops; b does not answer when it goes on.
    world.fault("SLIPWAY_STOP_AT", "prepared route#1").await;
    let clients = world.clients_of(&["a", "c"]);
    let id = world.deploy("two", "blue-green").await;
    world.stopped().await;
    world.router("b").signal("STOP");
    world.go_on();
    let row = world.ended(&id).await;
    assert_eq!(row.status, "rolled_back", "{row:#?}");
    let reason = row.reason.unwrap_or_default();
    assert!(reason.contains("those of b did not"), "{reason}");
    for name in ["a", "c"] {
        world.carries(name, &stable).await;
    }
    // What it was told before may still reach it: it is brought to the others' table all the same.
    world.router("b").signal("CONT");
    world.carries("b", &stable).await;
    world.none_failed(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_between_prepare_and_commit_finishes_on_every_router() {
    let Some(mut world) = World::start(&["a", "b"]).await else {
        return;
    };
    world.fault("SLIPWAY_CRASH_AT", "prepared route#1").await;
    let clients = world.clients();
    let id = world.deploy("two", "blue-green").await;
    world.died().await;
    let stable = world.good.clone();
    for name in ["a", "b"] {
        assert_eq!(
            world.weights(name).await,
            [(stable.clone(), 10_000)],
            "prepared is not used"
        );
    }
    world.boot().await;
    let row = world.ended(&id).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    for name in ["a", "b"] {
        assert_eq!(
            world.weights(name).await,
            [(id.clone(), 10_000)],
            "host {name}"
        );
    }
    world.none_failed(clients).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_with_one_of_three_hosts_dead_goes_on_with_two_and_brings_the_third_back_later()
{
    let Some(mut world) = World::start(&["a", "b", "c"]).await else {
        return;
    };
    let stable = world.good.clone();
    let bad = world.deploy("two", "blue-green").await;
    assert_eq!(world.ended(&bad).await.status, "completed");
    let clients = world.clients_of(&["a", "b"]);
    world.machine("c").connect(false);
    let clock = Clock::system();
    let asked = clock.monotonic();
    let back = world.roll_back(&bad).await;
    let row = world.ended(&back).await;
    let took = clock.monotonic() - asked;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert!(
        took < Duration::from_secs(120),
        "the way back took {took:?}"
    );
    for name in ["a", "b"] {
        world.carries(name, &stable).await;
        assert_eq!(world.word(name).await, "one", "host {name}");
    }
    let events = world.events(&back).await;
    assert!(
        events
            .iter()
            .any(|text| text.contains("host c: unreachable")),
        "{events:#?}"
    );
    world.none_failed(clients).await;
    world.machine("c").connect(true);
    world.carries("c", &stable).await;
    assert_eq!(world.word("c").await, "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_in_the_middle_of_a_canary_leaves_and_converges_when_it_is_back() {
    let Some(mut world) = World::start(&["a", "b", "c"]).await else {
        return;
    };
    let clients = world.clients_of(&["a", "b"]);
    let id = world.deploy("two", "slow-canary").await;
    world.until(&id, "bakes", |row| row.phase == "bake").await;
    world.machine("c").connect(false);
    let row = world.ended(&id).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    for name in ["a", "b"] {
        world.carries(name, &id).await;
    }
    world.none_failed(clients).await;
    world.machine("c").connect(true);
    world.carries("c", &id).await;
    assert_eq!(world.word("c").await, "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_a_router_is_controlled_by_a_coordinator_and_by_nobody_else() {
    let Some(world) = World::start(&["a"]).await else {
        return;
    };
    world.others_are_refused("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_real_hosts_keep_the_contract_of_targets_and_of_traffic() {
    let Some(world) = World::empty(&["a", "b"]).await else {
        return;
    };
    let (target, traffic) = world.adapters();
    suites::target_suite_on(&target, &world.image("one"), 2).await;
    suites::traffic_suite_on(&traffic, "0.0.0.0:8090", true, &["@a", "@b"]).await;
}
