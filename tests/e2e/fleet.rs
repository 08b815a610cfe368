//! A pool of process agents from nothing to twenty and back, with real processes and containers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use slipway_tests::{eventually, require};

use crate::crash::SOON;
use crate::place::Place;

/// Two processors start twenty agents and as many containers.
const BURST: Duration = Duration::from_secs(120);
const AGENTS: usize = 20;

pub(crate) fn pipeline(stages: usize, command: &str) -> String {
    let mut text =
        "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n".to_owned();
    for n in 0..stages {
        writeln!(text, "  part-{n}:\n    commands:\n      - {command}").expect("written");
    }
    text
}

pub(crate) async fn set(place: &Place, settings: Value) {
    let answer = place
        .rest
        .call(Method::PUT, "/pools/burst", Some(settings))
        .await
        .expect("answered");
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn pool(place: &Place) -> Value {
    place.rest.get("/pools/burst").await.expect("a pool")
}

/// Processes whose command line names a settings file below this folder. A child of one of them that has
/// been forked and not yet become git or nft still has its command line, and is no agent.
fn agents_below(dir: &Path) -> Vec<String> {
    let needle = dir.join("dispatcher/fleet").display().to_string();
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("readable").flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let status = std::fs::read_to_string(entry.path().join("status"));
        let parent = status.ok().and_then(|text| {
            let parent = text.lines().find_map(|l| l.strip_prefix("PPid:"))?;
            Some(parent.trim().to_owned())
        });
        if let (true, Some(parent)) = (line.contains(&needle), parent) {
            let pid = entry.file_name().to_string_lossy().into_owned();
            found.insert(pid, (parent, line));
        }
    }
    let is_child = |parent: &String| found.contains_key(parent);
    let agents = found.values().filter(|(parent, _)| !is_child(parent));
    agents.map(|(_, line)| line.clone()).collect()
}

pub(crate) async fn build(place: &Place, pipeline: &str) -> (String, Instant) {
    let (hook, body) = place.pushed(pipeline).await;
    #[expect(clippy::disallowed_methods, reason = "a figure of the real clock")]
    let begun = Instant::now();
    hook.deliver(&place.rest, "d", body)
        .await
        .expect("delivered");
    let row = place.rest.decided(&hook, "d", SOON).await.expect("decided");
    (row["build_id"].as_str().expect("built").to_owned(), begun)
}

pub(crate) async fn empty(place: &Place, limit: Duration) {
    let gone = eventually("the pool is empty again", limit, || async {
        let now = pool(place).await["now"].clone();
        let count = |name: &str| now[name].as_u64().unwrap_or(1);
        let all = count("ready") + count("booting") + count("draining") + count("leaving");
        (all == 0).then_some(())
    });
    gone.await.expect("empty");
    assert_eq!(agents_below(place.dir()), Vec::<String>::new(), "orphans");
}

#[tokio::test]
async fn a_burst_takes_a_pool_from_nothing_to_twenty_and_back_and_loses_nothing() {
    let Some(_docker) = require("docker") else {
        return;
    };
    let mut place = Place::sqlite().await;
    place.start_cache().await;
    place.start_dispatcher().await;
    set(
        &place,
        json!({"provider": {"kind": "process"}, "max": AGENTS, "idle_seconds": 2,
               "down_period_seconds": 1}),
    )
    .await;
    let (id, begun) = build(&place, &pipeline(2 * AGENTS, "sleep 3")).await;
    let first = eventually("the first stage runs", SOON, || async {
        let stages = place.rest.get(&format!("/builds/{id}/stages")).await.ok()?;
        let all = stages.as_array()?;
        all.iter()
            .any(|s| s["status"] == "running" || s["state"] == "running")
            .then_some(())
    });
    first.await.expect("running");
    let first = begun.elapsed();
    let mut most = 0;
    let full = eventually("twenty agents are ready", BURST, || async {
        let now = pool(&place).await["now"].clone();
        (now["ready"].as_u64()? >= AGENTS as u64).then_some(())
    });
    full.await.expect("full");
    most = most.max(agents_below(place.dir()).len());
    let full = begun.elapsed();
    assert_eq!(most, AGENTS, "as many as may be, and no more");
    let ended = place.rest.build_ended(&id, BURST).await.expect("ended");
    let passed = begun.elapsed();
    assert_eq!(ended["status"], "passed", "{ended}");
    for stage in ended["stages"].as_array().expect("stages") {
        assert_eq!(stage["attempt"], 1, "nothing was lost on the way: {stage}");
    }
    empty(&place, BURST).await;
    let left = std::fs::read_dir(place.dir().join("dispatcher/fleet/burst")).expect("a folder");
    assert_eq!(left.count(), 0, "folders of agents that are gone");
    let figures = format!(
        "first stage from zero agents {first:?}; twenty ready {full:?}; {} stages passed {passed:?}; \
         empty {:?}\n",
        2 * AGENTS,
        begun.elapsed()
    );
    std::io::stderr()
        .write_all(figures.as_bytes())
        .expect("said");
}

#[tokio::test]
async fn agents_survive_the_dispatcher_and_are_adopted_by_the_next() {
    let Some(_docker) = require("docker") else {
        return;
    };
    let mut place = Place::sqlite().await;
    place.start_cache().await;
    place.start_dispatcher().await;
    let settings = |max| {
        json!({"provider": {"kind": "process"}, "min": 0, "max": max, "idle_seconds": 1,
               "down_period_seconds": 1})
    };
    set(&place, settings(2)).await;
    let command = "until [ -e /workspace/go ]; do sleep 0.1; done";
    let (id, _) = build(&place, &pipeline(1, command)).await;
    let stage = place.rest.stage_is(&id, "part-0", "running", SOON).await;
    let stage = stage.expect("running")["stage_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let before = agents_below(place.dir());
    assert_eq!(before.len(), 1);
    place.kill_dispatcher();
    place.start_dispatcher().await;
    // Busy for many times the pool's idle time: it stays, and nothing is started beside it.
    let planned = eventually("the pool is planned again", SOON, || async {
        let now = pool(&place).await["now"].clone();
        (now["ready"] == 1 && now["busy_slots"] == 1).then_some(())
    });
    planned.await.expect("planned");
    assert_eq!(agents_below(place.dir()), before, "the same process");
    crate::crash::let_go(&stage, 1).await;
    let ended = place.rest.build_ended(&id, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    assert_eq!(ended["stages"][0]["attempt"], 1, "{ended}");
    empty(&place, SOON).await;
}
