//! Who lets a rollout into production, when a yes is void, and answers that come twice, late, or about
//! something else.

use std::time::Duration;

use slipway_proto::v1;
use tonic::{Code, Status};

use crate::harness::{Instance, World, as_user, image, token};
use crate::{reason, roll_back, serving_one};

fn rule(deploy: &mut serde_json::Value, people: u32, expiry: Duration) {
    deploy["environments"][1]["approval"] = serde_json::json!({
        "groups": [], "min_approvals": people, "approver_not_initiator": true,
        "expiry_ms": expiry.as_millis(),
    });
}

const DAY: Duration = Duration::from_secs(86_400);

/// A deployment that asks `people` to agree.
async fn asked(world: &mut World, digit: char, people: u32) -> String {
    let change = |deploy: &mut serde_json::Value| rule(deploy, people, DAY);
    let id = world
        .deploy("production", &image(digit), change)
        .await
        .unwrap();
    world
        .until(&id, "asked", |row| row.phase == "await_approval")
        .await;
    id
}

async fn say_yes(world: &World, id: &str, who: &str, plan_hash: &str) -> Result<bool, Status> {
    let ask = v1::ApproveRequest {
        deployment_id: id.to_owned(),
        plan_hash: plan_hash.to_owned(),
        ..v1::ApproveRequest::default()
    };
    let answer = world.client().await.approve(as_user(who, ask)).await?;
    Ok(answer.get_ref().approved)
}

fn refused(status: &Status, among: &[&str]) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(among.contains(&reason(status)), "{status}");
    // What REST makes its code of.
    assert!(status.message().starts_with(reason(status)), "{status}");
}

async fn audited(world: &World) -> usize {
    let rows = world.db.audit_log(0, 200).await.unwrap();
    rows.iter()
        .filter(|row| row.action == "deployment.approved")
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h080_of_many_answers_at_once_one_counts_and_the_others_are_told_why_not() {
    let (mut world, _one, _) = serving_one().await;
    token(&world.db, "carol", "[\"approver\"]").await;
    let id = asked(&mut world, '2', 1).await;
    let all = (0..16).map(|number| {
        let who = if number % 2 == 0 { "bob" } else { "carol" };
        say_yes(&world, &id, who, "")
    });
    let answers = futures::future::join_all(all).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 1, "{bad:?}");
    for status in bad.into_iter().map(Result::unwrap_err) {
        refused(&status, &["already_approved", "nothing_pending"]);
    }
    assert_eq!(world.db.approvals(&id).await.unwrap().len(), 1);
    assert_eq!(audited(&world).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h080_a_replayed_yes_is_no_second_person() {
    let (mut world, _one, _) = serving_one().await;
    let id = asked(&mut world, '2', 2).await;
    assert!(say_yes(&world, &id, "bob", "").await.is_ok());
    for _ in 0..3 {
        let again = say_yes(&world, &id, "bob", "").await.unwrap_err();
        refused(&again, &["already_answered"]);
    }
    assert_eq!(world.db.approvals(&id).await.unwrap().len(), 1);
    assert_eq!(audited(&world).await, 1);
    assert_eq!(world.row(&id).await.phase, "await_approval");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h080_a_yes_after_the_expiry_or_about_another_plan_is_refused() {
    let (mut world, _one, first) = serving_one().await;
    let expiry = Duration::from_millis(50);
    let change = |deploy: &mut serde_json::Value| rule(deploy, 1, expiry);
    let id = world
        .deploy("production", &image('2'), change)
        .await
        .unwrap();
    tokio::time::sleep(expiry * 2).await;
    let late = say_yes(&world, &id, "bob", "").await.unwrap_err();
    refused(&late, &["approval_expired", "nothing_pending"]);
    assert!(world.db.approvals(&id).await.unwrap().is_empty());
    assert_eq!(world.ended(&id).await.status, "failed");

    let id = asked(&mut world, '2', 1).await;
    let stale = world.row(&first).await.plan_hash;
    let other = say_yes(&world, &id, "bob", &stale).await.unwrap_err();
    refused(&other, &["approval_void"]);
    assert!(world.db.approvals(&id).await.unwrap().is_empty());
    assert_eq!(world.serving("production").await, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h080_a_deployment_that_is_over_takes_no_answer() {
    let (mut world, _one, first) = serving_one().await;
    let id = asked(&mut world, '2', 1).await;
    let end = v1::RollBackRequest {
        deployment_id: id.clone(),
        reason: "a newer one is better".to_owned(),
        to: String::new(),
    };
    let mut client = world.client().await;
    client.roll_back(as_user("alice", end)).await.unwrap();
    world.ended(&id).await;
    let late = say_yes(&world, &id, "bob", "").await.unwrap_err();
    refused(&late, &["nothing_pending"]);
    let no = v1::RejectRequest {
        deployment_id: id.clone(),
        reason: "too late".to_owned(),
    };
    let late = client.reject(as_user("bob", no)).await.unwrap_err();
    refused(&late, &["nothing_pending"]);
    assert!(world.db.approvals(&id).await.unwrap().is_empty());
    assert_eq!(world.serving("production").await, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn production_needs_a_second_person_whose_identity_is_its_token() {
    let (mut world, _one, _) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let change = |deploy: &mut serde_json::Value| rule(deploy, 1, DAY);
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
    let change = |deploy: &mut serde_json::Value| rule(deploy, 1, DAY);
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
