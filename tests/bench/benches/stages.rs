//! A build of three dependent `true` stages, a container each, from trigger to finished, against the
//! bare Engine API doing the same three containers in the same run.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use slipway_agent::sandbox::docker::SHARED;
use slipway_agent::sandbox::profile::confine;
use slipway_bench::figure::{Figure, percentile};
use slipway_cli::embedded::{Embedded, Options};
use slipway_core::pipeline::Sandbox;
use slipway_daemon::{Clock, Shutdown};
use slipway_dispatcher::source::{Commit, FakeSource};
use slipway_docker::{ContainerSpec, Engine, LogDriver, MountSpec, NetworkSpec};
use std::sync::Arc;

const ROUNDS: usize = 25;
const IMAGE: &str = "slipway-busybox:1";
const PIPELINE: &str = "version: 1\ndefaults: { image: \"slipway-busybox:1\" }\nstages:\n  one: { commands: [\"true\"] }\n  two: { needs: [one], commands: [\"true\"] }\n  three: { needs: [two], commands: [\"true\"] }\n";

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(bench())
}

async fn bench() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let repository = dir.path().join("repository");
    let sha = repository_with(&repository)?;
    let url = format!("file://{}", repository.display());
    let source = FakeSource::new();
    source.put(
        &sha,
        Commit {
            pipelines: vec![("default".to_owned(), PIPELINE.to_owned())],
            ..Commit::default()
        },
    );
    let options = Options {
        allowed_sources: vec![url.clone()],
        source: Some(Arc::new(source)),
        ..Options::in_dir(&dir.path().join("data"))
    };
    let up = Embedded::start(options, Shutdown::new()).await?;
    let http = reqwest::Client::new();
    let base = format!("http://{}/api/v1", up.rest);
    let post = |path: &str, body: serde_json::Value| {
        http.post(format!("{base}{path}"))
            .bearer_auth(&up.token)
            .json(&body)
    };
    let made = post("/repositories", serde_json::json!({"repo_url": url}))
        .send()
        .await?;
    ensure!(made.status().is_success(), "{}", made.text().await?);
    let engine = Engine::connect(None)?;
    let clock = Clock::system();
    let (mut builds, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let began = clock.monotonic();
        let body =
            serde_json::json!({"repo_url": url, "commit_sha": sha, "trigger_type": "manual"});
        let started: serde_json::Value = post("/builds", body).send().await?.json().await?;
        let id = started["build_id"].as_str().context("no build")?.to_owned();
        wait_for(&http, &base, &up.token, &id).await?;
        let built = clock.monotonic() - began;
        let floor = bare_engine(&engine, dir.path(), round, &clock).await?;
        // The first round warms both.
        if round > 0 {
            builds.push(built);
            bare.push(floor);
        }
    }
    up.stop().await;
    for (figure, percent) in [("build3_p50", 50.0), ("build3_p95", 95.0)] {
        Figure {
            bench: "stages",
            figure,
            value: percentile(&builds, percent),
            unit: "ms",
            against: "engine_api",
            against_value: percentile(&bare, percent),
        }
        .print();
    }
    Ok(())
}

fn repository_with(dir: &std::path::Path) -> anyhow::Result<String> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join(".slipway.yml"), PIPELINE)?;
    let git = |args: &[&str]| {
        let out = std::process::Command::new("git")
            .args(["-c", "user.name=b", "-c", "user.email=b@example.org"])
            .args(args)
            .current_dir(dir)
            .output()?;
        ensure!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    git(&["init", "-q", "-b", "main", "."])?;
    git(&["add", "-A"])?;
    git(&["commit", "-q", "-m", "bench"])?;
    git(&["rev-parse", "HEAD"])
}

async fn wait_for(http: &reqwest::Client, base: &str, token: &str, id: &str) -> anyhow::Result<()> {
    loop {
        let found: serde_json::Value = http
            .get(format!("{base}/builds/{id}"))
            .bearer_auth(token)
            .send()
            .await?
            .json()
            .await?;
        match found["status"].as_str() {
            Some("passed") => return Ok(()),
            Some("queued" | "building") => tokio::time::sleep(Duration::from_millis(2)).await,
            other => anyhow::bail!("the build ended {other:?}: {found}"),
        }
    }
}

/// The floor: the same three containers by hand.
async fn bare_engine(
    engine: &Engine,
    workspace: &std::path::Path,
    round: usize,
    clock: &Clock,
) -> anyhow::Result<Duration> {
    // What the agent still removes must not weigh on this side.
    all_removed(engine).await?;
    let began = clock.monotonic();
    for stage in 0..3 {
        container(engine, workspace, &format!("slipway-bench-{round}-{stage}")).await?;
    }
    Ok(clock.monotonic() - began)
}

/// Waits for the containers of ended stages to be gone.
async fn all_removed(engine: &Engine) -> anyhow::Result<()> {
    let of_stages = [(slipway_docker::labels::PURPOSE, "stage")];
    let gone = async {
        while !engine.list_containers(&of_stages).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .context("containers of ended stages are still there")?
}

/// What the agent creates for a stage, by hand.
async fn container(engine: &Engine, workspace: &std::path::Path, name: &str) -> anyhow::Result<()> {
    let confinement = confine(Sandbox::Standard);
    let spec = ContainerSpec {
        name: name.to_owned(),
        image: IMAGE.to_owned(),
        entrypoint: Some(vec!["sh".to_owned(), "-c".to_owned()]),
        command: vec!["set -e\nprintf '%s\\n' '$ true'\ntrue\n".to_owned()],
        labels: BTreeMap::from([("slipway.install".to_owned(), "bench".to_owned())]),
        workdir: Some("/workspace".to_owned()),
        limits: confinement.limits,
        security: confinement.security,
        mounts: vec![MountSpec::Bind {
            source: workspace.display().to_string(),
            target: "/workspace".to_owned(),
            read_only: false,
        }],
        network: NetworkSpec {
            name: SHARED.to_owned(),
            ..NetworkSpec::default()
        },
        log: LogDriver::Local {
            max_bytes: 300 << 20,
        },
        ..ContainerSpec::default()
    };
    let id = engine.create_container(&spec).await?;
    engine.start_container(&id).await?;
    let code = engine.wait_exit(&id).exit_code().await?;
    ensure!(code == 0, "exit code {code}");
    engine.remove_container(&id).await?;
    Ok(())
}
