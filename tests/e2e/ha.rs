//! High availability: dispatchers that die, freeze and hand over, and a database whose machine is lost.

use std::time::Duration;

use slipway_daemon::Clock;
use slipway_store::StageRow;
use slipway_tests::{Hook, Postgres, Rest, Several, eventually, require};

use crate::{ZERO, crash};

const SOON: Duration = Duration::from_secs(90);
/// Assignments go on within this after the leader was killed.
const AGAIN: Duration = Duration::from_secs(15);

const QUICK: &str = "version: 1\non:\n  push:\nstages:\n  slow:\n    image: slipway-busybox:1\n    commands:\n      - 'true'\n";

/// Delivers to one dispatcher; whether it is acknowledged.
async fn is_taken(hook: &Hook, rest: &Rest, id: &str, body: Vec<u8>) -> bool {
    let answer = hook.at(rest).deliver(rest, id, body).await;
    answer.is_ok_and(|answer| (200..300).contains(&answer.status))
}

/// Delivers a push to one dispatcher and waits for its build there; the build's id.
async fn build(several: &Several, number: usize, hook: &Hook, sha: &str, id: &str) -> String {
    let rest = &several.members[number].rest;
    let body = hook.push_body(ZERO, sha);
    assert!(is_taken(hook, rest, id, body).await);
    let row = rest.decided(hook, id, SOON).await.expect("decided");
    row["build_id"].as_str().expect("built").to_owned()
}

async fn stage(several: &Several, build: &str) -> StageRow {
    let stages = several.db.stages(&build.parse().expect("an id")).await;
    stages.expect("readable").remove(0)
}

