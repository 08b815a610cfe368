//! How rollouts begin: in turn, or not at all.

use slipway_proto::v1;
use tonic::{Code, Status};

use crate::harness::{Instance, World, as_user, image, token};
use crate::serving_one;

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
        deploy["environments"][1]["steps"] =
            serde_json::json!([{ "weight_bp": 10_100, "bake_ms": 1, "approval": false }]);
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
    let manifests = |deploy: &mut serde_json::Value| {
        deploy["pods"] =
            serde_json::json!({"line": 1, "paths": ["a.yaml"], "manifests": {"files": []}});
    };
    let bad = world.deploy("production", &image('1'), manifests).await;
    let text = bad.unwrap_err().message().to_owned();
    assert!(text.contains("only a cluster has manifests"), "{text}");
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
