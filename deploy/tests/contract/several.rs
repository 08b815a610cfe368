//! Several hosts as one: the suites of targets and of traffic, and what only several can do wrong.
//!
//! Real engines and routers of several hosts are in the whole-system tests.

use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::Clock;
use slipway_deploy::several::{Host, Hosts, SeveralRouters, SeveralTargets};
use slipway_deploy::targets::fake::FakeTarget;
use slipway_deploy::targets::{Place, Target as _};
use slipway_deploy::traffic::fake::FakeTraffic;
use slipway_deploy::traffic::{Traffic as _, TrafficError};

use crate::suites::{fence, table_on, target_suite_on, traffic_suite_on, ulid, version};

struct Fakes {
    targets: Vec<Arc<FakeTarget>>,
    routers: Vec<Arc<FakeTraffic>>,
    target: SeveralTargets,
    traffic: SeveralRouters,
}

fn fakes(names: &[&str]) -> Fakes {
    let targets: Vec<Arc<FakeTarget>> = names.iter().map(|_| Arc::default()).collect();
    let routers: Vec<Arc<FakeTraffic>> = names.iter().map(|_| Arc::default()).collect();
    let all = names.iter().enumerate().map(|(index, name)| Host {
        name: (*name).to_owned(),
        listen: String::new(),
        engine: targets[index].clone(),
        router: routers[index].clone(),
    });
    let hosts = Hosts::new(all.collect(), Clock::system());
    Fakes {
        targets,
        routers,
        target: SeveralTargets(Arc::clone(&hosts)),
        traffic: SeveralRouters(hosts),
    }
}

#[tokio::test]
async fn two_fake_hosts_keep_the_contract() {
    let fakes = fakes(&["a", "b"]);
    target_suite_on(&fakes.target, "x", 2).await;
    let listen = "127.0.0.1:8081";
    traffic_suite_on(&fakes.traffic, listen, true, &["@a", "@b"]).await;
}

const ALL: [&str; 3] = ["@a", "@b", "@c"];

fn shared(weight: u32) -> slipway_core::traffic::TrafficTable {
    let weights = [("v1", 10_000 - weight), ("v2", weight)];
    let mut table = table_on("shop/production", "127.0.0.1:8081", &weights, &ALL);
    table.canary = "v2".to_owned();
    table
}

#[tokio::test]
async fn a_router_that_cannot_be_reached_before_the_commit_means_that_nothing_happened() {
    let fakes = fakes(&["a", "b", "c"]);
    fakes.traffic.apply(fence(1, 1), &shared(0)).await.unwrap();
    fakes.routers[1].set_reachable(false);
    let error = fakes
        .traffic
        .apply(fence(1, 2), &shared(1_000))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, TrafficError::Unknown(why) if why.contains("host b")),
        "{error}"
    );
    for router in [&fakes.routers[0], &fakes.routers[2]] {
        assert_eq!(
            router.read("shop/production").await.unwrap().fence,
            fence(1, 1)
        );
    }
}

#[tokio::test]
async fn a_commit_that_fails_somewhere_is_told_as_partial_and_the_way_back_goes_round_it() {
    let fakes = fakes(&["a", "b", "c"]);
    fakes.traffic.apply(fence(1, 1), &shared(0)).await.unwrap();
    // It can be read, and its next reply is lost.
    fakes.routers[1].lose_replies(1);
    let error = fakes
        .traffic
        .apply(fence(1, 2), &shared(1_000))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, TrafficError::Partial(why) if why.contains("those of b did not")),
        "{error}"
    );
    fakes.routers[1].set_reachable(false);
    let begun = Clock::system().monotonic();
    let mut done = fakes.traffic.take_back(fence(1, 3), &shared(0)).await;
    while done.is_err() && Clock::system().monotonic() - begun < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        done = fakes.traffic.take_back(fence(1, 3), &shared(0)).await;
    }
    done.unwrap();
    fakes.routers[1].set_reachable(true);
    let seen = fakes.traffic.read("shop/production").await.unwrap();
    assert_eq!(
        (seen.fence, seen.apart),
        (fence(1, 3), vec!["b".to_owned()])
    );
    assert_eq!(seen.table.unwrap().weight_of("v1"), 10_000);
    fakes
        .traffic
        .take_back(fence(1, 4), &shared(0))
        .await
        .unwrap();
    let seen = fakes.traffic.read("shop/production").await.unwrap();
    assert!(seen.apart.is_empty() && seen.fence == fence(1, 4));
}

#[tokio::test]
async fn counters_of_all_routers_are_one_sum_and_each_is_told_apart() {
    let fakes = fakes(&["a", "b"]);
    let weights = [("v1", 10_000)];
    let table = table_on("shop/production", "127.0.0.1:8081", &weights, &["@a", "@b"]);
    fakes.traffic.apply(fence(1, 1), &table).await.unwrap();
    fakes.routers[0].count("shop/production", "v1", 10, 1);
    fakes.routers[1].count("shop/production", "v1", 5, 2);
    let seen = fakes.traffic.read("shop/production").await.unwrap();
    let sum = &seen.counters["v1"];
    assert_eq!((sum.total, sum.bad), (15, 3));
    assert_eq!(seen.parts["b"].counters["v1"].total, 5);
}

#[tokio::test]
async fn nothing_is_stopped_on_a_host_whose_router_still_sends_it_requests_or_says_nothing() {
    let fakes = fakes(&["a", "b"]);
    let place = Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    };
    let version = version("x", 2);
    fakes
        .target
        .ensure(fence(1, 1), &place, &version)
        .await
        .unwrap();
    let weights = [(version.version_id.as_str(), 10_000)];
    let table = table_on("shop/production", "127.0.0.1:8081", &weights, &["@b"]);
    fakes.routers[1].apply(fence(1, 1), &table).await.unwrap();
    let id = &version.version_id;
    let error = fakes
        .target
        .retire(fence(1, 2), &place, id, Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("host b"), "{error}");
    assert!(fakes.targets[0].observe(&place).await.unwrap().is_empty());
    assert_eq!(fakes.targets[1].observe(&place).await.unwrap()[id].len(), 1);
    fakes.routers[1].set_reachable(false);
    let error = fakes
        .target
        .retire(fence(1, 2), &place, id, Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("host b"), "{error}");
    assert_eq!(fakes.targets[1].observe(&place).await.unwrap()[id].len(), 1);
}
