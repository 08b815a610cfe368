//! A build of stages that were all executed before, from its trigger to its end: nothing is executed. The
//! peer is the same build in the same run with everything executed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use slipway_bench::figure::{Figure, percentile};
use slipway_cli::embedded::{Embedded, Options};
use slipway_daemon::{Clock, Shutdown};
use slipway_docker::Engine;

const ROUNDS: usize = 20;
/// Stages of the wide build: four chains of five.
const CHAINS: usize = 4;
const LENGTH: usize = 5;
/// Longest build.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(bench())
}

struct Bench {
    up: Embedded,
    http: reqwest::Client,
    url: String,
    clock: Clock,
    repository: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

async fn bench() -> anyhow::Result<()> {
    let bench = Bench::start().await?;
    let containers = Containers::watch(&Shutdown::new())?;
    let (executed, first) = bench.build().await?;
    ensure!(recalled(&first) == 0, "something was recalled: {first}");
    settle().await;
    ensure!(
        containers.of(&first) == CHAINS * LENGTH,
        "containers are not seen"
    );
    let mut builds = Vec::new();
    let mut rebuilds = Vec::new();
    for _ in 0..ROUNDS {
        let (took, build) = bench.build().await?;
        ensure!(
            recalled(&build) == CHAINS * LENGTH,
            "not all was recalled: {build}"
        );
        rebuilds.push(took);
        builds.push(build);
    }
    settle().await;
    let started = builds.iter().map(|b| containers.of(b)).sum();
    std::fs::write(bench.repository.join("chain0"), "another line\n")?;
    git(&bench.repository, &["add", "-A"])?;
    git(&bench.repository, &["commit", "-q", "-m", "one line"])?;
    let (one_line, build) = bench.build().await?;
    let again = CHAINS * LENGTH - recalled(&build);
    bench.up.stop().await;
    let ms = |took: Duration| took.as_secs_f64() * 1_000.0;
    for (figure, value, unit) in [
        ("rebuild", percentile(&rebuilds, 50.0), "ms"),
        ("rebuild_p95", percentile(&rebuilds, 95.0), "ms"),
        ("one_line_change", ms(one_line), "ms"),
    ] {
        print(figure, value, unit, "all_executed", ms(executed));
    }
    let all = count(CHAINS * LENGTH);
    print(
        "containers_started",
        count(started),
        "containers",
        "all_executed",
        all,
    );
    print(
        "executed_after_one_line",
        count(again),
        "stages",
        "all_executed",
        all,
    );
    Ok(())
}

/// The engine's word of a container comes a moment after it.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

fn print(figure: &str, value: f64, unit: &str, against: &str, against_value: f64) {
    Figure {
        bench: "memo",
        figure,
        value,
        unit,
        against,
        against_value,
    }
    .print();
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn count(n: usize) -> f64 {
    n as f64
}

fn recalled(build: &Value) -> usize {
    let stages = build["stages"].as_array().map_or(&[][..], Vec::as_slice);
    stages.iter().filter(|s| s["recalled"] == true).count()
}

/// Each chain looks at a file of its own; every stage leaves a file for the next one.
fn pipeline(image: &str) -> String {
    let mut text = format!("version: 1\ndefaults: {{image: \"{image}\"}}\nstages:\n");
    for chain in 0..CHAINS {
        for n in 0..LENGTH {
            let needs = match n {
                0 => String::new(),
                n => format!("needs: [c{chain}-{}], ", n - 1),
            };
            text.push_str(&format!(
                "  c{chain}-{n}: {{{needs}memoize: {{inputs: [chain{chain}]}}, \
                 commands: [\"echo {n} >> out{chain}\"]}}\n"
            ));
        }
    }
    text
}

impl Bench {
    async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let repository = dir.path().join("repository");
        std::fs::create_dir_all(&repository)?;
        let engine = Engine::connect(None)?;
        let image = engine.inspect_image("slipway-busybox:1").await?;
        let digest = image.digest_in("slipway-busybox");
        let digest = digest.context("the engine keeps no digests: use the containerd store")?;
        let text = pipeline(&format!("slipway-busybox@{digest}"));
        std::fs::write(repository.join(".slipway.yml"), text)?;
        for chain in 0..CHAINS {
            std::fs::write(repository.join(format!("chain{chain}")), "a line\n")?;
        }
        git(&repository, &["init", "-q", "-b", "main", "."])?;
        git(&repository, &["add", "-A"])?;
        git(&repository, &["commit", "-q", "-m", "bench"])?;
        let url = format!("file://{}", repository.display());
        let options = Options {
            allowed_sources: vec![url.clone()],
            ..Options::in_dir(&dir.path().join("data"))
        };
        let up = Embedded::start(options, Shutdown::new()).await?;
        let bench = Self {
            up,
            http: reqwest::Client::new(),
            url,
            clock: Clock::system(),
            repository,
            _dir: dir,
        };
        let body = json!({"repo_url": bench.url});
        bench.post("/repositories", body).await?;
        Ok(bench)
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let url = format!("http://{}/api/v1{path}", self.up.rest);
        let sent = self.http.post(url).bearer_auth(&self.up.token).json(&body);
        let answer = sent.send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
        Ok(answer.json().await?)
    }

    /// From the trigger to the end that a reader sees.
    async fn build(&self) -> anyhow::Result<(Duration, Value)> {
        let began = self.clock.monotonic();
        let body = json!({"repo_url": self.url, "trigger_type": "manual"});
        let started = self.post("/builds", body).await?;
        let id = started["build_id"].as_str().context("no build")?;
        let url = format!("http://{}/api/v1/builds/{id}", self.up.rest);
        loop {
            let asked = self.http.get(&url).bearer_auth(&self.up.token);
            let found: Value = asked.send().await?.json().await?;
            let took = self.clock.monotonic() - began;
            match found["status"].as_str() {
                Some("passed") => return Ok((took, found)),
                Some("queued" | "building") => tokio::time::sleep(Duration::from_millis(2)).await,
                other => anyhow::bail!("the build ended {other:?}: {found}"),
            }
            ensure!(took < LIMIT, "the build does not end: {found}");
        }
    }
}

fn git(dir: &std::path::Path, args: &[&str]) -> anyhow::Result<()> {
    let out = std::process::Command::new("git")
        .args(["-c", "user.name=b", "-c", "user.email=b@example.org"])
        .args(args)
        .current_dir(dir)
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "git {args:?}: {said}");
    Ok(())
}

/// The stages whose containers the engine started, since it is watched. Others may use the engine too.
#[derive(Clone, Default)]
struct Containers(Arc<Mutex<BTreeSet<String>>>);

impl Containers {
    fn watch(shutdown: &Shutdown) -> anyhow::Result<Self> {
        let this = Self::default();
        let (label, purpose) = (slipway_docker::labels::PURPOSE, "stage");
        let mut events = Box::pin(Engine::connect(None)?.container_events(label, purpose));
        let seen = this.clone();
        shutdown.spawn("container events", async move {
            while let Some(Ok(event)) = events.next().await {
                if event.action == "start"
                    && let Some(stage) = event.attributes.get(slipway_docker::labels::STAGE)
                {
                    seen.with(|stages| stages.insert(stage.clone()));
                }
            }
        });
        Ok(this)
    }

    fn with<T>(&self, look: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many of this build's stages got one.
    fn of(&self, build: &Value) -> usize {
        let stages = build["stages"].as_array().map_or(&[][..], Vec::as_slice);
        let ids = stages.iter().filter_map(|s| s["stage_id"].as_str());
        self.with(|seen| ids.filter(|id| seen.contains(*id)).count())
    }
}