#[tokio::test]
async fn ha_failover_no_lost_ack_when_the_leading_dispatcher_is_killed() {
    let (Some(_), Some(server)) = (require("docker"), Postgres::start()) else {
        return;
    };
    let mut several = Several::start(crate::binary(), &server.database("slipway"), 3).await;
    several.start_agent("agent-a").await;
    let (hook, sha) = several.pushed(crash::GATED).await;
    let (leader, first) = several.leader_after(0).await;
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    // Taken by one that follows, planned by the one that leads.
    let running = build(&several, others[0], &hook, &sha, "before").await;
    let rest = &several.members[others[0]].rest;
    rest.stage_is(&running, "slow", "running", SOON)
        .await
        .expect("running");

    several.members[leader].process.kill();
    let clock = Clock::system();
    let killed = clock.monotonic();
    // Nobody leads for some seconds; deliveries are taken all the same.
    let body = hook.push_body(ZERO, &sha);
    for (n, other) in others.iter().cycle().take(6).enumerate() {
        let rest = &several.members[*other].rest;
        let taken = is_taken(&hook, rest, &format!("during-{n}"), body.clone()).await;
        assert!(taken, "taken while nobody leads");
    }
    let again = eventually("a stage is assigned again", AGAIN, || async {
        let rows = several.db.held_attempts().await.ok()?;
        (rows.len() == 2).then_some(())
    });
    again.await.expect("assigned");
    let took = clock.monotonic() - killed;
    assert!(took <= AGAIN, "{took:?}");
    let (_, second) = several.leader_after(first.epoch).await;
    assert_eq!(second.epoch, first.epoch + 1);

    // The stage that ran went on: the same attempt, and no loss.
    let held = stage(&several, &running).await;
    crash::let_go(&held.stage_id, 1).await;
    let rest = &several.members[others[1]].rest;
    let ended = rest.build_ended(&running, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let held = stage(&several, &running).await;
    assert_eq!((held.attempt, held.losses), (1, 0), "nothing was repeated");
    // Every acknowledged delivery became a build of its own, and each is executed once.
    let mut builds = std::collections::BTreeSet::new();
    for n in 0..6 {
        let row = rest.decided(&hook, &format!("during-{n}"), SOON).await;
        let row = row.expect("decided");
        builds.insert(row["build_id"].as_str().expect("built").to_owned());
    }
    assert_eq!(builds.len(), 6);
    for build in &builds {
        let held = eventually("its stage runs", SOON, || async {
            let row = stage(&several, build).await;
            (row.state == "running").then_some(row)
        });
        let held = held.await.expect("running");
        crash::let_go(&held.stage_id, 1).await;
        let ended = rest.build_ended(build, SOON).await.expect("ended");
        assert_eq!(ended["status"], "passed", "{ended}");
        assert_eq!(stage(&several, build).await.attempt, 1);
    }
}

#[tokio::test]
async fn ha_leader_fencing_a_frozen_leader_changes_nothing_when_it_wakes_up() {
    let (Some(_), Some(server)) = (require("docker"), Postgres::start()) else {
        return;
    };
    let mut several = Several::start(crate::binary(), &server.database("slipway"), 2).await;
    several.start_agent("agent-a").await;
    let (hook, sha) = several.pushed(crash::GATED).await;
    let (old, first) = several.leader_after(0).await;
    let running = build(&several, 1 - old, &hook, &sha, "before").await;
    let rest = &several.members[1 - old].rest;
    rest.stage_is(&running, "slow", "running", SOON)
        .await
        .expect("running");

    several.members[old].process.signal("STOP");
    let (new, _) = several.leader_after(first.epoch).await;
    assert_eq!(new, 1 - old);
    let during = build(&several, new, &hook, &sha, "during").await;
    rest.stage_is(&during, "slow", "running", SOON)
        .await
        .expect("the new one gives out");
    several.members[old].process.signal("CONT");
    let stepped_down = eventually("the old one leads no more", SOON, || async {
        let log = several.members[old].process.log();
        log.contains("leads no more").then_some(())
    });
    stepped_down.await.expect("stepped down");
    // What comes to it is passed on to the one that leads.
    let after = build(&several, old, &hook, &sha, "after").await;
    for build in [&running, &during, &after] {
        let held = eventually("its stage runs", SOON, || async {
            let row = stage(&several, build).await;
            (row.state == "running").then_some(row)
        });
        let held = held.await.expect("running");
        assert_eq!((held.attempt, held.losses), (1, 0), "given out once");
        crash::let_go(&held.stage_id, 1).await;
        let ended = several.members[old].rest.build_ended(build, SOON).await;
        assert_eq!(ended.expect("ended")["status"], "passed");
    }
    let leads = several.leader().await;
    assert_eq!(leads, new);
}

#[tokio::test]
async fn what_is_said_of_an_agent_to_a_follower_reaches_the_leader() {
    let (Some(_), Some(server)) = (require("docker"), Postgres::start()) else {
        return;
    };
    let mut several = Several::start(crate::binary(), &server.database("slipway"), 2).await;
    several.start_agent("agent-a").await;
    let (hook, sha) = several.pushed(QUICK).await;
    let (leader, _) = several.leader_after(0).await;
    let (leads, follows) = (
        several.members[leader].rest.clone(),
        several.members[1 - leader].rest.clone(),
    );
    let first = build(&several, leader, &hook, &sha, "first").await;
    leads.build_ended(&first, SOON).await.expect("ended");
    let agent = follows.get("/agents").await.expect("listed")[0]["agent_id"].clone();
    let agent = agent.as_str().expect("an id");
    let say = |verb: &str| {
        let path = format!("/agents/{agent}/{verb}");
        let follows = follows.clone();
        async move { follows.post(&path, serde_json::json!({})).await }
    };
    say("drain").await.expect("drained");
    let second = build(&several, leader, &hook, &sha, "second").await;
    let waits = eventually("it waits, and says why", SOON, || async {
        let queue = leads.get("/queue").await.ok()?;
        let reason = queue[0]["reason"].as_str()?.to_owned();
        reason.contains("draining").then_some(())
    });
    waits.await.expect("the leader knows");
    say("resume").await.expect("resumed");
    let ended = leads.build_ended(&second, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
}

#[tokio::test]
async fn a_leader_that_is_asked_to_stop_hands_over_within_seconds() {
    let Some(server) = Postgres::start() else {
        return;
    };
    let mut several = Several::start(crate::binary(), &server.database("slipway"), 2).await;
    let (old, first) = several.leader_after(0).await;
    let clock = Clock::system();
    let asked = clock.monotonic();
    several.members[old].process.signal("TERM");
    let (new, _) = several.leader_after(first.epoch).await;
    let took = clock.monotonic() - asked;
    assert_eq!(new, 1 - old);
    assert!(took < Duration::from_secs(8), "less than a lease: {took:?}");
    let gone = eventually("it exits", SOON, || {
        let alive = several.members[old].process.is_alive();
        async move { (!alive).then_some(()) }
    });
    gone.await.expect("gone");
}

#[tokio::test]
async fn ha_refuses_async() {
    let Some(server) = Postgres::start() else {
        return;
    };
    let several = Several::start(crate::binary(), &server.database("slipway"), 1).await;
    let ha = "high_availability = true";
    let mut refused = several.member(7, ha, &[]);
    let ended = eventually("it does not start", SOON, || {
        let alive = refused.process.is_alive();
        async move { (!alive).then_some(()) }
    });
    ended.await.expect("ended");
    let log = refused.process.log();
    for word in [
        "E_HA_NOT_DURABLE",
        "`synchronous_standby_names` is empty",
        "--i-accept-loss",
    ] {
        assert!(log.contains(word), "{word}: {log}");
    }
    let accepted = several.member(8, ha, &["--i-accept-loss"]);
    let answers = eventually("it answers", SOON, || async {
        accepted.rest.get("/builds").await.ok()
    });
    answers.await.expect("up");
    assert!(accepted.process.log().contains("E_HA_NOT_DURABLE"));
    // With a standby that confirms every commit it starts without a word.
    let _standby = server.standby();
    let durable = several.member(9, ha, &[]);
    let answers = eventually("it answers", SOON, || async {
        durable.rest.get("/builds").await.ok()
    });
    answers.await.expect("up");
    assert!(!durable.process.log().contains("E_HA_NOT_DURABLE"));
}

/// Carries connections to whichever server is the database now.
struct Door {
    at: std::net::SocketAddr,
    to: tokio::sync::watch::Sender<u16>,
}

impl Door {
    async fn open(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let at = listener.local_addr().expect("an address");
        let to = tokio::sync::watch::Sender::new(port);
        let leads_to = to.subscribe();
        slipway_daemon::spawn("door", async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut leads_to = leads_to.clone();
                slipway_daemon::spawn("connection", async move {
                    let port = *leads_to.borrow_and_update();
                    let Ok(mut server) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await
                    else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut server) => {}
                        // Whoever is connected to the old one is cut off.
                        _ = leads_to.changed() => {}
                    }
                });
            }
        });
        Self { at, to }
    }
}

