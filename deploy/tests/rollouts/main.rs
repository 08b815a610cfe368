//! The coordinator with a real store, real gRPC and real health checks, over fake targets and
//! routers.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod approvals;
mod harness;

use std::sync::atomic::Ordering;
use std::time::Duration;

use harness::{Instance, World, as_user, image, token};
use slipway_proto::v1;
use tonic::{Code, Status};

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
    assert!(why.starts_with("30 of 100 requests"), "{why}");
    let looks = world.db.rollout_health(&second, 100).await.unwrap();
    let verdicts: Vec<&str> = looks.iter().map(|look| look.verdict.as_str()).collect();
    assert_eq!(verdicts.last(), Some(&"bad"), "{looks:?}");
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
async fn production_needs_a_second_person_whose_identity_is_its_token() {
    let (mut world, _one, _) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let approval = serde_json::json!({
        "groups": [], "min_approvals": 1, "approver_not_initiator": true, "expiry_ms": 86_400_000
    });
    let change = |deploy: &mut serde_json::Value| deploy["environments"][1]["approval"] = approval;
    let id = world
        .deploy("production", &image('2'), change)
        .await
        .unwrap();
    let row = world
        .until(&id, "asked", |row| row.phase == "await_approval")
        .await;
    assert_eq!(row.approval_status, "pending");
    let mut client = world.client().await;
    let ask = |approver_id: &str, plan_hash: &str| v1::ApproveRequest {
        deployment_id: id.clone(),
        approver_id: approver_id.to_owned(),
        plan_hash: plan_hash.to_owned(),
    };
    let denied = [
        ("alice", "", "may_not_approve"),
        ("alice", "bob", "other_name"),
    ];
    for (who, named, why) in denied.into_iter().chain([("vera", "", "may_not_approve")]) {
        let refused = client
            .approve(as_user(who, ask(named, "")))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused)),
            (Code::PermissionDenied, why),
            "{who}"
        );
    }
    let nobody = client
        .approve(tonic::Request::new(ask("bob", "")))
        .await
        .unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let stale = client
        .approve(as_user("bob", ask("bob", "another plan")))
        .await
        .unwrap_err();
    assert_eq!(reason(&stale), "approval_void");
    assert!(world.db.approvals(&id).await.unwrap().is_empty());
    assert_eq!(
        world
            .db
            .lock(&row.service_id, &row.environment_id)
            .await
            .unwrap(),
        None
    );

    let yes = client
        .approve(as_user("bob", ask("bob", &row.plan_hash)))
        .await
        .unwrap();
    assert!(yes.get_ref().approved && yes.get_ref().proceed_to_prod);
    let row = world.ended(&id).await;
    assert_eq!(
        (row.status.as_str(), row.approver_id.as_deref()),
        ("completed", Some("bob"))
    );
    let late = client
        .approve(as_user("bob", ask("", "")))
        .await
        .unwrap_err();
    assert_eq!(reason(&late), "nothing_pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_void_when_the_target_changed_before_its_use() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    // Another rollout holds the place while this one is approved.
    let watch = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["watch_ms"] = serde_json::json!(60_000);
    };
    let holder = world
        .deploy("production", &image('2'), watch)
        .await
        .unwrap();
    world
        .until(&holder, "watched", |row| row.phase == "watch")
        .await;
    let approval = serde_json::json!({
        "groups": [], "min_approvals": 1, "approver_not_initiator": true, "expiry_ms": 86_400_000
    });
    let change = |deploy: &mut serde_json::Value| deploy["environments"][1]["approval"] = approval;
    let id = world
        .deploy("production", &image('3'), change)
        .await
        .unwrap();
    world
        .until(&id, "asked", |row| row.phase == "await_approval")
        .await;
    let ask = v1::ApproveRequest {
        deployment_id: id.clone(),
        ..v1::ApproveRequest::default()
    };
    world
        .client()
        .await
        .approve(as_user("bob", ask))
        .await
        .unwrap();
    let row = world
        .until(&id, "waiting", |row| row.phase == "wait_lock")
        .await;
    // Somebody points the environment elsewhere.
    let environment = world
        .db
        .environment(&row.environment_id)
        .await
        .unwrap()
        .unwrap();
    let moved = environment.target.replace("8081", "9999");
    let now = slipway_daemon::Clock::system().now();
    world
        .db
        .ensure_environment("x", "production", &moved, &environment.policy, now)
        .await
        .unwrap();
    roll_back(&world, &holder).await.unwrap();
    assert_eq!(world.ended(&holder).await.status, "rolled_back");
    let again = world
        .until(&id, "asked again", |row| row.phase == "await_approval")
        .await;
    assert_eq!(again.approval_status, "pending");
    assert_ne!(again.plan_hash, row.plan_hash);
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

