//! Who lets a rollout into production, how often a yes counts, and when it is void.

use slipway_proto::v1;
use tonic::Code;

use crate::harness::{Instance, World, as_user, image};
use crate::{reason, roll_back, serving_one};

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

/// A rollout to production that asks so many people, for so long.
async fn asking(world: &mut World, people: u32, expiry_ms: u64) -> String {
    let approval = serde_json::json!({
        "groups": [], "min_approvals": people, "approver_not_initiator": true, "expiry_ms": expiry_ms
    });
    let change = |deploy: &mut serde_json::Value| deploy["environments"][1]["approval"] = approval;
    let id = world.deploy("production", &image('2'), change).await;
    id.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h080_one_person_is_one_approval_however_often_and_at_once_it_is_sent() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let id = asking(&mut world, 2, 86_400_000).await;
    let asked = world.until(&id, "asked", |row| row.phase == "await_approval");
    let plan_hash = asked.await.plan_hash;
    let yes = || {
        let (id, plan_hash) = (id.clone(), plan_hash.clone());
        let client = world.client();
        async move {
            let ask = v1::ApproveRequest {
                deployment_id: id,
                approver_id: "bob".to_owned(),
                plan_hash,
            };
            client.await.approve(as_user("bob", ask)).await
        }
    };
    let all = futures::future::join_all((0..8).map(|_| yes())).await;
    for answer in all.into_iter().chain([yes().await]) {
        // The same yes again is the same yes: recorded, and not enough.
        let answer = answer.unwrap().into_inner();
        assert!(!answer.proceed_to_prod, "two people are asked");
    }
    assert_eq!(world.db.approvals(&id).await.unwrap().len(), 1);
    assert_eq!(world.row(&id).await.phase, "await_approval");
    assert_eq!(world.serving("production").await, Some(first));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h080_an_approval_after_its_time_is_refused_and_launches_nothing() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let id = asking(&mut world, 1, 1).await;
    let ended = world.ended(&id).await;
    assert_eq!(ended.status, "failed", "nobody answered in time");
    let ask = v1::ApproveRequest {
        deployment_id: id,
        approver_id: "bob".to_owned(),
        plan_hash: ended.plan_hash,
    };
    let late = world.client().await.approve(as_user("bob", ask)).await;
    let late = late.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert_eq!(reason(&late), "nothing_pending");
    assert_eq!(world.serving("production").await, Some(first));
}
