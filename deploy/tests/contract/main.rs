//! One suite per port, on the fake and on the real adapter.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod cluster;
mod kubernetes;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use slipway_core::rollout::{TargetView, VersionSpec};
use slipway_core::traffic::{Fence, Instance, Share, TrafficTable};
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_deploy::targets::fake::FakeTarget;
use slipway_deploy::targets::{DockerHost, Place, Target, TargetError};
use slipway_deploy::traffic::fake::FakeTraffic;
use slipway_deploy::traffic::{RouterTraffic, Traffic, TrafficError};

fn fence(token: u64, generation: u64) -> Fence {
    Fence { token, generation }
}

fn ulid() -> String {
    Rng::system().ulid(Clock::system().now())
}

fn version(image: &str, replicas: u32) -> VersionSpec {
    VersionSpec {
        version_id: ulid(),
        image: image.to_owned(),
        port: 8080,
        replicas,
        health_path: "/".to_owned(),
        environment: BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]),
        memory_bytes: 0,
        cpu_millis: 0,
    }
}

/// Every effect one to three times; adopted, not doubled; stale owners refused.
async fn target_suite(target: &dyn Target, image: &str) {
    let place = Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    };
    assert!(target.observe(&place).await.unwrap().is_empty());
    let (old, new) = (version(image, 1), version(image, 2));
    target.ensure(fence(5, 1), &place, &old).await.unwrap();
    for _ in 0..3 {
        target.ensure(fence(6, 2), &place, &new).await.unwrap();
    }
    let seen = target.observe(&place).await.unwrap();
    assert_eq!(seen.len(), 2);
    let instances = &seen[&new.version_id];
    assert_eq!((instances.len(), TargetView::running(instances)), (2, 2));
    let named = format!("slipway-{}-", new.version_id.to_lowercase());
    let is_named = instances[0].id.to_lowercase().starts_with(&named);
    assert!(is_named, "{}", instances[0].id);

    // An owner that was replaced is refused, and changes nothing.
    let stale = target.ensure(fence(5, 9), &place, &version(image, 1)).await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { seen: 6 })),
        "{stale:?}"
    );
    let stale = target
        .retire(fence(5, 9), &place, &new.version_id, Duration::ZERO)
        .await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { seen: 6 })),
        "{stale:?}"
    );
    assert_eq!(target.observe(&place).await.unwrap(), seen);

    for _ in 0..2 {
        target
            .retire(fence(7, 3), &place, &new.version_id, Duration::ZERO)
            .await
            .unwrap();
    }
    let left = target.observe(&place).await.unwrap();
    assert_eq!(left.keys().collect::<Vec<_>>(), [&old.version_id]);
    // What was retired can be started again.
    target.ensure(fence(7, 4), &place, &new).await.unwrap();
    assert_eq!(target.observe(&place).await.unwrap().len(), 2);
    for gone in [&old, &new] {
        target
            .retire(fence(8, 5), &place, &gone.version_id, Duration::ZERO)
            .await
            .unwrap();
    }
    assert!(target.observe(&place).await.unwrap().is_empty());
    let network = format!("slipway-env-{}", place.environment_id.to_lowercase());
    let _fakes_have_none = Command::new("docker")
        .args(["network", "rm", &network])
        .output();
}

fn table(service: &str, listen: &str, weights: &[(&str, u32)]) -> TrafficTable {
    let share = |(version, weight_bp): &(&str, u32)| Share {
        version: (*version).to_owned(),
        weight_bp: *weight_bp,
        instances: vec![Instance {
            id: format!("{version}-1"),
            address: "127.0.0.1:9".to_owned(),
        }],
    };
    TrafficTable {
        service: service.to_owned(),
        hosts: vec![],
        listen: listen.to_owned(),
        versions: weights.iter().map(share).collect(),
        upstream_timeout_ms: 1_000,
        canary: String::new(),
        stickiness: slipway_core::traffic::Stickiness::None,
        lease: None,
    }
}

/// `counts`: whether it counts requests.
async fn traffic_suite(traffic: &dyn Traffic, listen: &str, counts: bool) {
    let empty = traffic.read("shop/production").await.unwrap();
    assert_eq!((empty.table, empty.fence), (None, Fence::default()));
    let one = table("shop/production", listen, &[("v1", 10_000)]);
    let two = table("shop/production", listen, &[("v1", 0), ("v2", 10_000)]);
    for _ in 0..3 {
        traffic.apply(fence(3, 1), &one).await.unwrap();
    }
    traffic.apply(fence(3, 2), &two).await.unwrap();
    let seen = traffic.read("shop/production").await.unwrap();
    assert_eq!((seen.fence, seen.table.as_ref()), (fence(3, 2), Some(&two)));
    let counted = seen.counters.get("v2").map(|counted| counted.total);
    assert_eq!(counted, counts.then_some(0));

    let stale = traffic.apply(fence(2, 9), &one).await;
    assert!(
        matches!(stale, Err(TrafficError::StaleToken { seen: 3 })),
        "{stale:?}"
    );
    for refused in [
        traffic.apply(fence(3, 1), &one).await,
        traffic.apply(fence(3, 2), &one).await,
    ] {
        assert!(
            matches!(refused, Err(TrafficError::Refused(_))),
            "{refused:?}"
        );
    }
    let half = table("shop/production", listen, &[("v1", 5_000)]);
    assert!(matches!(
        traffic.apply(fence(4, 1), &half).await,
        Err(TrafficError::Refused(_))
    ));
    assert_eq!(
        traffic.read("shop/production").await.unwrap(),
        seen,
        "a refusal changed something"
    );

    let limit = Duration::from_secs(1);
    let busy = traffic.drain("shop/production", "v2", limit).await;
    assert!(matches!(busy, Err(TrafficError::Refused(_))), "{busy:?}");
    assert_eq!(
        traffic.drain("shop/production", "v1", limit).await.unwrap(),
        0
    );
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
