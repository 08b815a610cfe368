//! Stories through one process with fakes.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde_json::json;
use slipway_agent::sandbox::fake::Script;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};
use slipway_tests::{Cluster, Parts, eventually};

use crate::ZERO;

const SOON: Duration = Duration::from_secs(30);

const CHAIN: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  first:\n    commands: [echo one]\n  second:\n    needs: [first]\n    commands: [echo two]\n";

#[tokio::test]
async fn a_push_becomes_a_build_with_a_log() {
    let cluster = Cluster::start().await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let hook = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let sha = cluster.commit(1, CHAIN);
    let output = Bytes::from_static(b"hello from a stage\n");
    cluster.sandbox.script(
        "echo one",
        Script {
            output,
            ..Script::default()
        },
    );
    hook.deliver(&cluster.rest, "d", hook.push_body(ZERO, &sha))
        .await
        .unwrap();
    let row = cluster.rest.decided(&hook, "d", SOON).await.unwrap();
    let build = row["build_id"].as_str().unwrap();
    let ended = cluster.rest.build_ended(build, SOON).await.unwrap();
    assert_eq!(ended["status"], "passed", "{ended}");
    let log = cluster
        .rest
        .get(&format!("/builds/{build}/logs"))
        .await
        .unwrap();
    assert!(log.to_string().contains("hello from a stage"), "{log}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_failed_stage_fails_the_build_and_skips_what_needs_it() {
    let cluster = Cluster::start().await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let hook = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let sha = cluster.commit(1, CHAIN);
    cluster.sandbox.script(
        "echo one",
        Script {
            code: 7,
            ..Script::default()
        },
    );
    hook.deliver(&cluster.rest, "d", hook.push_body(ZERO, &sha))
        .await
        .unwrap();
    let row = cluster.rest.decided(&hook, "d", SOON).await.unwrap();
    let ended = cluster
        .rest
        .build_ended(row["build_id"].as_str().unwrap(), SOON)
        .await
        .unwrap();
    assert_eq!(ended["status"], "failed");
    assert_eq!(ended["stages"][0]["exit_code"], 7);
    assert_eq!(ended["stages"][1]["status"], "skipped", "{ended}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_cancelled_build_ends_once_and_starts_nothing_more() {
    let cluster = Cluster::start().await;
    cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let sha = cluster.commit(1, CHAIN);
    cluster.source.set_head(FAKE_URL, "refs/heads/main", &sha);
    let takes = Duration::from_secs(300);
    cluster.sandbox.script(
        "echo one",
        Script {
            takes,
            ..Script::default()
        },
    );
    let made = cluster
        .rest
        .post("/builds", json!({"repo_url": FAKE_URL}))
        .await
        .unwrap();
    let build = made["build_id"].as_str().unwrap();
    cluster
        .rest
        .stage_is(build, "first", "running", SOON)
        .await
        .unwrap();
    let path = format!("/builds/{build}/cancel");
    let answer = cluster.rest.call(Method::POST, &path, None).await.unwrap();
    assert!((200..300).contains(&answer.status), "{}", answer.text);
    let ended = cluster.rest.build_ended(build, SOON).await.unwrap();
    assert_eq!(ended["status"], "cancelled", "{ended}");
    assert_eq!(cluster.sandbox.created(), 1, "the second stage never began");
    cluster.stop().await;
}

#[tokio::test]
async fn restart_in_every_state_of_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let parts = |agents| Parts {
        agents,
        dir: Some(folder.path().to_owned()),
        ..Parts::default()
    };
    // Nobody to execute it: the build waits, and goes on waiting after a restart.
    let cluster = Cluster::start_with(parts(0)).await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let hook = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let sha = cluster.commit(1, CHAIN);
    hook.deliver(&cluster.rest, "built", hook.push_body(ZERO, &sha))
        .await
        .unwrap();
    let row = cluster.rest.decided(&hook, "built", SOON).await.unwrap();
    let build = row["build_id"].as_str().unwrap().to_owned();
    // A repository that does not answer: the delivery waits for it.
    cluster.source.set_broken(true);
    let other = cluster.commit(2, CHAIN);
    hook.deliver(&cluster.rest, "waits", hook.push_body(&sha, &other))
        .await
        .unwrap();
    cluster.stop().await;

    let cluster = Cluster::start_with(parts(1)).await;
    let (_, _) = (cluster.commit(1, CHAIN), cluster.commit(2, CHAIN));
    let ended = cluster.rest.build_ended(&build, SOON).await.unwrap();
    assert_eq!(ended["status"], "passed");
    let row = cluster.rest.decided(&hook, "waits", SOON).await.unwrap();
    assert_eq!(row["state"], "built", "{row}");
    let later = row["build_id"].as_str().unwrap();
    assert_eq!(
        cluster.rest.build_ended(later, SOON).await.unwrap()["status"],
        "passed"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn reconcile_finds_dropped_push() {
    const MOVED: u32 = 200;
    let cluster = Cluster::start_with(Parts {
        reconcile_seconds: 1,
        ..Parts::default()
    })
    .await;
    let name = |n: u32| format!("refs/heads/topic-{n}");
    for n in 0..MOVED {
        let sha = cluster.commit(n + 1, ONE_STAGE);
        cluster.source.set_head(FAKE_URL, &name(n), &sha);
    }
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let hook = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let id = repo.parse().unwrap();
    eventually("the heads are learned", SOON, || async {
        let heads = cluster.up.db.ref_heads(&id).await.ok()?;
        (heads.len() == MOVED as usize).then_some(())
    })
    .await
    .unwrap();
    // Every webhook is dropped while all of them move.
    let mut moved = Vec::new();
    for n in 0..MOVED {
        let sha = cluster.commit(1_000 + n, ONE_STAGE);
        cluster.source.set_head(FAKE_URL, &name(n), &sha);
        moved.push(sha);
    }
    let found = eventually("a build per moved head", SOON, || async {
        let all = cluster
            .rest
            .get("/builds?event=reconciled&limit=200")
            .await
            .ok()?;
        let all = all["items"].as_array()?.clone();
        (all.len() >= MOVED as usize).then_some(all)
    })
    .await
    .unwrap();
    let mut built: Vec<_> = found
        .iter()
        .map(|b| b["commit_sha"].as_str().unwrap().to_owned())
        .collect();
    built.sort();
    moved.sort();
    assert_eq!(built, moved, "one each, and nothing else");
    // The webhook comes after all: it joins.
    let body = hook.push_body_of(&name(0), ZERO, &format!("{:040x}", 1_000));
    hook.deliver(&cluster.rest, "late", body).await.unwrap();
    let row = cluster.rest.decided(&hook, "late", SOON).await.unwrap();
    assert_eq!(row["state"], "attached", "{row}");
    cluster.stop().await;
}
