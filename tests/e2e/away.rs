//! One side is away for longer than a lease: what may be elsewhere is given up, and nothing twice.

use std::time::Duration;

use slipway_core::lease::terms::Terms;
use slipway_tests::eventually;

use crate::crash::{GATED, SOON, containers, ended_once, let_go, running};
use crate::place::{LEASE_SECONDS, Place};

/// The id of the only stage.
async fn stage_of(place: &Place, build: &str) -> String {
    let found = place.rest.stage_is(build, "slow", "running", SOON).await;
    let found = found.expect("running");
    found["stage_id"].as_str().expect("an id").to_owned()
}

/// Waits until the dispatcher has given the stage out again, and it executes.
async fn is_tried_again(place: &Place, build: &str) {
    let again = eventually("another attempt executes", SOON, || async {
        let found = place.rest.get(&format!("/builds/{build}")).await.ok()?;
        let stage = &found["stages"][0];
        (stage["attempt"] == 2 && stage["status"] == "running").then_some(())
    });
    again.await.expect("tried again");
}

/// The build passed by its second attempt, and the first one is known as lost.
async fn ended_by_the_second(place: &Place, build: &str, stage: &str) {
    let ended = place.rest.build_ended(build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    assert_eq!(ended["stages"][0]["attempt"], 2, "{ended}");
    let db = place.db().await;
    let all = db.attempts(&stage.parse().expect("an id")).await;
    let mut outcomes: Vec<(i64, Option<String>)> = all
        .expect("readable")
        .into_iter()
        .map(|row| (row.attempt, row.outcome))
        .collect();
    outcomes.sort();
    let word = |text: &str| Some(text.to_owned());
    assert_eq!(outcomes, [(1, word("lost")), (2, word("succeeded"))]);
    db.close().await;
}

/// I-13: an agent that stood still kills what may be another's before it says a word.
#[tokio::test]
async fn agent_sigstop_self_fence() {
    let Some((mut place, build)) = running(GATED).await else {
        return;
    };
    let stage = stage_of(&place, &build).await;
    place.start_agent("agent-b").await;
    place.agent(0).signal("STOP");
    is_tried_again(&place, &build).await;
    let first = || containers(&stage, Some(1));
    assert!(!first().is_empty(), "nobody ended it while its agent slept");
    let before = place.agent(0).log().len();
    place.agent(0).signal("CONT");
    let killed = eventually("the first container is killed", SOON, || async {
        first().is_empty().then_some(())
    });
    killed.await.expect("killed");
    let log = place.agent(0).log();
    let first_word = log[before..].lines().next().unwrap_or_default();
    assert!(
        first_word.contains("killed: another agent may hold it"),
        "{log}"
    );
    let_go(&stage, 2).await;
    ended_by_the_second(&place, &build, &stage).await;
}

/// I-14: nobody is there to take a result; it waits on the agent's disk and is taken later.
#[tokio::test]
async fn server_down_long_agent_spool() {
    let Some((mut place, build)) = running(GATED).await else {
        return;
    };
    let stage = stage_of(&place, &build).await;
    place.kill_dispatcher();
    let_go(&stage, 1).await;
    is_spooled(&place, &stage).await;
    place.start_dispatcher().await;
    ended_once(&place, &build).await;
    is_forgotten(&place, &stage).await;
}

/// The same, but meanwhile the stage went to another agent.
#[tokio::test]
async fn server_down_long_agent_spool_is_refused_when_its_attempt_is_no_longer_current() {
    let Some((mut place, build)) = running(GATED).await else {
        return;
    };
    let stage = stage_of(&place, &build).await;
    place.kill_dispatcher();
    let_go(&stage, 1).await;
    is_spooled(&place, &stage).await;
    place.agent(0).kill();
    place.start_dispatcher().await;
    place.start_agent("agent-b").await;
    is_tried_again(&place, &build).await;
    place.start_agent("agent-a").await;
    is_forgotten(&place, &stage).await;
    let found = place
        .rest
        .stage_is(&build, "slow", "running", Duration::ZERO);
    found.await.expect("the old result changed nothing");
    let_go(&stage, 2).await;
    ended_by_the_second(&place, &build, &stage).await;
}

fn spooled(place: &Place, stage: &str) -> std::path::PathBuf {
    place.dir().join(format!("agent-a/held/{stage}-1.result"))
}

async fn is_spooled(place: &Place, stage: &str) {
    let file = spooled(place, stage);
    let kept = eventually("the result is on the agent's disk", SOON, || async {
        file.exists().then_some(())
    });
    kept.await.expect("kept");
}

async fn is_forgotten(place: &Place, stage: &str) {
    let file = spooled(place, stage);
    let gone = eventually("the agent was answered", SOON, || async {
        (!file.exists()).then_some(())
    });
    gone.await.expect("answered");
}

/// Nothing happens for longer than an agent may be silent: the next push is built all the same.
#[tokio::test]
async fn an_agent_that_was_idle_for_long_gets_the_next_stage() {
    if slipway_tests::require("docker").is_none() {
        return;
    }
    let Some(mut place) = Place::postgres().await else {
        return;
    };
    place.start_dispatcher().await;
    place.start_agent("agent-a").await;
    let (hook, body) = place.pushed(slipway_tests::cluster::ONE_STAGE).await;
    let terms = Terms::of(Duration::from_secs(LEASE_SECONDS));
    // The time itself is what is tested.
    tokio::time::sleep(terms.silent + Duration::from_secs(2)).await;
    hook.deliver(&place.rest, "d", body).await.expect("taken");
    let row = place.rest.decided(&hook, "d", SOON).await.expect("decided");
    let build = row["build_id"].as_str().expect("built");
    let ended = place.rest.build_ended(build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
}
