//! A disk is full in the middle of an attempt, the agent's or the dispatcher's: nothing is lost, and nobody has
//! to restart anything once there is room again.

use slipway_store::AttemptRow;
use slipway_tests::{eventually, require};

use crate::crash::{SOON, containers, let_go};
use crate::disk::Disk;
use crate::place::Place;

/// Lines that the stage prints once it is let go: more than fit into what a file may have left
/// over.
const LINES: usize = 4_000;

/// Waits until it is let go, then prints.
const PRINTS: &str = "version: 1\non:\n  push:\nstages:\n  slow:\n    image: slipway-busybox:1\n    commands:\n      - until [ -e /workspace/go ]; do sleep 0.1; done\n      - i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo \"line $i of the forty hundred that it prints\"; done\n";

struct Running {
    place: Place,
    disk: Disk,
    build: String,
    stage: String,
}

/// The stage executes on agent-a; the folder `small` of the place is a small disk.
async fn running(small: &str) -> Option<Running> {
    require("docker")?;
    let mut place = Place::postgres().await?;
    let folder = place.dir().join(small);
    std::fs::create_dir_all(&folder).expect("a folder");
    let Some(disk) = Disk::over(&folder) else {
        slipway_tests::require::skip("an ext4 in a file cannot be mounted");
        return None;
    };
    place.start_dispatcher().await;
    place.start_agent("agent-a").await;
    let (hook, body) = place.pushed(PRINTS).await;
    let build = built(&place, &hook, "first", body).await;
    let row = place.rest.stage_is(&build, "slow", "running", SOON).await;
    let stage = row.expect("running")["stage_id"].clone();
    let stage = stage.as_str().expect("an id").to_owned();
    Some(Running {
        place,
        disk,
        build,
        stage,
    })
}

async fn built(place: &Place, hook: &slipway_tests::Hook, id: &str, body: Vec<u8>) -> String {
    hook.deliver(&place.rest, id, body)
        .await
        .expect("delivered");
    let row = place.rest.decided(hook, id, SOON).await.expect("decided");
    row["build_id"].as_str().expect("built").to_owned()
}

async fn attempts(place: &Place, stage: &str) -> Vec<AttemptRow> {
    let db = place.db().await;
    let stage = stage.parse().expect("an id");
    let all = db.attempts(&stage).await.expect("readable");
    db.close().await;
    all
}

/// The log of the stage's last attempt is stored: every line once, in order.
async fn whole_log(run: &Running, attempt: i64) {
    let sealed = eventually("its log is stored", SOON, || async {
        let all = attempts(&run.place, &run.stage).await;
        let row = all.into_iter().find(|row| row.attempt == attempt)?;
        (row.log_sealed == 1).then_some(())
    });
    sealed.await.expect("sealed");
    let path = format!("/builds/{}/logs?lines=10000", run.build);
    let log = run.place.rest.get(&path).await.expect("a log");
    let lines = log["logs"].as_array().expect("lines");
    let printed: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["message"].as_str()?.strip_prefix("line "))
        .collect();
    let expected: Vec<String> = (1..=LINES)
        .map(|n| format!("{n} of the forty hundred that it prints"))
        .collect();
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn an_agent_whose_disk_is_full_gives_the_stage_to_another_and_goes_on_when_there_is_room() {
    let Some(mut run) = running("agent-a").await else {
        return;
    };
    let other = run.place.start_agent("agent-b").await;
    run.disk.fill();
    let_go(&run.stage, 1).await;
    let again = eventually("it is executed again", SOON, || async {
        let all = attempts(&run.place, &run.stage).await;
        (all.len() == 2).then_some(all)
    });
    let all = again.await.expect("again");
    let first = all.iter().find(|row| row.attempt == 1).expect("the first");
    assert_eq!(first.outcome.as_deref(), Some("lost"));
    assert_eq!(first.reason.as_deref(), Some("disk_full"));
    let_go(&run.stage, 2).await;
    let ended = run.place.rest.build_ended(&run.build, SOON).await;
    assert_eq!(ended.expect("ended")["status"], "passed");
    whole_log(&run, 2).await;
    let gone = eventually("no container is left", SOON, || async {
        containers(&run.stage, None).is_empty().then_some(())
    });
    gone.await.expect("gone");

    run.disk.make_room();
    run.place.agent(other).kill();
    let retry = format!("/builds/{}/retry", run.build);
    let again = run.place.rest.post(&retry, serde_json::json!({}));
    again.await.expect("again");
    let third = eventually("agent-a executes it", SOON, || async {
        let all = attempts(&run.place, &run.stage).await;
        let third = all.into_iter().find(|row| row.attempt >= 3)?;
        (third.started_ms.is_some() && third.agent_id == first.agent_id).then_some(third)
    });
    let third = third.await.expect("agent-a takes work again");
    let_go(&run.stage, u32::try_from(third.attempt).expect("a number")).await;
    let ended = run.place.rest.build_ended(&run.build, SOON).await;
    assert_eq!(ended.expect("ended")["status"], "passed");
    whole_log(&run, third.attempt).await;
}

#[tokio::test]
async fn a_dispatcher_whose_disk_is_full_loses_no_line_of_a_log() {
    let Some(run) = running("dispatcher").await else {
        return;
    };
    run.disk.fill();
    let_go(&run.stage, 1).await;
    let ended = run.place.rest.build_ended(&run.build, SOON).await;
    let ended = ended.expect("a result needs no room on this disk");
    assert_eq!(ended["status"], "passed");
    assert_eq!(
        ended["stages"][0]["attempt"], 1,
        "it was not executed again"
    );
    let all = attempts(&run.place, &run.stage).await;
    assert_eq!(all[0].log_sealed, 0, "there is no room for its log");
    run.disk.make_room();
    whole_log(&run, 1).await;
}
