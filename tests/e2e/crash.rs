//! `kill -9` in the middle of a stage, with real containers.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use slipway_tests::{eventually, require};

use crate::place::Place;

/// For anything that is about to happen.
pub(crate) const SOON: Duration = Duration::from_secs(60);

const SLOW: &str = "version: 1\non:\n  push:\nstages:\n  slow:\n    image: slipway-busybox:1\n    commands:\n      - echo begun\n      - sleep 6\n      - echo ended\n";

/// Stages that go on until they are let go.
pub(crate) const GATED: &str = "version: 1\non:\n  push:\nstages:\n  slow:\n    image: slipway-busybox:1\n    commands:\n      - echo begun\n      - until [ -e /workspace/go ]; do sleep 0.1; done\n      - echo ended\n";

const TWO_GATED: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  slow:\n    commands:\n      - until [ -e /workspace/go ]; do sleep 0.1; done\n      - rm /workspace/go\n  next:\n    needs: [slow]\n    commands:\n      - until [ -e /workspace/go ]; do sleep 0.1; done\n";

/// Stage `slow` of this pipeline executes: the place, the build.
pub(crate) async fn running(pipeline: &str) -> Option<(Place, String)> {
    require("docker")?;
    let mut place = Place::postgres().await?;
    place.start_dispatcher().await;
    place.start_agent("agent-a").await;
    let (hook, body) = place.pushed(pipeline).await;
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
pub(crate) async fn ended_once(place: &Place, build: &str) {
    let ended = place.rest.build_ended(build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let stage = &ended["stages"][0];
    assert_eq!(stage["attempt"], 1, "it was not executed again: {stage}");
    // The result does not wait for ever for the last of the log, which may come after it.
    let whole = eventually("its whole log is there", SOON, || async {
        let log = place.rest.get(&format!("/builds/{build}/logs")).await;
        let log = log.expect("a log");
        let lines: Vec<&Value> = log["logs"].as_array().expect("lines").iter().collect();
        let times = |word| lines.iter().filter(|line| line["message"] == word).count();
        let (begun, ended) = (times("begun"), times("ended"));
        assert!(begun <= 1 && ended <= 1, "nothing comes twice: {log}");
        (begun == 1 && ended == 1).then_some(())
    });
    whole.await.expect("whole");
    let stage = stage["stage_id"].as_str().expect("an id").to_owned();
    let gone = eventually("its container is gone", SOON, || async {
        containers(&stage, None).is_empty().then_some(())
    });
    gone.await.expect("gone");
}

/// The containers of a stage, or of one attempt of it.
pub(crate) fn containers(stage: &str, attempt: Option<u32>) -> String {
    let mut command = Command::new("docker");
    command.args(["ps", "-aq", "--filter"]);
    command.arg(format!("label=slipway.stage={stage}"));
    if let Some(attempt) = attempt {
        command.arg("--filter");
        command.arg(format!("label=slipway.attempt={attempt}"));
    }
    let listed = command.output().expect("docker answers");
    String::from_utf8_lossy(&listed.stdout).trim().to_owned()
}

/// Lets an attempt go on to its end.
pub(crate) async fn let_go(stage: &str, attempt: u32) {
    let gone = eventually("its container can be told", SOON, || async {
        let container = containers(stage, Some(attempt));
        let mut command = Command::new("docker");
        command.args(["exec", &container, "touch", "/workspace/go"]);
        let told = command.output().expect("docker answers");
        told.status.success().then_some(())
    });
    gone.await.expect("told");
}

#[tokio::test]
async fn restart_in_every_state_the_dispatcher_dies_while_a_stage_runs() {
    let Some((mut place, build)) = running(SLOW).await else {
        return;
    };
    place.kill_dispatcher();
    place.start_dispatcher().await;
    ended_once(&place, &build).await;
}

#[tokio::test]
async fn the_agent_dies_while_a_stage_runs_and_takes_its_container_back() {
    let Some((mut place, build)) = running(SLOW).await else {
        return;
    };
    place.agent(0).kill();
    place.start_agent("agent-a").await;
    ended_once(&place, &build).await;
}

#[tokio::test]
async fn both_die_while_a_stage_runs() {
    let Some((mut place, build)) = running(SLOW).await else {
        return;
    };
    place.kill_dispatcher();
    place.agent(0).kill();
    place.start_agent("agent-a").await;
    place.start_dispatcher().await;
    ended_once(&place, &build).await;
}

#[tokio::test]
async fn restart_in_every_state_the_dispatcher_dies_as_a_result_is_received() {
    let Some((mut place, build)) = running(TWO_GATED).await else {
        return;
    };
    let db = place.db().await;
    let mut executed = Vec::new();
    for name in ["slow", "next"] {
        let found = place.rest.stage_is(&build, name, "running", SOON).await;
        let found = found.expect("running");
        let id = found["stage_id"].as_str().expect("an id").to_owned();
        // An assignment that died with the dispatcher was never executed: another attempt follows it.
        let attempt = found["attempt"].as_u64().expect("a number");
        let attempt = u32::try_from(attempt).expect("a small number");
        let result = place
            .dir()
            .join(format!("agent-a/held/{id}-{attempt}.result"));
        let stage = id.parse().expect("an id");
        let_go(&id, attempt).await;
        let received = eventually("its result is sent or stored", SOON, || async {
            let row = db.stage(&stage).await.expect("readable").expect("there");
            (row.state == "succeeded" || result.exists()).then_some(())
        });
        received.await.expect("received");
        place.kill_dispatcher();
        place.start_dispatcher().await;
        executed.push((name, attempt));
    }
    let ended = place.rest.build_ended(&build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    for (name, attempt) in executed {
        let stages = ended["stages"].as_array().expect("stages");
        let mut named = stages.iter().filter(|stage| stage["stage_name"] == name);
        let stage = named.next().expect("the stage");
        assert_eq!(
            stage["attempt"], attempt,
            "it was not executed again: {stage}"
        );
    }
}
