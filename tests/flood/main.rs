//! Webhooks are taken while everything else is sick. Alone in its process: it measures how long an answer
//! takes, and must not measure the tests beside it.

#[expect(
    dead_code,
    reason = "of a whole installation this needs the dispatcher"
)]
#[path = "../e2e/place.rs"]
mod place;

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use slipway_daemon::{Clock, Shutdown};
use slipway_store::conformance;
use slipway_tests::Rest;
use slipway_tests::cluster::ONE_STAGE;

use crate::place::Place;

/// The real binary.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_slipway-under-test"))
}

const ZERO: &str = "0000000000000000000000000000000000000000";

const SOON: Duration = Duration::from_secs(30);
/// Readers that ask again as soon as they are answered.
const CLIENTS: usize = 128;
/// Readers of a live log, where this process may open so many files.
const TAILS: usize = 2_000;
const DELIVERIES: usize = 40;
/// How long every commit takes, and how long the disk is free in between.
const COMMIT: Duration = Duration::from_millis(500);
const FREE: Duration = Duration::from_millis(120);

/// I-09: a flood of requests, thousands of live logs, and a disk that takes half a second per commit.
#[tokio::test(flavor = "multi_thread")]
async fn intake_isolation_under_api_flood() {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    let (hook, body) = place.pushed(ONE_STAGE).await;
    hook.deliver(&place.rest, "first", body.clone())
        .await
        .unwrap();
    let row = place.rest.decided(&hook, "first", SOON).await.unwrap();
    let build = row["build_id"].as_str().unwrap();

    let nemesis = Shutdown::new();
    let tails = tails(&nemesis, &place.rest, build).await;
    flood(&nemesis, &place.rest);
    slow_disk(&nemesis, &place).await;
    let clock = Clock::system();
    let mut took = Vec::new();
    for n in 0..DELIVERIES {
        let begun = clock.monotonic();
        let answer = hook
            .deliver(&place.rest, &format!("d{n}"), body.clone())
            .await
            .unwrap();
        assert!(matches!(answer.status, 200..300 | 503), "{}", answer.status);
        took.push(clock.monotonic() - begun);
    }
    nemesis.begin();
    nemesis.drained(SOON).await;
    took.sort();
    assert!(took[took.len() - 2] < Duration::from_secs(2), "{took:?}");
    assert!(took[took.len() - 1] < Duration::from_secs(10), "{took:?}");
    assert!(
        took[took.len() / 2] > COMMIT / 4,
        "the disk was not slow: {took:?}"
    );
    assert!(tails >= 300, "only {tails} live logs were open");
}

/// Opens live logs and holds them; answers with how many.
async fn tails(nemesis: &Shutdown, rest: &Rest, build: &str) -> usize {
    let path = format!("/builds/{build}/logs?follow=1");
    let mut open = Vec::new();
    while open.len() < files_allowed().min(TAILS) {
        let some = (0..50).map(|_| rest.request(Method::GET, &path).send());
        for tail in futures::future::join_all(some).await {
            let tail = tail.expect("a live log");
            assert_eq!(tail.status(), 200);
            open.push(tail);
        }
    }
    let count = open.len();
    let stop = nemesis.clone();
    nemesis.spawn("tails", async move {
        stop.cancelled().await;
        drop(open);
    });
    count
}

/// A third of what the system allows one process.
fn files_allowed() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<usize>().ok());
    soft.unwrap_or(1_024) / 3
}

fn flood(nemesis: &Shutdown, rest: &Rest) {
    for _ in 0..CLIENTS {
        let (rest, stop) = (rest.clone(), nemesis.clone());
        nemesis.spawn("flood", async move {
            while !stop.has_begun() {
                let _whatever = rest.call(Method::GET, "/builds?limit=200", None).await;
            }
        });
    }
}

/// Another process would not hold the lock of the database for so long; a slow disk does.
async fn slow_disk(nemesis: &Shutdown, place: &Place) {
    let (db, stop) = (place.db().await, nemesis.clone());
    nemesis.spawn("slow disk", async move {
        while !stop.has_begun() {
            if conformance::tamper(&db, "BEGIN IMMEDIATE").await.is_ok() {
                tokio::time::sleep(COMMIT).await;
                let _ended = conformance::tamper(&db, "COMMIT").await;
            }
            tokio::time::sleep(FREE).await;
        }
        db.close().await;
    });
}
