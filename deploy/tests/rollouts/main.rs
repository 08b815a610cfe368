//! The coordinator with a real store, real gRPC and real health checks, over fake targets and
//! routers.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod approvals;
mod canary;
mod faults;
mod full;
mod harness;
mod hostile;
mod starting;

use std::sync::atomic::Ordering;
use std::time::Duration;

use harness::{Instance, World, as_user, image};
use slipway_proto::v1;
use tonic::Status;

fn reason(status: &Status) -> &str {
    status
        .metadata()
        .get("slipway-reason")
        .map_or("", |value| value.to_str().unwrap())
}

async fn serving_one() -> (World, Instance, String) {
    let mut world = World::start().await;
    let one = Instance::start().await;
    world.fakes.target.serve(&image('1'), &one.address);
    let first = world
        .deploy("production", &image('1'), |_| {})
        .await
        .unwrap();
    let row = world.ended(&first).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    (world, one, first)
}

async fn roll_back(world: &World, id: &str) -> Result<v1::RollBackResponse, Status> {
    let ask = v1::RollBackRequest {
        deployment_id: id.to_owned(),
        reason: "it is bad".to_owned(),
        to: String::new(),
    };
    Ok(world
        .client()
        .await
        .roll_back(as_user("alice", ask))
        .await?
        .into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn blue_green_goes_forward_and_a_rollback_to_a_warm_version_takes_under_a_second() {
    let (mut world, _one, first) = serving_one().await;
    assert_eq!(
        world.row(&first).await.source_version,
        None,
        "the first has nothing before it"
    );
    assert_eq!(world.serving("production").await.as_ref(), Some(&first));
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let second = world
        .deploy("production", &image('2'), |_| {})
        .await
        .unwrap();
    let row = world.ended(&second).await;
    assert_eq!((row.status.as_str(), row.progress), ("completed", 100));
    assert_eq!(row.source_version.as_ref(), Some(&first));
    assert_eq!(world.serving("production").await.as_ref(), Some(&second));
    let old = world.db.version(&first).await.unwrap().unwrap();
    assert!(old.state == "warm" && old.retire_at.is_some());

    let clock = slipway_daemon::Clock::system();
    let back = roll_back(&world, &second).await.unwrap();
    assert_eq!(back.rolled_back_to_version, first);
    let row = world.ended(&back.deployment_id).await;
    let took = clock.monotonic();
    assert_eq!(row.status, "completed", "{row:#?}");
    assert!(took < Duration::from_secs(1), "the rollback took {took:?}");
    assert_eq!(world.serving("production").await.as_ref(), Some(&first));
    assert_eq!(world.row(&second).await.status, "rolled_back");
    assert_eq!(
        world.fakes.target.started().len(),
        4,
        "a warm version was started again"
    );
    // Asked again it is the same rollback; and nothing is left to go back to.
    assert_eq!(roll_back(&world, &second).await.unwrap(), back);
    let none = roll_back(&world, &back.deployment_id).await.unwrap_err();
    assert_eq!(reason(&none), "no_previous_version");
    let newer = roll_back(&world, &first).await.unwrap_err();
    assert_eq!(reason(&newer), "newer_deployment");
    assert_eq!(world.db.verify_audit().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_never_healthy_fails_and_blue_is_untouched() {
    let (mut world, _one, first) = serving_one().await;
    let bad = Instance::start().await;
    bad.status.store(500, Ordering::SeqCst);
    world.fakes.target.serve(&image('2'), &bad.address);
    let second = world
        .deploy("production", &image('2'), |_| {})
        .await
        .unwrap();
    let row = world.ended(&second).await;
    assert_eq!(row.status, "failed");
    let why = row.reason.unwrap_or_default();
    assert!(
        why.contains("not healthy") && why.contains("/health answered 500"),
        "{why}"
    );
    assert_eq!(world.serving("production").await, Some(first.clone()));
    let steps = world.db.rollout_steps(&second).await.unwrap();
    assert!(
        steps.iter().all(|step| step.kind != "route"),
        "traffic was touched"
    );
    assert_eq!(
        world.db.version(&second).await.unwrap().unwrap().state,
        "gone"
    );
    assert_eq!(
        world.db.version(&first).await.unwrap().unwrap().retire_at,
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_smoke_check_ends_it_before_traffic() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let smoke = serde_json::json!([{
        "http": { "path": "/", "expect": 200, "contains": "new words", "within_ms": 1_000 }
    }]);
    let change = |deploy: &mut serde_json::Value| deploy["environments"][1]["smoke"] = smoke;
    let second = world
        .deploy("production", &image('2'), change)
        .await
        .unwrap();
    let row = world.ended(&second).await;
    assert_eq!(row.status, "failed");
    assert!(
        row.reason
            .unwrap_or_default()
            .contains("smoke check failed")
    );
    assert_eq!(world.serving("production").await, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_under_traffic_is_taken_back_by_itself() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let change = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["watch_ms"] = serde_json::json!(60_000);
    };
    let second = world
        .deploy("production", &image('2'), change)
        .await
        .unwrap();
    world
        .until(&second, "watched", |row| row.phase == "watch")
        .await;
    assert_eq!(world.serving("production").await.as_ref(), Some(&second));
    world
        .fakes
        .traffic
        .count("shop/production", &second, 100, 30);
    let row = world.ended(&second).await;
    assert_eq!(row.status, "rolled_back", "{row:#?}");
    let why = row.reason.unwrap_or_default();
    assert!(why.contains("30 of 100 requests failed"), "{why}");
    let looks = world.db.rollout_health(&second, 100).await.unwrap();
    let verdicts: Vec<&str> = looks.iter().map(|look| look.verdict.as_str()).collect();
    assert_eq!(verdicts.last(), Some(&"abort"), "{looks:?}");
    assert_eq!(world.serving("production").await, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_active_rollout_is_rolled_back_by_ending_it() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let change = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["watch_ms"] = serde_json::json!(60_000);
    };
    let second = world
        .deploy("production", &image('2'), change)
        .await
        .unwrap();
    world
        .until(&second, "watched", |row| row.phase == "watch")
        .await;
    let back = roll_back(&world, &second).await.unwrap();
    assert_eq!(
        (&back.rolled_back_to_version, &back.deployment_id),
        (&first, &second)
    );
    assert_eq!(world.ended(&second).await.status, "rolled_back");
    assert_eq!(world.serving("production").await, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn production_takes_only_what_succeeded_in_staging() {
    let mut world = World::start().await;
    let one = Instance::start().await;
    world.fakes.target.serve(&image('1'), &one.address);
    let after = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["after"] = serde_json::json!(["staging"]);
        deploy["environments"][0]["watch_ms"] = serde_json::json!(500);
    };
    let refused = world
        .deploy("production", &image('1'), after)
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "staging_required");
    let staging = world.deploy("staging", &image('1'), after).await.unwrap();
    // While staging is under way, production waits for it; the fake has one place for both.
    let production = world
        .deploy("production", &image('1'), after)
        .await
        .unwrap();
    assert_eq!(world.ended(&staging).await.status, "completed");
    assert_eq!(world.ended(&production).await.status, "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_in_staging_leads_to_production_once_and_by_itself() {
    let mut world = World::start().await;
    let one = Instance::start().await;
    world.fakes.target.serve(&image('1'), &one.address);
    let after = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["after"] = serde_json::json!(["staging"]);
        deploy["environments"][1]["approval"] = serde_json::json!({
            "groups": [], "min_approvals": 1, "approver_not_initiator": true,
            "expiry_ms": 86_400_000
        });
    };
    let staging = world.deploy("staging", &image('1'), after).await.unwrap();
    assert_eq!(world.ended(&staging).await.status, "completed");
    let filter = slipway_store::RolloutFilter {
        environment: "production".to_owned(),
        limit: 10,
        ..slipway_store::RolloutFilter::default()
    };
    let mut found = Vec::new();
    for _ in 0..1_000 {
        found = world.db.rollouts(&filter).await.unwrap();
        if !found.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let production = found.pop().expect("production follows");
    assert_eq!(production.initiator_id, "alice");
    // Whoever started staging started this: a second person is needed here too.
    let id = production.deployment_id.clone();
    world
        .until(&id, "asked", |row| row.phase == "await_approval")
        .await;
    let ask = v1::ApproveRequest {
        deployment_id: id.clone(),
        ..v1::ApproveRequest::default()
    };
    let own = world
        .client()
        .await
        .approve(as_user("alice", ask.clone()))
        .await
        .unwrap_err();
    assert_eq!(reason(&own), "may_not_approve");
    world
        .client()
        .await
        .approve(as_user("bob", ask))
        .await
        .unwrap();
    assert_eq!(world.ended(&id).await.status, "completed");
    // A restart looks again and starts nothing twice.
    world.kill();
    world.boot();
    let settled = world.deploy("staging", &image('1'), |_| {}).await.unwrap();
    assert_eq!(world.ended(&settled).await.status, "completed");
    assert_eq!(world.db.rollouts(&filter).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_in_the_middle_is_resumed_by_the_next_one() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    // Killed in WARM, with half the passes counted.
    let second = world
        .deploy("production", &image('2'), |_| {})
        .await
        .unwrap();
    world
        .until(&second, "warm", |row| row.phase == "warm")
        .await;
    let token = world.row(&second).await.token;
    world.kill();
    world.boot();
    let row = world.ended(&second).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert!(row.token > token, "the new owner has a new token");
    assert_eq!(world.serving("production").await, Some(second.clone()));
    assert_eq!(
        world.fakes.target.started().len(),
        4,
        "instances were started twice"
    );

    // Killed while nobody could hear the router: traffic ends at one version, proven.
    let three = Instance::start().await;
    world.fakes.target.serve(&image('3'), &three.address);
    world.fakes.traffic.lose_replies(2);
    let third = world
        .deploy("production", &image('3'), |_| {})
        .await
        .unwrap();
    world
        .until(&third, "shifting", |row| row.phase == "shift")
        .await;
    world.kill();
    assert_ne!(world.row(&third).await.status, "failed");
    world.boot();
    assert_eq!(world.ended(&third).await.status, "completed");
    assert_eq!(world.serving("production").await, Some(third));
    assert!(world.db.version(&first).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_at_many_moments_always_ends_at_one_proven_version() {
    let (mut world, _one, mut stable) = serving_one().await;
    let (good, bad) = (Instance::start().await, Instance::start().await);
    bad.status.store(500, Ordering::SeqCst);
    world.fakes.target.serve(&image('2'), &good.address);
    world.fakes.target.serve(&image('3'), &bad.address);
    for (round, delay_ms) in [0, 3, 8, 20, 60, 200, 900, 2_050].into_iter().enumerate() {
        let digit = if round % 4 == 3 { '3' } else { '2' };
        let id = world
            .deploy("production", &image(digit), |_| {})
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        world.kill();
        let at = world.row(&id).await.phase;
        world.boot();
        let row = world.ended(&id).await;
        let end = if digit == '3' { "failed" } else { "completed" };
        assert_eq!(
            row.status, end,
            "killed after {delay_ms} ms in {at}: {row:#?}"
        );
        if row.status == "completed" {
            stable = id;
        }
        assert_eq!(
            world.serving("production").await.as_ref(),
            Some(&stable),
            "killed in {at}"
        );
        let lock = world
            .db
            .lock(&row.service_id, &row.environment_id)
            .await
            .unwrap();
        assert_eq!(lock, None, "killed in {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_of_the_target_start_nothing_twice() {
    let (mut world, _one, _) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    world.fakes.target.lose_replies(1);
    world.fakes.traffic.lose_replies(1);
    let second = world
        .deploy("production", &image('2'), |_| {})
        .await
        .unwrap();
    assert_eq!(world.ended(&second).await.status, "completed");
    assert_eq!(world.fakes.target.started().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_follows_an_instance_that_came_back_elsewhere() {
    use slipway_deploy::traffic::Traffic as _;
    let (world, _one, first) = serving_one().await;
    world.fakes.target.end(&format!("slipway-{first}-1"));
    let followed = async {
        loop {
            let reading = world.fakes.traffic.read("shop/production").await.unwrap();
            let table = reading.table.unwrap();
            table.check().unwrap();
            if table.versions[0].instances.len() == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), followed)
        .await
        .expect("followed");
    assert_eq!(world.serving("production").await, Some(first));
}
