//! A stream that breaks swallows what was said last; the next one hears it again. One that is quiet is kept
//! alive.

use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message as Said;

use crate::harness::{World, docker, eventually};

#[tokio::test]
async fn a_stage_that_runs_says_so_again_on_a_new_stream() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let wait = "while [ ! -e go ]; do sleep 0.1; done";
    let key = world.assign(&[wait], |_, _| {}).await;
    world.phase(&key, v1::Phase::Running).await;
    world.talk.dispatcher.hang_up();
    world.phase(&key, v1::Phase::Running).await;
    std::fs::write(world.workspace(&key).join("go"), "").unwrap();
    assert_eq!(world.result(&key).await.exit_code, 0);
}

#[tokio::test]
async fn a_stage_that_waits_for_its_go_asks_again_on_a_new_stream() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.talk.dispatcher.with(|inner| inner.is_deaf = true);
    world.start_agent().await;
    let key = world
        .assign(&["touch executed"], |_, assign| assign.at_most_once = true)
        .await;
    world
        .hear(|said| match said {
            Said::Prepared(prepared) => (prepared.attempt.as_ref() == Some(&key)).then_some(()),
            _ => None,
        })
        .await;
    assert!(!world.workspace(&key).join("executed").exists());
    world.talk.dispatcher.with(|inner| inner.is_deaf = false);
    world.talk.dispatcher.hang_up();
    let result = world.result(&key).await;
    assert_eq!((result.ending(), result.exit_code), (v1::Ending::Exited, 0));
    let hellos = || world.talk.dispatcher.with(|inner| inner.hellos.len());
    eventually("it came back once", || hellos() == 2).await;
}

#[tokio::test]
async fn an_idle_agent_says_again_and_again_that_it_is_there() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.talk.dispatcher.with(|inner| inner.renew_ms = 300);
    world.start_agent().await;
    for _ in 0..5 {
        world
            .hear(|said| match said {
                Said::Renew(renew) => renew.held.is_empty().then_some(()),
                _ => None,
            })
            .await;
    }
}

#[tokio::test]
async fn what_was_not_sent_of_a_log_when_the_agent_was_killed_is_sent_by_the_next_one() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    world.talk.dispatcher.with(|inner| inner.no_logs = true);
    let key = world.assign(&["echo last words"], |_, _| {}).await;
    // The result does not wait for ever for its log, and with it the container goes.
    assert_eq!(world.result(&key).await.exit_code, 0);
    world.containers_gone(&key).await;
    world.kill_agent();
    assert!(world.talk.dispatcher.log(&key).is_empty());
    world.talk.dispatcher.with(|inner| inner.no_logs = false);
    world.start_agent().await;
    let log = world.log_closed(&key).await;
    assert!(log.contains("\nlast words\n"), "{log}");
    let spool = world.folder.path().join("agent/spool");
    eventually("the spool is emptied", || {
        std::fs::read_dir(&spool).unwrap().next().is_none()
    })
    .await;
}
