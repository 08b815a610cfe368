//! An agent that is asked to stop, and what one that was killed leaves behind.

use std::process::Command;

use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message as Said;
use slipway_proto::v1::dispatcher_message::Message as Told;

use crate::harness::{World, containers, docker, eventually, networks};

const UNTIL_GO: &str = "while [ ! -e go ]; do sleep 0.1; done";

#[tokio::test]
async fn agent_sigterm_keeps_heartbeat() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.talk.dispatcher.with(|inner| inner.renew_ms = 300);
    world.start_agent().await;
    let key = world.assign(&[UNTIL_GO, "echo finished"], |_, _| {}).await;
    world.phase(&key, v1::Phase::Running).await;
    world.terminate_agent();
    world
        .hear(|said| matches!(said, Said::Draining(_)).then_some(()))
        .await;
    for _ in 0..5 {
        world
            .hear(|said| match said {
                Said::Renew(renew) => renew.held.contains(&key).then_some(()),
                _ => None,
            })
            .await;
    }
    // Nothing new is taken meanwhile.
    let other = world.assign(&["true"], |_, _| {}).await;
    world
        .hear(|said| match said {
            Said::Declined(declined) => (declined.attempt.as_ref() == Some(&other)).then_some(()),
            _ => None,
        })
        .await;
    std::fs::write(world.workspace(&key).join("go"), "").unwrap();
    let result = world.result(&key).await;
    assert_eq!((result.ending(), result.exit_code), (v1::Ending::Exited, 0));
    assert_eq!(world.agent_exit().await, Some(0));
    assert!(world.log_closed(&key).await.ends_with("finished\n"));
    assert_eq!(containers(&key), "", "nobody may ever start it again here");
    assert!(!world.workspace(&key).exists());
}

#[tokio::test]
async fn an_idle_agent_that_is_asked_to_stop_exits_at_once_and_well() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    world.terminate_agent();
    assert_eq!(world.agent_exit().await, Some(0));
}

/// Containers as a killed agent leaves them: made by hand, with the labels of its own.
fn orphan(world: &World, key: &v1::AttemptRef, purpose: &str, start: bool) {
    let labels = [
        format!("slipway.install={}", world.talk.dispatcher.agent_id),
        format!("slipway.stage={}", key.stage_id),
        format!("slipway.attempt={}", key.attempt),
        format!("slipway.purpose={purpose}"),
    ];
    let mut command = Command::new("docker");
    match purpose {
        "network" => command.args(["network", "create"]),
        _ if start => command.args(["run", "-d"]),
        _ => command.args(["create"]),
    };
    for label in &labels {
        command.args(["--label", label]);
    }
    match purpose {
        "network" => command.arg(format!("slipway-{}-1", key.stage_id).to_lowercase()),
        _ => command.args(["slipway-busybox:1", "sleep", "1000"]),
    };
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
}

#[tokio::test]
async fn what_a_killed_agent_left_and_nobody_holds_is_removed_at_the_next_start() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    let key = |number: u64| v1::AttemptRef {
        stage_id: format!("01ARZ{:011}{:010}", std::process::id(), number),
        attempt: 1,
    };
    let (running, created, service, network) = (key(91), key(92), key(93), key(94));
    orphan(&world, &running, "stage", true);
    orphan(&world, &created, "stage", false);
    orphan(&world, &service, "service", true);
    orphan(&world, &network, "network", false);
    let workspace = world.workspace(&running);
    std::fs::create_dir_all(workspace.join("deep/folder")).unwrap();
    world.start_agent().await;
    for key in [&running, &created, &service] {
        assert_eq!(containers(key), "", "removed before the hello: {key:?}");
    }
    assert_eq!(networks(&network), "");
    assert!(!workspace.exists());
    let held = world
        .talk
        .dispatcher
        .with(|inner| inner.hellos[0].held.clone());
    assert!(held.is_empty(), "{held:?}");
}

#[tokio::test]
async fn a_readopted_stage_with_a_service_that_the_dispatcher_gave_away_is_killed() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let key = world
        .assign(&[UNTIL_GO], |spec, _| {
            spec["services"] = serde_json::json!([{
                "name": "web", "image": "slipway-busybox:1", "environment": {},
                "command": ["sleep", "1000"], "ready": null
            }]);
        })
        .await;
    world.phase(&key, v1::Phase::Running).await;
    world.kill_agent();
    assert_eq!(
        containers(&key).lines().count(),
        2,
        "both outlive the agent"
    );
    world.start_agent().await;
    let hello = world
        .talk
        .dispatcher
        .with(|inner| inner.hellos.last().unwrap().clone());
    assert_eq!(hello.held[0].attempt.as_ref(), Some(&key), "it came back");
    // Somebody else has it by now.
    let renewed = v1::Renewed {
        attempts: vec![v1::RenewedAttempt {
            attempt: Some(key.clone()),
            current: false,
            ..v1::RenewedAttempt::default()
        }],
    };
    world.talk.dispatcher.tell(Told::Renewed(renewed)).await;
    world.containers_gone(&key).await;
    eventually("the network is removed", || networks(&key).is_empty()).await;
}

#[tokio::test]
async fn a_stage_that_is_taken_back_has_the_rest_of_its_time_and_not_all_of_it_again() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let key = world
        .assign(&["sleep 300"], |spec, _| {
            spec["timeout_ms"] = 250_000.into()
        })
        .await;
    world.phase(&key, v1::Phase::Running).await;
    world.kill_agent();
    let held = world.folder.path().join("agent/held");
    let name = format!("{}-{}.started", key.stage_id, key.attempt);
    let began: i64 = std::fs::read_to_string(held.join(&name))
        .unwrap()
        .parse()
        .unwrap();
    let earlier = began - 250_000;
    std::fs::write(held.join(&name), earlier.to_string()).unwrap();
    world.start_agent().await;
    let result = world.result(&key).await;
    assert_eq!(result.ending(), v1::Ending::TimedOut, "{result:?}");
    world.containers_gone(&key).await;
}
