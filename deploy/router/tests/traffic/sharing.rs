//! Two versions that share traffic: exact shares, clients that stay, the tripwire, the lease.

use std::time::Duration;

use http::Method;
use slipway_core::traffic::{CanaryLease, Stickiness, TrafficTable};
use slipway_proto::v1;

use super::harness::{Backend, Client, Router, free_address, request, table};

/// A router with its folder, where it listens for a service, and two instances; `kind` is the second one's.
async fn begin(kind: &'static str) -> (tempfile::TempDir, Router, String, Backend, Backend) {
    let dir = tempfile::tempdir().unwrap();
    let router = Router::start(dir.path()).await;
    let (old, new) = (Backend::start("old").await, Backend::start(kind).await);
    (dir, router, free_address(), old, new)
}

/// `old` and `new` share traffic; `new` is the canary.
fn shared(listen: &str, old: &Backend, new: &Backend, weight_bp: u32) -> TrafficTable {
    let shares: [(&str, u32, &[&str]); 2] = [
        ("old", 10_000 - weight_bp, &[&old.address]),
        ("new", weight_bp, &[&new.address]),
    ];
    let mut table = table(listen, &shares);
    table.canary = "new".to_owned();
    table
}

async fn read(router: &mut Router) -> v1::ServiceState {
    let ask = v1::ReadRequest {
        service: "shop".to_owned(),
    };
    let mut all = router
        .control
        .read(ask)
        .await
        .unwrap()
        .into_inner()
        .services;
    all.pop().unwrap()
}

fn weight_of(state: &v1::ServiceState, version: &str) -> u32 {
    let table = state.table.as_ref().unwrap();
    let share = table.versions.iter().find(|one| one.version == version);
    share.map_or(0, |share| share.weight_bp)
}

