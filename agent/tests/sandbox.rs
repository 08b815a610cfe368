//! One suite for every sandbox: the fake, and Docker.
#![expect(clippy::unwrap_used, reason = "a test's failure is its message")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use slipway_agent::sandbox::docker::DockerSandbox;
use slipway_agent::sandbox::fake::{FakeSandbox, Script};
use slipway_agent::sandbox::{Sandbox, StageRun};
use slipway_core::pipeline::Sandbox as Profile;
use slipway_daemon::{Clock, Rng};
use slipway_docker::Engine;
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1::AttemptRef;

fn key(number: u64) -> AttemptKey {
    let stage_id = format!("01ARZ{:011}{number:010}", std::process::id());
    AttemptKey::try_from(Some(AttemptRef {
        stage_id,
        attempt: 1,
    }))
    .unwrap()
}

fn stage(number: u64, script: &str, workspace: &Path) -> StageRun {
    StageRun {
        key: key(number),
        image: "slipway-busybox:1".to_owned(),
        script: script.to_owned(),
        environment: BTreeMap::from([("NAME".to_owned(), "value".to_owned())]),
        workspace: workspace.to_owned(),
        profile: Profile::Standard,
        services: Vec::new(),
    }
}

async fn everything(sandbox: &dyn Sandbox, key: &AttemptKey) -> Vec<u8> {
    let pieces: Vec<_> = sandbox.output(key).collect().await;
    pieces
        .into_iter()
        .flat_map(|piece| piece.unwrap())
        .collect()
}

async fn contract(sandbox: &dyn Sandbox) {
    let folder = tempfile::tempdir().unwrap();
    sandbox.ensure_image("slipway-busybox:1").await.unwrap();

    // Output and exit code are complete, and the output can be read again.
    let run = stage(1, "echo hello; exit 4", folder.path());
    sandbox.create(&run).await.unwrap();
    sandbox.start(&run.key).await.unwrap();
    let ended = sandbox.wait(&run.key).await.unwrap();
    assert_eq!((ended.code, ended.out_of_memory), (4, None));
    assert_eq!(everything(sandbox, &run.key).await, b"hello\n");
    assert_eq!(everything(sandbox, &run.key).await, b"hello\n");
    assert!(sandbox.held().await.unwrap().contains(&run.key));

    // Another one is ended from outside.
    let long = stage(2, "sleep 100", folder.path());
    sandbox.create(&long).await.unwrap();
    sandbox.start(&long.key).await.unwrap();
    let stopping = sandbox.stop(&long.key, Duration::from_secs(1));
    let (stopped, ended) = tokio::join!(stopping, sandbox.wait(&long.key));
    stopped.unwrap();
    assert_ne!(ended.unwrap().code, 0);

    // Removing leaves nothing, and may be repeated.
    for key in [&run.key, &long.key] {
        sandbox.remove(key).await.unwrap();
        sandbox.remove(key).await.unwrap();
        sandbox.stop(key, Duration::ZERO).await.unwrap();
    }
    let held = sandbox.held().await.unwrap();
    assert!(!held.contains(&run.key) && !held.contains(&long.key));
    assert!(sandbox.start(&run.key).await.is_err());

    // Created and never started: it executed nothing, so nobody may take it for one that ended.
    let never = stage(3, "echo hello; exit 4", folder.path());
    sandbox.create(&never).await.unwrap();
    assert!(!sandbox.held().await.unwrap().contains(&never.key));
    assert!(sandbox.remains().await.unwrap().contains(&never.key));
    sandbox.remove(&never.key).await.unwrap();
    assert!(sandbox.remains().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let fake = FakeSandbox::new();
    fake.script(
        "echo hello",
        Script {
            output: Bytes::from_static(b"hello\n"),
            code: 4,
            takes: Duration::ZERO,
        },
    );
    fake.script(
        "sleep 100",
        Script {
            takes: Duration::from_secs(100),
            ..Script::default()
        },
    );
    contract(&fake).await;
}

#[tokio::test]
async fn docker_keeps_the_contract() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness says what must be there"
    )]
    let required = std::env::var("SLIPWAY_REQUIRE").unwrap_or_default();
    if !Path::new("/var/run/docker.sock").exists() {
        assert!(
            !required.contains("docker"),
            "docker is required and absent"
        );
        eprintln!("skipped: docker not installed");
        return;
    }
    let engine = Engine::open(None).await.unwrap();
    let install = format!("sandbox-test-{}", std::process::id());
    let nobody = Arc::new(|_: &str| futures::future::ready(None).boxed());
    contract(&DockerSandbox::new(engine, install, Rng::system(), nobody)).await;
}

/// Every limit of the real profiles, seen from inside, with its control.
#[tokio::test]
async fn sandbox_probe() {
    if !Path::new("/var/run/docker.sock").exists() {
        // Required or not is said by the contract above.
        eprintln!("skipped: docker not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = slipway_agent::config::Config::in_dir(dir.path());
    "slipway-busybox:1".clone_into(&mut config.probe_image);
    let (clock, rng) = (Clock::system(), Rng::system());
    let report = slipway_agent::probe::probe(&config, &clock, &rng)
        .await
        .unwrap();
    let bad: Vec<String> = report
        .findings
        .iter()
        .filter(|f| !f.good && f.what != "user namespaces" && f.what != "deny list")
        .map(|f| format!("{} {}: {}", f.profile, f.what, f.found))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(report.findings.len() > 60, "{}", report.findings.len());
    let engine = Engine::open(None).await.unwrap();
    let nobody = Arc::new(|_: &str| futures::future::ready(None).boxed());
    let sandbox = DockerSandbox::new(engine, "probe-test".to_owned(), Rng::system(), nobody);
    let said = sandbox.engine().await.unwrap();
    let filtered = report
        .findings
        .iter()
        .any(|f| f.what == "deny list" && f.good);
    // What is not there proves nothing, and nothing of a trial is left.
    assert_eq!(report.proves_strict(), said.user_namespaces && filtered);
    let proof = slipway_agent::probe::Proof::of_strict(dir.path(), &said);
    assert_eq!(proof, report.proves_strict());
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("probe-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
