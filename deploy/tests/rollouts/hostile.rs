//! Instances, files and projects that mean no good.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use crate::harness::{Instance, image};
use crate::{reason, roll_back, serving_one};

/// How an instance answers its health check.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// 200 and a body without an end.
    Endless,
    /// To a place inside the network.
    Redirect,
    /// A head, and the rest 29 seconds later.
    Late,
    /// Good and bad in turns.
    Flapping,
    /// No HTTP at all.
    Noise,
}

async fn answer(stream: &mut TcpStream, how: Answer, number: u32) -> std::io::Result<()> {
    let mut head = [0_u8; 1_024];
    let _request = stream.read(&mut head).await?;
    match how {
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 16 * 1_024]).await?;
            }
        }
        Answer::Redirect => {
            let to = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\n\
                      content-length: 0\r\n\r\n";
            stream.write_all(to.as_bytes()).await
        }
        Answer::Late => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                .await?;
            tokio::time::sleep(Duration::from_secs(29)).await;
            stream.write_all(b"ok").await
        }
        Answer::Flapping => {
            let status = if number.is_multiple_of(2) {
                "200 OK"
            } else {
                "500 No"
            };
            let text =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await
        }
        Answer::Noise => stream.write_all(b"NaN -1\r\n\r\n").await,
    }
}

async fn instance(how: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    slipway_daemon::spawn("hostile instance", async move {
        let mut number = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            number += 1;
            slipway_daemon::spawn("answer", async move {
                let _gone = answer(&mut stream, how, number).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h099_health_without_an_end_elsewhere_late_or_flapping_never_gets_traffic() {
    for how in [
        Answer::Endless,
        Answer::Redirect,
        Answer::Late,
        Answer::Flapping,
        Answer::Noise,
    ] {
        let (mut world, _one, first) = serving_one().await;
        world.fakes.target.serve(&image('2'), &instance(how).await);
        let one_instance = |deploy: &mut serde_json::Value| deploy["replicas"] = 1.into();
        let id = world
            .deploy("production", &image('2'), one_instance)
            .await
            .unwrap();
        let row = world.ended(&id).await;
        assert_eq!(row.status, "failed", "{how:?}: {row:#?}");
        assert_eq!(world.serving("production").await, Some(first), "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_h101_a_service_is_deployed_by_the_repository_that_named_it_first() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    world.repo = "another-project";
    let refused = world.deploy("production", &image('2'), |_| {}).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(reason(&refused), "service_taken", "{refused}");
    assert_eq!(world.serving("production").await, Some(first));
    assert!(world.db.rollouts_in_progress().await.unwrap().is_empty());
    // Under a name of its own it is served beside it.
    let own_name = |deploy: &mut serde_json::Value| deploy["service"] = "books".into();
    let own = world.deploy("production", &image('2'), own_name).await;
    let row = world.ended(&own.unwrap()).await;
    assert_eq!(row.status, "completed", "{row:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_j3_an_environment_registered_again_in_the_middle_keeps_its_id_and_its_lock() {
    let (mut world, _one, _first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let long = |deploy: &mut serde_json::Value| {
        deploy["environments"][1]["watch_ms"] = serde_json::json!(1_500);
    };
    let id = world.deploy("production", &image('2'), long).await.unwrap();
    let row = world
        .until(&id, "watched", |row| row.phase == "watch")
        .await;
    let before = world.db.environment(&row.environment_id).await.unwrap();
    let target: slipway_deploy::EnvironmentTarget =
        serde_json::from_str(&before.unwrap().target).unwrap();
    let policy = slipway_deploy::Policy::default();
    let again = slipway_deploy::ensure_environment(
        &world.db,
        "01ANOTHERID",
        "production",
        &target,
        &policy,
        slipway_daemon::Clock::system().now(),
    );
    assert_eq!(again.await.unwrap().environment_id, row.environment_id);
    let lock = world.db.lock(&row.service_id, &row.environment_id).await;
    assert_eq!(lock.unwrap().map(|lock| lock.holder), Some(id.clone()));
    assert_eq!(world.ended(&id).await.status, "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_j1_a_section_that_cannot_be_gone_back_from_or_counted_starts_nothing() {
    let (mut world, _one, first) = serving_one().await;
    let started = world.fakes.target.started().len();
    let steps = [
        r#"[{ "weight_bp": 10100, "bake_ms": 1, "approval": false }]"#,
        r#"[{ "weight_bp": -1, "bake_ms": 1, "approval": false }]"#,
        r#"[{ "weight_bp": 33.333, "bake_ms": 1, "approval": false }]"#,
        r#"[{ "weight_bp": 5000, "bake_ms": 1, "approval": false }]"#,
        r#"[{ "weight_bp": 10000, "bake_ms": -1, "approval": false }]"#,
        r#"[{ "weight_bp": 5000, "bake_ms": 1, "approval": false },
            { "weight_bp": 4000, "bake_ms": 1, "approval": false },
            { "weight_bp": 10000, "bake_ms": 1, "approval": false }]"#,
    ];
    for text in steps {
        let change = |deploy: &mut serde_json::Value| {
            deploy["environments"][1]["strategy"] = "canary".into();
            deploy["environments"][1]["steps"] = serde_json::from_str(text).unwrap();
        };
        let refused = world.deploy("production", &image('2'), change).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}: {refused}");
    }
    assert_eq!(world.fakes.target.started().len(), started);
    assert_eq!(world.serving("production").await, Some(first));
    assert!(world.db.rollouts_in_progress().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_j2_more_failures_than_requests_hold_a_canary_where_it_is() {
    let (mut world, _one, first) = serving_one().await;
    let two = Instance::start().await;
    world.fakes.target.serve(&image('2'), &two.address);
    let canary = |deploy: &mut serde_json::Value| {
        let step = |weight: u32| serde_json::json!({ "weight_bp": weight, "bake_ms": 1_000, "approval": false });
        deploy["environments"][1]["strategy"] = "canary".into();
        deploy["environments"][1]["steps"] = serde_json::json!([step(5_000), step(10_000)]);
    };
    let id = world
        .deploy("production", &image('2'), canary)
        .await
        .unwrap();
    world.until(&id, "baked", |row| row.phase == "bake").await;
    // More failures than requests: absurd, and never a pass.
    world
        .fakes
        .traffic
        .count("shop/production", &first, 1_000, 0);
    world.fakes.traffic.count("shop/production", &id, 10, 1_000);
    // Three times the bake: it is held where it is, and nobody may promote it past that.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let row = world.row(&id).await;
    assert_eq!(
        (row.phase.as_str(), row.canary_percentage),
        ("bake", 50.0),
        "{row:#?}"
    );
    roll_back(&world, &id).await.unwrap();
    assert_eq!(world.ended(&id).await.status, "rolled_back");
    assert_eq!(world.serving("production").await, Some(first));
}
