//! One suite per port, on the fake and on the real adapter.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod cluster;
mod described;
mod kubernetes;
mod several;
mod suites;

use std::process::Command;
use std::time::Duration;

use slipway_daemon::Shutdown;
use slipway_deploy::targets::fake::FakeTarget;
use slipway_deploy::targets::{DockerHost, Place, Target, TargetError};
use slipway_deploy::traffic::fake::FakeTraffic;
use slipway_deploy::traffic::{RouterTraffic, Traffic, TrafficError};

use suites::{fence, target_suite, traffic_suite, ulid, version};

/// A table of one host.
fn table(
    service: &str,
    listen: &str,
    weights: &[(&str, u32)],
) -> slipway_core::traffic::TrafficTable {
    suites::table_on(service, listen, weights, &[""])
}

#[tokio::test]
async fn the_fake_target_keeps_the_contract() {
    target_suite(&FakeTarget::default(), "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_host_keeps_the_contract() {
    if !docker_is_there() {
        return;
    }
    let target = DockerHost::new("unix:///var/run/docker.sock").unwrap();
    // Its shell would end at once without a terminal: the engine starts it again and again, which is
    // what a crashing service looks like; so one that waits.
    let build = "printf 'FROM slipway-busybox:1\\nCMD [\"sleep\",\"600\"]\\n' | docker build -q -";
    let output = Command::new("sh").args(["-c", build]).output().unwrap();
    let image = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    target_suite(&target, &image).await;
    let place = Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    };
    let missing = version(&format!("sha256:{}", "0".repeat(64)), 1);
    let refused = target.ensure(fence(1, 1), &place, &missing).await;
    assert!(
        matches!(refused, Err(TargetError::Refused(_))),
        "{refused:?}"
    );
}

#[expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a skip must be visible"
)]
fn docker_is_there() -> bool {
    let asked = Command::new("docker")
        .args(["image", "inspect", "slipway-busybox:1"])
        .output();
    let found = asked.is_ok_and(|output| output.status.success());
    let required = std::env::var("SLIPWAY_REQUIRE").unwrap_or_default();
    assert!(
        found || !required.contains("docker"),
        "docker with slipway-busybox:1 is required"
    );
    if !found {
        eprintln!("skipped: docker or the image slipway-busybox:1 is not installed");
    }
    found
}

#[tokio::test]
async fn the_fake_router_keeps_the_contract() {
    traffic_suite(&FakeTraffic::default(), "127.0.0.1:8081", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let config = slipway_router::Config::in_dir(dir.path());
    let socket = config.socket();
    let shutdown = Shutdown::new();
    shutdown.spawn("router", slipway_router::run(config, shutdown.clone()));
    let traffic = RouterTraffic::new(&format!("unix://{}", socket.display())).unwrap();
    for _ in 0..500 {
        if traffic.read("").await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let listen = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    traffic_suite(&traffic, &listen.to_string(), true).await;
    shutdown.begin();
    assert!(shutdown.drained(Duration::from_secs(40)).await);
    assert!(matches!(
        traffic.read("").await,
        Err(TrafficError::Unknown(_))
    ));
}

#[test]
fn addresses_that_cannot_be_used_are_refused() {
    assert!(RouterTraffic::new("http://x").is_err());
    assert!(RouterTraffic::new("unix://relative").is_err());
    assert!(DockerHost::new("tcp://somewhere:2375").is_err());
}