async fn until_weight(router: &mut Router, weight: u32, limit: Duration) -> Duration {
    let clock = slipway_daemon::Clock::system();
    let began = clock.monotonic();
    while weight_of(&read(router).await, "new") != weight {
        let waited = clock.monotonic() - began;
        assert!(waited < limit, "not {weight} after {waited:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    clock.monotonic() - began
}

#[tokio::test(flavor = "multi_thread")]
async fn one_percent_is_exactly_one_in_a_hundred() {
    let (_dir, mut router, listen, old, new) = begin("new").await;
    router
        .switch(1, 1, &shared(&listen, &old, &new, 100))
        .await
        .unwrap();
    let mut client = Client::connect(&listen).await;
    for _ in 0..500 {
        client.send(Method::GET, &[], b"").await.unwrap();
    }
    assert_eq!(router.counters("new").await.completed, 5);
    assert_eq!(router.counters("old").await.completed, 495);
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_stays_where_it_is_while_the_weight_rises() {
    let (_dir, mut router, listen, old, new) = begin("new").await;
    let auto = |weight| {
        let mut table = shared(&listen, &old, &new, weight);
        table.stickiness = Stickiness::Auto;
        table
    };
    router.switch(1, 1, &auto(5_000)).await.unwrap();
    let navigation = [("sec-fetch-mode", "navigate")];
    let mut browsers = Vec::new();
    for _ in 0..60 {
        let answer = request(&listen, Method::GET, &navigation, b"").await;
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
        let id = cookie.split(';').next().unwrap().to_owned();
        browsers.push((id, answer.body().starts_with(b"new ")));
    }
    let inside = browsers.iter().filter(|(_, new)| *new).count();
    assert!((10..50).contains(&inside), "{inside} of 60 at one half");
    router.switch(1, 2, &auto(7_500)).await.unwrap();
    for (id, was_new) in &browsers {
        for _ in 0..3 {
            let headers = [("cookie", id.as_str()), ("sec-fetch-mode", "navigate")];
            let answer = request(&listen, Method::GET, &headers, b"").await;
            let is_new = answer.body().starts_with(b"new ");
            assert!(
                is_new || !was_new,
                "the one half stay in the three quarters"
            );
            assert!(
                !answer.headers().contains_key("set-cookie"),
                "it has its id"
            );
        }
    }
    // Who is no browser takes turns, and is given nothing.
    let answer = request(&listen, Method::GET, &[], b"").await;
    assert!(!answer.headers().contains_key("set-cookie"));
    // And with one version, nobody is given anything.
    router.switch(1, 3, &auto(10_000)).await.unwrap();
    let answer = request(&listen, Method::GET, &navigation, b"").await;
    assert!(!answer.headers().contains_key("set-cookie"));
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_known_by_a_header_when_the_table_says_so() {
    let (_dir, mut router, listen, old, new) = begin("new").await;
    let mut table = shared(&listen, &old, &new, 5_000);
    table.stickiness = Stickiness::Header("x-user".to_owned());
    router.switch(1, 1, &table).await.unwrap();
    for user in ["ann", "bob", "cem", "dan", "eve"] {
        let first = request(&listen, Method::POST, &[("x-user", user)], b"x").await;
        for _ in 0..5 {
            let again = request(&listen, Method::POST, &[("x-user", user)], b"x").await;
            assert_eq!(again.body(), first.body(), "{user}");
        }
    }
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_half_is_out_within_a_second_and_gets_no_weight_again() {
    let (dir, mut router, listen, old, bad) = begin("bad").await;
    router
        .switch(1, 1, &shared(&listen, &old, &bad, 5_000))
        .await
        .unwrap();
    let mut client = Client::connect(&listen).await;
    for _ in 0..60 {
        client.send(Method::GET, &[], b"").await.unwrap();
    }
    let took = until_weight(&mut router, 0, Duration::from_secs(2)).await;
    assert!(took < Duration::from_secs(1), "out after {took:?}");
    let state = read(&mut router).await;
    assert_eq!(state.tripped_version, "new");
    assert!(state.tripped_reason.contains("requests failed within 10 s"));
    assert_eq!(weight_of(&state, "old"), 10_000);
    let refused = router.switch(1, 2, &shared(&listen, &old, &bad, 100)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.metadata().get("slipway-reason").unwrap(), "tripped");
    router.stop().await;
    // Not even after a restart.
    let mut router = Router::start(dir.path()).await;
    let again = router.switch(2, 3, &shared(&listen, &old, &bad, 100)).await;
    assert!(again.is_err(), "the tripwire forgot");
    assert_eq!(weight_of(&read(&mut router).await, "old"), 10_000);
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_nobody_looks_after_loses_its_weight_above_a_tenth() {
    let (_dir, mut router, listen, old, new) = begin("new").await;
    let leased = |weight, revert| {
        let mut table = shared(&listen, &old, &new, weight);
        table.lease = Some(CanaryLease { ms: 1_000, revert });
        table
    };
    router.switch(1, 1, &leased(5_000, true)).await.unwrap();
    let fence = v1::Fence {
        token: 1,
        generation: 1,
        idempotency_key: String::new(),
    };
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let renew = v1::RenewLeaseRequest {
            service: "shop".to_owned(),
            fence: Some(fence.clone()),
        };
        router.control.renew_lease(renew).await.unwrap();
        assert_eq!(weight_of(&read(&mut router).await, "new"), 5_000, "renewed");
    }
    until_weight(&mut router, 0, Duration::from_secs(3)).await;
    assert_eq!(
        read(&mut router).await.tripped_version,
        "",
        "it did nothing wrong"
    );
    // The coordinator is back: it gives the weight again.
    router.switch(1, 2, &leased(5_000, true)).await.unwrap();
    // Up to a tenth, weight stays.
    router.switch(1, 3, &leased(1_000, false)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert_eq!(weight_of(&read(&mut router).await, "new"), 1_000);
    let old_owner = v1::RenewLeaseRequest {
        service: "shop".to_owned(),
        fence: Some(v1::Fence { token: 0, ..fence }),
    };
    assert!(router.control.renew_lease(old_owner).await.is_err());
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_of_the_clients_are_counted_apart() {
    let (_dir, mut router, listen, old, new) = begin("new").await;
    let mut table = shared(&listen, &old, &new, 5_000);
    table.stickiness = Stickiness::Header("x-user".to_owned());
    router.switch(1, 1, &table).await.unwrap();
    let mut client = Client::connect(&listen).await;
    for user in 0..100 {
        let user = format!("user-{user}");
        client
            .send(
                Method::GET,
                &[("x-user", user.as_str()), ("x-status", "500")],
                b"",
            )
            .await
            .unwrap();
    }
    let (old, new) = (router.counters("old").await, router.counters("new").await);
    let second = old.half_completed + new.half_completed;
    assert!(
        (25..75).contains(&second),
        "{second} of 100 in the second half"
    );
    assert_eq!(old.half_bad, old.half_completed);
    router.stop().await;
}