type Pushing = tokio::task::JoinHandle<Option<Vec<String>>>;

/// Delivers push after push, to one dispatcher after the other; those that were acknowledged.
fn push_until_stopped(
    several: &Several,
    hook: &Hook,
    body: &[u8],
) -> (tokio::sync::watch::Sender<bool>, Pushing) {
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let rests: Vec<_> = several.members.iter().map(|m| m.rest.clone()).collect();
    let (hook, body) = (hook.clone(), body.to_owned());
    let pushing = slipway_daemon::spawn("pushes", async move {
        let mut acknowledged = Vec::new();
        for (n, rest) in rests.iter().cycle().enumerate() {
            let id = format!("push-{n}");
            if is_taken(&hook, rest, &id, body.clone()).await {
                acknowledged.push(id);
            }
            let pause = tokio::time::sleep(Duration::from_millis(100));
            tokio::select! {
                _ = stopped.changed() => break,
                () = pause => {}
            }
        }
        acknowledged
    });
    (stop, pushing)
}

#[tokio::test]
async fn ha_failover_no_lost_ack_when_the_primary_database_is_lost() {
    let (Some(_), Some(mut primary)) = (require("docker"), Postgres::start()) else {
        return;
    };
    let _made = primary.database("slipway");
    let standby = primary.standby();
    let door = Door::open(primary.port()).await;
    let database = format!("postgres://slipway@{}/slipway", door.at);
    let mut several = Several::start(crate::binary(), &database, 2).await;
    several.start_agent("agent-a").await;
    let (hook, sha) = several.pushed(QUICK).await;
    let body = hook.push_body(ZERO, &sha);

    let (stop, pushing) = push_until_stopped(&several, &hook, &body);
    let passed = |at_least: usize| {
        let db = several.db.clone();
        async move {
            let filter = slipway_store::BuildFilter {
                status: "passed".to_owned(),
                limit: 200,
                ..slipway_store::BuildFilter::default()
            };
            let found = db.builds(&filter).await.ok()?;
            (found.len() >= at_least).then_some(found)
        }
    };
    let some = eventually("some builds pass", SOON, || passed(3)).await;
    let before: Vec<String> = some
        .expect("passed")
        .into_iter()
        .map(|b| b.build_id)
        .collect();

    primary.kill();
    standby.promote();
    door.to.send_replace(standby.port());
    let more = eventually("builds pass again", SOON, || passed(before.len() + 3));
    more.await.expect("passed");
    let _told = stop.send(true);
    let acknowledged = pushing.await.expect("pushed").expect("pushed");
    assert!(acknowledged.len() > 6, "{acknowledged:?}");

    // What was accepted before is accepted still.
    for build in &before {
        let row = several.db.build(&build.parse().expect("an id")).await;
        assert_eq!(row.expect("readable").expect("there").status, "passed");
    }
    // What was acknowledged is decided, each once.
    let rest = &several.members[0].rest;
    let mut builds = std::collections::BTreeSet::new();
    for id in &acknowledged {
        let row = rest.decided(&hook, id, SOON).await.expect("decided");
        builds.insert(row["build_id"].as_str().expect("built").to_owned());
    }
    assert_eq!(builds.len(), acknowledged.len());
    for build in &builds {
        let ended = rest.build_ended(build, SOON).await.expect("ended");
        assert_eq!(ended["status"], "passed", "{ended}");
    }
}
