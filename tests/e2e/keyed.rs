//! `cache:` of a stage: the second build begins with what the first one left, through real processes and
//! real containers.

use std::time::Duration;

use serde_json::{Value, json};
use slipway_tests::Repository;

use crate::place::Place;

const LIMIT: Duration = Duration::from_secs(120);
/// Keeps a folder under a digest of `lock`, and says whether it was there at its begin.
const PIPELINE: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  make:\n    memoize: false\n    cache:\n      key: \"deps-${{ hash('lock') }}\"\n      restore_keys: [deps-]\n      paths: [deps/kept]\n    commands:\n      - if test -f deps/kept/file; then echo found $(cat deps/kept/file); else echo nothing there; fi\n      - mkdir -p deps/kept\n      - cat lock > deps/kept/file\n";

async fn build(place: &Place, url: &str, commit: &str) -> Vec<String> {
    let body = json!({"repo_url": url, "commit_sha": commit, "no_cache": true});
    let started = place.rest.post("/builds", body).await.expect("started");
    let id = started["build_id"].as_str().expect("an id");
    let ended = place.rest.build_ended(id, LIMIT).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended:#}");
    let path = format!("/builds/{id}/logs?stage=make");
    let found = place.rest.get(&path).await.expect("readable");
    let lines = found["logs"].as_array().expect("lines");
    let text = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
    lines.iter().map(text).collect()
}

fn says(log: &[String], text: &str) -> bool {
    log.iter().any(|line| line.contains(text))
}

#[tokio::test]
async fn the_second_build_begins_with_what_the_first_one_left() {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    place.start_agent("a").await;
    let repository = Repository::create(place.dir(), "shop");
    repository.write(".slipway.yml", PIPELINE);
    repository.write("lock", "one\n");
    let url = repository.url.clone();
    place.rest.add_repository(&url).await.expect("added");
    let commit = repository.push("first");

    let first = build(&place, &url, &commit).await;
    assert!(says(&first, "nothing there"), "{first:#?}");
    assert!(
        says(&first, ": miss") && says(&first, ": saved, 1 file"),
        "{first:#?}"
    );
    let second = build(&place, &url, &commit).await;
    assert!(
        says(&second, "found one") && says(&second, ": hit, 1 file"),
        "{second:#?}"
    );
    assert!(!says(&second, "saved"), "{second:#?}");

    // Of another digest: the nearest one, and its own from then on.
    repository.write("lock", "two\n");
    let commit = repository.push("second");
    let third = build(&place, &url, &commit).await;
    assert!(
        says(&third, "found one") && says(&third, "begins with `deps-"),
        "{third:#?}"
    );
    assert!(says(&third, ": saved, 1 file"), "{third:#?}");
    let fourth = build(&place, &url, &commit).await;
    assert!(
        says(&fourth, "found two") && says(&fourth, ": hit, 1 file"),
        "{fourth:#?}"
    );

    // Another repository with the same file and the same key finds nothing.
    let other = Repository::create(place.dir(), "other");
    other.write(".slipway.yml", PIPELINE);
    other.write("lock", "two\n");
    place.rest.add_repository(&other.url).await.expect("added");
    let theirs = build(&place, &other.url, &other.push("first")).await;
    assert!(
        says(&theirs, "nothing there") && says(&theirs, ": miss"),
        "{theirs:#?}"
    );
}
