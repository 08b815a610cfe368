//! `kill -9` in the middle of a stage, with real containers.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use slipway_tests::{Repository, require};

use crate::ZERO;
use crate::place::Place;

const SOON: Duration = Duration::from_secs(60);

const SLOW: &str = "version: 1\non:\n  push:\nstages:\n  slow:\n    image: slipway-busybox:1\n    commands:\n      - echo begun\n      - sleep 6\n      - echo ended\n";

/// A running stage: the place, the build.
async fn running() -> Option<(Place, String)> {
    require("docker")?;
    let mut place = Place::postgres().await?;
    place.start_dispatcher().await;
    place.start_agent("agent-a").await;
    let repository = Repository::create(place.dir(), "shop");
    repository.write(".slipway.yml", SLOW);
    let sha = repository.push("first");
    let repo = place
        .rest
        .add_repository(&repository.url)
        .await
        .expect("registered");
    let hook = place.rest.add_hook(&repo, "github").await.expect("made");
    let body = hook.push_body(ZERO, &sha);
    hook.deliver(&place.rest, "d", body)
        .await
        .expect("delivered");
    let row = place.rest.decided(&hook, "d", SOON).await.expect("decided");
    let build = row["build_id"].as_str().expect("built").to_owned();
    place
        .rest
        .stage_is(&build, "slow", "running", SOON)
        .await
        .expect("running");
    Some((place, build))
}

/// It ended once, in its first attempt, with its whole log and no container left.
async fn ended_once(place: &Place, build: &str) {
    let ended = place.rest.build_ended(build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let stage = &ended["stages"][0];
    assert_eq!(stage["attempt"], 1, "it was not executed again: {stage}");
    let log = place
        .rest
        .get(&format!("/builds/{build}/logs"))
        .await
        .expect("a log");
    let lines: Vec<&Value> = log["logs"].as_array().expect("lines").iter().collect();
    for word in ["begun", "ended"] {
        let times = lines.iter().filter(|line| line["message"] == word).count();
        assert_eq!(times, 1, "`{word}` in {log}");
    }
    let stage = stage["stage_id"].as_str().expect("an id").to_owned();
    let gone = slipway_tests::eventually("its container is gone", SOON, || async {
        containers(&stage).is_empty().then_some(())
    });
    gone.await.expect("gone");
}

fn containers(stage: &str) -> String {
    let filter = format!("label=slipway.stage={stage}");
    let listed = Command::new("docker")
        .args(["ps", "-aq", "--filter", &filter])
        .output();
    let listed = listed.expect("docker answers");
    String::from_utf8_lossy(&listed.stdout).trim().to_owned()
}

#[tokio::test]
async fn restart_in_every_state_the_dispatcher_dies_while_a_stage_runs() {
    let Some((mut place, build)) = running().await else {
        return;
    };
    place.kill_dispatcher();
    place.start_dispatcher().await;
    ended_once(&place, &build).await;
}

#[tokio::test]
async fn the_agent_dies_while_a_stage_runs_and_takes_its_container_back() {
    let Some((mut place, build)) = running().await else {
        return;
    };
    place.agent(0).kill();
    place.start_agent("agent-a").await;
    ended_once(&place, &build).await;
}

#[tokio::test]
async fn both_die_while_a_stage_runs() {
    let Some((mut place, build)) = running().await else {
        return;
    };
    place.kill_dispatcher();
    place.agent(0).kill();
    place.start_agent("agent-a").await;
    place.start_dispatcher().await;
    ended_once(&place, &build).await;
}
