//! Canary and rolling, step by step: gates, pauses, promotions, and the way back.

use std::time::Duration;

use serde_json::json;
use slipway_deploy::targets::Target as _;
use slipway_deploy::traffic::Traffic as _;
use slipway_proto::v1;

use super::harness::{Instance, World, as_user, image};
use super::{reason, serving_one};

/// One step, then everything; each is looked at for `bake_ms`.
pub(super) async fn canary(
    world: &mut World,
    weights: &[u32],
    bake_ms: u64,
    change: impl FnOnce(&mut serde_json::Value),
) -> (String, Instance) {
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let steps: Vec<serde_json::Value> = weights
        .iter()
        .map(|weight| json!({ "weight_bp": weight, "bake_ms": bake_ms, "approval": false }))
        .collect();
    let with = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["strategy"] = json!("canary");
        deploy["environments"][1]["steps"] = json!(steps);
        deploy["environments"][1]["watch_ms"] = json!(300);
        change(deploy);
    };
    let id = world.deploy("production", &image('2'), with).await.unwrap();
    (id, two)
}

async fn weight(world: &World, version: &str) -> u32 {
    let reading = world.fakes.traffic.read("shop/production").await.unwrap();
    let table = reading.table.unwrap();
    table.check().unwrap();
    table.weight_of(version)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_canary_goes_step_by_step_to_everything() {
    let (mut world, _one, first) = serving_one().await;
    let (id, _two) = canary(&mut world, &[1_000, 5_000, 10_000], 600, |_| {}).await;
    world
        .until(&id, "at 10 %", |row| row.canary_percentage == 10.0)
        .await;
    assert_eq!(weight(&world, &id).await, 1_000);
    // Two instances at the end, one for the first tenth.
    assert_eq!(world.fakes.target.started().len(), 3);
    // Traffic as it is shared, none of it worse.
    for _ in 0..4 {
        world.fakes.traffic.count("shop/production", &first, 900, 1);
        world.fakes.traffic.count("shop/production", &id, 100, 0);
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    world
        .until(&id, "at 50 %", |row| row.canary_percentage == 50.0)
        .await;
    assert_eq!(world.fakes.target.started().len(), 4);
    let row = world.ended(&id).await;
    assert_eq!(
        (row.status.as_str(), row.progress),
        ("completed", 100),
        "{row:#?}"
    );
    assert_eq!(world.serving("production").await, Some(id.clone()));
    let reading = world.fakes.traffic.read("shop/production").await.unwrap();
    let table = reading.table.unwrap();
    assert!(
        table.lease.is_none() && table.canary.is_empty(),
        "it is watched for ever"
    );
    let looks = world.db.rollout_health(&id, 100).await.unwrap();
    assert!(
        looks.iter().all(|look| look.threshold_alert == 0),
        "{looks:#?}"
    );
    assert!(looks.iter().any(|look| look.step_idx == 1));
    assert!(world.db.gate_ticks(&id, 0, 1_000).await.unwrap().len() > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_more_is_taken_back_with_its_numbers() {
    let (mut world, _one, first) = serving_one().await;
    let (id, _two) = canary(&mut world, &[1_000, 10_000], 60_000, |_| {}).await;
    world.until(&id, "baked", |row| row.phase == "bake").await;
    for _ in 0..3 {
        world.fakes.traffic.count("shop/production", &first, 900, 2);
        world.fakes.traffic.count("shop/production", &id, 100, 20);
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let row = world.ended(&id).await;
    assert_eq!(row.status, "rolled_back", "{row:#?}");
    let why = row.reason.unwrap_or_default();
    assert!(
        why.contains("canary requests failed") && why.contains("limit 2×"),
        "{why}"
    );
    assert_eq!(world.serving("production").await, Some(first));
    let looks = world.db.rollout_health(&id, 100).await.unwrap();
    let last = looks
        .iter()
        .rfind(|look| look.metric_name == "error_rate")
        .unwrap();
    assert_eq!((last.verdict.as_str(), last.threshold_alert), ("abort", 1));
    // What was kept says the same again.
    let rows = world.db.gate_ticks(&id, 0, 1_000).await.unwrap();
    assert!(rows.iter().any(|row| row.source == "router"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_died_in_a_bake_goes_on_with_what_was_counted() {
    let (mut world, _one, first) = serving_one().await;
    let (id, _two) = canary(&mut world, &[1_000, 10_000], 60_000, |_| {}).await;
    world.until(&id, "baked", |row| row.phase == "bake").await;
    world.fakes.traffic.count("shop/production", &first, 900, 0);
    world.fakes.traffic.count("shop/production", &id, 100, 10);
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.kill();
    // The router counts on without anybody.
    world.fakes.traffic.count("shop/production", &first, 900, 0);
    world.fakes.traffic.count("shop/production", &id, 100, 10);
    world.boot();
    let row = world.ended(&id).await;
    assert_eq!(row.status, "rolled_back");
    let why = row.reason.unwrap_or_default();
    assert!(
        why.contains("20 of 200 canary requests"),
        "nothing was lost: {why}"
    );
    assert_eq!(world.serving("production").await, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_pause_resume_and_promote() {
    let (mut world, _one, _first) = serving_one().await;
    let (id, _two) = canary(&mut world, &[1_000, 5_000, 10_000], 600_000, |_| {}).await;
    world.until(&id, "baked", |row| row.phase == "bake").await;
    let mut client = world.client().await;
    let pause = v1::PauseRequest {
        deployment_id: id.clone(),
        reason: "lunch".to_owned(),
    };
    client.pause(as_user("alice", pause)).await.unwrap();
    world
        .until(&id, "paused", |row| row.phase == "paused")
        .await;
    let resume = v1::ResumeRequest {
        deployment_id: id.clone(),
        reason: String::new(),
    };
    client.resume(as_user("alice", resume)).await.unwrap();
    world.until(&id, "goes on", |row| row.phase == "bake").await;
    let promote = |full| v1::PromoteRequest {
        deployment_id: id.clone(),
        reason: "good enough".to_owned(),
        full,
    };
    client
        .promote(as_user("alice", promote(false)))
        .await
        .unwrap();
    world
        .until(&id, "at 50 %", |row| {
            row.canary_percentage == 50.0 && row.phase == "bake"
        })
        .await;
    let refused = client
        .promote(as_user("vera", promote(true)))
        .await
        .unwrap_err();
    assert_eq!(
        refused.code(),
        tonic::Code::PermissionDenied,
        "{}",
        reason(&refused)
    );
    client
        .promote(as_user("alice", promote(true)))
        .await
        .unwrap();
    assert_eq!(world.ended(&id).await.status, "completed");
    assert_eq!(world.serving("production").await, Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_asks_for_agreement_waits_for_an_approver() {
    let (mut world, _one, _first) = serving_one().await;
    super::harness::token(&world.db, "dora", r#"["deployer"]"#).await;
    let asks = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["steps"][0]["approval"] = json!(true);
    };
    let (id, _two) = canary(&mut world, &[1_000, 10_000], 200, asks).await;
    world.until(&id, "asked", |row| row.phase == "paused").await;
    let mut client = world.client().await;
    let resume = v1::ResumeRequest {
        deployment_id: id.clone(),
        reason: String::new(),
    };
    let refused = client
        .resume(as_user("dora", resume.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    client.resume(as_user("alice", resume)).await.unwrap();
    assert_eq!(world.ended(&id).await.status, "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_goes_batch_by_batch_and_its_rollback_brings_the_stopped_ones_back() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let rolling = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["strategy"] = json!("rolling");
        deploy["environments"][1]["watch_ms"] = json!(60_000);
    };
    let id = world
        .deploy("production", &image('2'), rolling)
        .await
        .unwrap();
    world
        .until(&id, "watched", |row| row.phase == "watch")
        .await;
    assert_eq!(weight(&world, &id).await, 10_000);
    let place = slipway_deploy::targets::Place {
        service_id: String::new(),
        environment_id: String::new(),
        service: String::new(),
    };
    let running = |all: &slipway_deploy::targets::Instances, version: &str| {
        all[version]
            .iter()
            .filter(|one| one.address.is_some())
            .count()
    };
    let all = world.fakes.target.observe(&place).await.unwrap();
    assert_eq!(
        (running(&all, &first), running(&all, &id)),
        (1, 2),
        "one batch was stopped"
    );
    super::roll_back(&world, &id).await.unwrap();
    assert_eq!(world.ended(&id).await.status, "rolled_back");
    assert_eq!(world.serving("production").await, Some(first.clone()));
    let all = world.fakes.target.observe(&place).await.unwrap();
    assert_eq!(running(&all, &first), 2, "stopped instances are back");
    assert!(!all.contains_key(&id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseding_rollout_lets_the_one_before_go_back_to_stable_first() {
    let (mut world, _one, first) = serving_one().await;
    let (second, _two) = canary(&mut world, &[1_000, 10_000], 600_000, |_| {}).await;
    world
        .until(&second, "baked", |row| row.phase == "bake")
        .await;
    let three = Instance::start().await;
    world.fakes.target.serve(&image('3'), &three.address);
    let supersede = |deploy: &mut serde_json::Value| deploy["supersede"] = json!(true);
    let third = world
        .deploy("production", &image('3'), supersede)
        .await
        .unwrap();
    let row = world.ended(&second).await;
    assert_eq!(row.status, "rolled_back");
    assert_eq!(row.reason, Some(format!("superseded by {third}")));
    let row = world.ended(&third).await;
    assert_eq!(
        (row.status.as_str(), row.source_version),
        ("completed", Some(first))
    );
    assert_eq!(world.serving("production").await, Some(third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_whose_instances_end_by_themselves_is_taken_back() {
    let (mut world, _one, first) = serving_one().await;
    let (id, _two) = canary(&mut world, &[1_000, 10_000], 600_000, |_| {}).await;
    world.until(&id, "baked", |row| row.phase == "bake").await;
    // Stable has lived for seconds, the canary for as long: only many ends are evidence.
    for _ in 0..40 {
        world.fakes.target.crash(&format!("slipway-{id}-1"));
    }
    let row = world.ended(&id).await;
    assert_eq!(row.status, "rolled_back", "{row:#?}");
    let why = row.reason.unwrap_or_default();
    assert!(why.contains("ended by themselves"), "{why}");
    assert_eq!(world.serving("production").await, Some(first));
}
