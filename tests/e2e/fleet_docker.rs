//! Agents as containers: the image that is shipped, the contract, and a stage from zero agents.

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use slipway_dispatcher::config::FleetConfig;
use slipway_dispatcher::fleet::contract::keeps_the_contract;
use slipway_dispatcher::fleet::docker::Containers;
use slipway_tests::require;

use crate::crash::SOON;
use crate::fleet::{build, empty, pipeline, set};
use crate::place::Place;

const IMAGE: &str = "slipway-agent-under-test:1";

/// Builds the image out of the binary that is under test.
fn image() -> Option<()> {
    require("docker")?;
    let base = "slipway-toolchain:1";
    let known = Command::new("docker")
        .args(["image", "inspect", base])
        .output();
    if !known.is_ok_and(|out| out.status.success()) {
        let skipped = format!("skipped: {base} is not here (tests/images.sh makes it)\n");
        std::io::stderr().write_all(skipped.as_bytes()).ok()?;
        return None;
    }
    let context = tempfile::tempdir().expect("a folder");
    std::fs::copy(crate::binary(), context.path().join("slipway")).expect("copied");
    let root = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/packaging/agent/Dockerfile"
    );
    let build = || {
        Command::new("docker")
            .args([
                "build",
                "-q",
                "--build-arg",
                &format!("BASE={base}"),
                "-t",
                IMAGE,
                "-f",
                root,
            ])
            .arg(context.path())
            .output()
            .expect("docker answers")
    };
    let mut built = build();
    // Other tests remove their images meanwhile, and the engine may collect a layer that this build has just
    // found: it says that a snapshot is not there, and makes it anew the next time.
    if String::from_utf8_lossy(&built.stderr).contains("does not exist: not found") {
        built = build();
    }
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    Some(())
}

#[tokio::test]
async fn containers_keep_the_contract_and_execute_a_stage_from_zero_agents() {
    let Some(()) = image() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let config = FleetConfig {
        directory: dir.path().to_owned(),
        dispatcher: "https://127.0.0.1:1".to_owned(),
        ..FleetConfig::default()
    };
    let installation = format!("test-{}", std::process::id());
    let containers =
        || Containers::new(&config, &installation, "contract", IMAGE, "host").expect("docker");
    keeps_the_contract(&containers(), &containers(), &config).await;

    let mut place = Place::sqlite().await;
    place.start_cache().await;
    place.start_dispatcher().await;
    let provider = json!({"kind": "docker", "image": IMAGE});
    let settings =
        json!({"provider": provider, "max": 2, "idle_seconds": 2, "down_period_seconds": 1});
    set(&place, settings).await;
    let (id, begun): (String, Instant) =
        build(&place, &pipeline(2, "echo hello > /workspace/file")).await;
    let ended = place.rest.build_ended(&id, SOON).await.expect("ended");
    let first = begun.elapsed();
    let log = place.rest.get(&format!("/builds/{id}/logs")).await;
    assert_eq!(ended["status"], "passed", "{ended} {log:?}");
    empty(&place, Duration::from_secs(60)).await;
    let said =
        format!("docker agents: two stages passed {first:?} after the push, from zero agents\n");
    std::io::stderr().write_all(said.as_bytes()).expect("said");
    let left = Command::new("docker")
        .args(["ps", "-aq", "--filter", "label=slipway.pool=burst"])
        .output()
        .expect("docker answers");
    assert_eq!(
        String::from_utf8_lossy(&left.stdout).trim(),
        "",
        "containers of agents"
    );
}
