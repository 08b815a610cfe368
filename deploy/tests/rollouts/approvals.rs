//! Answers that come twice, late, or about something else.

use std::time::Duration;

use slipway_proto::v1;
use tonic::{Code, Status};

use crate::harness::{World, as_user, image, token};
use crate::{reason, serving_one};

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