#[tokio::test(flavor = "multi_thread")]
async fn two_rollouts_of_one_place_take_turns() {
    let (mut world, _one, _) = serving_one().await;
    for digit in ['2', '3'] {
        let instance = Instance::start().await;
        world.fakes.target.serve(&image(digit), &instance.address);
    }
    let watch = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["watch_ms"] = serde_json::json!(1_000);
    };
    let second = world
        .deploy("production", &image('2'), watch)
        .await
        .unwrap();
    world
        .until(&second, "under way", |row| row.phase != "planned")
        .await;
    let third = world
        .deploy("production", &image('3'), watch)
        .await
        .unwrap();
    let waiting = world
        .until(&third, "waiting", |row| row.phase == "wait_lock")
        .await;
    let lock = world
        .db
        .lock(&waiting.service_id, &waiting.environment_id)
        .await
        .unwrap();
    assert_eq!(lock.map(|lock| lock.holder), Some(second.clone()));
    let (second, third) = (world.ended(&second).await, world.ended(&third).await);
    assert_eq!(
        (second.status.as_str(), third.status.as_str()),
        ("completed", "completed")
    );
    assert_eq!(
        third.source_version,
        Some(second.target_version),
        "stable is what came before"
    );
    assert!(
        third.started_at >= second.ended_at,
        "both were active at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_starts_are_refused_before_anything_is_stored() {
    let mut world = World::start().await;
    let code = |result: Result<String, Status>| result.unwrap_err().code();
    let bad = world.deploy("production", "shop:latest", |_| {}).await;
    assert_eq!(code(bad), Code::InvalidArgument);
    let bad = world.deploy("moon", &image('1'), |_| {}).await;
    assert_eq!(code(bad), Code::InvalidArgument);
    let negative = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["watch_ms"] = serde_json::json!(-1);
    };
    assert_eq!(
        code(world.deploy("production", &image('1'), negative).await),
        Code::InvalidArgument
    );
    let none = |deploy: &mut serde_json::Value| deploy["replicas"] = serde_json::json!(0);
    assert_eq!(
        code(world.deploy("production", &image('1'), none).await),
        Code::InvalidArgument
    );
    let canary = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["strategy"] = serde_json::json!("canary");
    };
    assert_eq!(
        code(world.deploy("production", &image('1'), canary).await),
        Code::InvalidArgument
    );
    let secret = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["environment"] =
            serde_json::json!({ "KEY": { "from_secret": "key" } });
    };
    assert_eq!(
        code(world.deploy("production", &image('1'), secret).await),
        Code::InvalidArgument
    );
    let mut client = world.client().await;
    let start = v1::StartRolloutRequest::default();
    let denied = client
        .start(as_user("vera", start.clone()))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let unknown = client.start(as_user("mallory", start)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unauthenticated);
    token(&world.db, "dora", r#"["deployer"]"#).await;
    let in_another_name = v1::StartRolloutRequest {
        initiator: "bob".to_owned(),
        ..v1::StartRolloutRequest::default()
    };
    let denied = client
        .start(as_user("dora", in_another_name))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let all = world.db.rollouts_in_progress().await.unwrap();
    assert!(all.is_empty());
}
