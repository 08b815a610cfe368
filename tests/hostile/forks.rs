//! Pull requests from repositories of somebody who may not push.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use slipway_proto::v1::Facts;
use slipway_tests::bare::hello;
use slipway_tests::cluster::FAKE_URL;
use slipway_tests::{BareAgent, Cluster, Hook, Parts};

const SOON: Duration = Duration::from_secs(20);
const ZERO: &str = "0000000000000000000000000000000000000000";

/// What somebody would write who wants the project's secrets and its production.
const GREEDY: &str = r#"
version: 1
on:
  push:
  pull_request:
stages:
  make:
    image: "slipway-busybox:1"
    commands: [make]
    sandbox: trusted
    priority: 9
    concurrency: {group: production}
  print:
    image: "slipway-busybox:1"
    commands: [env]
    environment: {A: {from_secret: TOKEN}}
  beside:
    image: "slipway-busybox:1"
    commands: [wget db]
    services:
      db: {image: "slipway-busybox:1", environment: {A: {from_secret: TOKEN}}}
  overwrite:
    build:
      tags: ["registry.example/shop:production"]
      push: true
deploy:
  service: shop
  image: "registry.example/shop@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  port: 8080
  health: {path: /health}
  environments:
    production: {strategy: blue-green}
"#;

pub(crate) async fn requested(cluster: &Cluster, hook: &Hook, sha: &str, from: u64) -> Value {
    let body = json!({
        "action": "opened", "number": 7, "repository": {"id": 1, "full_name": "demo/shop"},
        // What a payload says about rights is nobody's word.
        "sender": {"id": 1, "login": "admin"},
        "pull_request": {
            "number": 7, "title": "a gift", "user": {"login": "admin"},
            "author_association": "OWNER",
            "head": {"ref": "main", "sha": sha, "repo": {"id": from}},
            "base": {"ref": "main", "repo": {"id": 1}},
        },
    });
    let body = body.to_string().into_bytes();
    let delivery = format!("request-of-{from}");
    let mut headers = hook.headers(&delivery, &body);
    for (name, value) in &mut headers {
        if name == "x-github-event" {
            "pull_request".clone_into(value);
        }
    }
    let answer = hook
        .send(&cluster.rest, &headers, body)
        .await
        .expect("answered");
    assert_eq!(answer.status, 202, "{}", answer.text);
    built(cluster, hook, &delivery).await
}

async fn built(cluster: &Cluster, hook: &Hook, delivery: &str) -> Value {
    let row = cluster
        .rest
        .decided(hook, delivery, SOON)
        .await
        .expect("answered");
    assert_eq!(row["state"], "built", "{row}");
    let id = row["build_id"].as_str().unwrap_or_else(|| panic!("{row}"));
    cluster.rest.build_ended(id, SOON).await.expect("answered")
}

const PLAIN: &str = "version: 1\non:\n  pull_request:\nstages:\n  make:\n    image: slipway-busybox:1\n    commands: [make]\n";

#[tokio::test]
async fn code_from_outside_waits_for_an_agent_that_has_proven_its_sandbox() {
    let parts = Parts {
        agents: 0,
        ..Parts::default()
    };
    let cluster = Cluster::start_with(parts).await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let hook = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let mut unproven = BareAgent::join(&cluster).await;
    let theirs = cluster.commit(1, PLAIN);
    let waits = async {
        // It is asked for at once, and yet not given to whom has proven nothing.
        assert!(unproven.assigned(Duration::from_secs(1)).await.is_none());
        let queue = cluster.rest.get("/queue").await.unwrap();
        let reason = queue[0]["reason"].as_str().unwrap_or_default().to_owned();
        assert!(reason.contains("slipway doctor --agent"), "{queue}");
        let mut proven = hello();
        proven.facts = Some(Facts {
            strict_proven: true,
            ..Facts::default()
        });
        let mut proven = BareAgent::join_with(&cluster, proven).await;
        let assign = proven.assigned(SOON).await.expect("assigned");
        proven.succeed(assign.attempt).await;
    };
    let (build, ()) = tokio::join!(requested(&cluster, &hook, &theirs, 666), waits);
    assert_eq!(build["status"], "passed", "{build}");
    cluster.stop().await;
}

/// Status and reason by stage.
fn ends(build: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let stages = build["stages"].as_array().into_iter().flatten();
    assert_eq!(stages.clone().count(), 4, "the file is good: {build}");
    stages
        .map(|s| {
            (
                text(&s["stage_name"]),
                text(&s["status"]),
                text(&s["reason"]),
            )
        })
        .collect()
}

fn only_make_was_executed(build: &Value) {
    for (stage, status, reason) in ends(build) {
        let expected = if stage == "make" { "passed" } else { "skipped" };
        assert_eq!(status, expected, "{stage}: {reason}");
        assert_eq!(
            reason.contains("from outside"),
            stage != "make",
            "{stage}: {reason}"
        );
    }
}

#[tokio::test]
async fn hostile_h042_a_forks_file_gets_no_secret_no_image_and_no_deployment() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let repo = rest.add_repository(FAKE_URL).await.unwrap();
    let secret = format!("/repositories/{repo}/secrets/TOKEN");
    rest.put(&secret, json!({"value": "canary-of-the-project"}))
        .await
        .unwrap();
    let hook = rest.add_hook(&repo, "github").await.unwrap();

    // The same file from somebody who may push: every stage is executed.
    let ours = cluster.commit(1, GREEDY);
    let push = hook.push_body(ZERO, &ours);
    hook.deliver(rest, "push", push).await.unwrap();
    let build = built(&cluster, &hook, "push").await;
    for (stage, status, reason) in ends(&build) {
        assert_ne!(status, "skipped", "{stage}: {reason}");
    }
    let executed = cluster.sandbox.created();

    let theirs = cluster.commit(2, GREEDY);
    let build = requested(&cluster, &hook, &theirs, 666).await;
    only_make_was_executed(&build);
    assert_eq!(cluster.sandbox.created(), executed + 1);

    // Nor by asking again, nor by asking for the deployment itself.
    let id = build["build_id"].as_str().unwrap();
    rest.post(
        &format!("/builds/{id}/retry"),
        json!({"failed_only": false}),
    )
    .await
    .unwrap();
    let build = rest.build_ended(id, SOON).await.unwrap();
    only_make_was_executed(&build);
    assert_eq!(cluster.sandbox.created(), executed + 2);
    let wish = json!({"build_id": id, "target_env": "production"});
    let answer = rest
        .call(Method::POST, "/deployments", Some(wish))
        .await
        .unwrap();
    assert_eq!(
        (answer.status, answer.code()),
        (409, "no_deploy_section"),
        "{}",
        answer.text
    );
    let logs = rest
        .call(Method::GET, &format!("/builds/{id}/logs"), None)
        .await
        .unwrap();
    assert!(
        !logs.text.contains("canary-of-the-project"),
        "{}",
        logs.text
    );

    // A pull request inside the project is the project's own.
    let inside = cluster.commit(3, GREEDY);
    let build = requested(&cluster, &hook, &inside, 1).await;
    for (stage, status, reason) in ends(&build) {
        assert_ne!(status, "skipped", "{stage}: {reason}");
    }
    cluster.stop().await;
}
