//! Going back without a dispatcher: the command talks to the coordinator itself.

use std::process::{Command, Output};
use std::time::Duration;

use slipway_tests::{eventually, require};

use super::service::{Service, Way};

/// The rollback, on a loaded machine.
const ENDS: Duration = Duration::from_secs(60);

fn slipway(service: &Service, token: &str, authority: &str, deployment: &str) -> Output {
    let coordinator = format!("https://{}", service.at);
    let args = ["rollback", deployment, "--reason", "it is bad"];
    Command::new(crate::binary())
        .args(args)
        .args(["--coordinator", &coordinator, "--authority", authority])
        // Nobody answers there.
        .args(["--server", "http://127.0.0.1:1"])
        .env("SLIPWAY_TOKEN", token)
        .output()
        .expect("executed")
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_no_dependencies_the_command_asks_the_coordinator_itself() {
    if require("docker").is_none() {
        return;
    }
    let mut service = Service::start("blue-green").await;
    let stable = service.serving().await;
    let done = service.carry_out(Way::Forward, "blue-green", "two", None);
    let bad = done.await.row.deployment_id;
    let fingerprint = service.authority.fingerprint();
    let said = |out: &Output| String::from_utf8_lossy(&out.stderr).into_owned();

    let out = slipway(&service, "slp_nobody", &fingerprint, &bad);
    assert_eq!(out.status.code(), Some(4), "{}", said(&out));
    let other = "0".repeat(64);
    let out = slipway(&service, &service.secret, &other, &bad);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    assert!(said(&out).contains("--authority"), "{}", said(&out));
    assert!(!said(&out).contains(&service.secret), "{}", said(&out));

    let out = slipway(&service, &service.secret, &fingerprint, &bad);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let id = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let ended = eventually("the rollback ends", ENDS, || async {
        let row = service.db.rollout(&id).await.ok()??;
        (row.status != "in_progress").then_some(row)
    });
    let row = ended.await.expect("ended");
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(service.serving().await, stable);
    assert_eq!(service.word().await, "one");
}
