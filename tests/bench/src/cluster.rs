//! A dispatcher with repositories whose pushes a bench delivers, and a fleet of bare agents.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use slipway_cli::embedded::{Embedded, Options};
use slipway_daemon::{Clock, Shutdown};
use slipway_dispatcher::source::{Commit, FakeSource};
use slipway_store::Db;
use tokio::sync::mpsc;

use crate::fleet::{Arrived, Fleet};

/// Arrivals that nobody read yet; later ones are not measured.
const ARRIVALS: usize = 100_000;

struct Hook {
    repo: String,
    url: String,
    secret: String,
}

/// What is measured.
pub struct Cluster {
    /// The roles.
    pub up: Embedded,
    /// The shared clock.
    pub clock: Clock,
    /// Assignments that arrived.
    pub arrived: mpsc::Receiver<Arrived>,
    http: reqwest::Client,
    hooks: Vec<Hook>,
    source: FakeSource,
    fleet: Fleet,
    agents: Shutdown,
    _dir: tempfile::TempDir,
}

/// The number of a push as a commit id.
#[must_use]
pub fn commit(number: u32) -> String {
    format!("{number:040x}")
}

impl Cluster {
    /// Starts the roles with so many repositories, and no agent.
    ///
    /// # Errors
    /// When a role does not start.
    pub async fn start(db: Option<Db>, repositories: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let source = FakeSource::new();
        let options = Options {
            agents: 0,
            db,
            source: Some(Arc::new(source.clone())),
            ..Options::in_dir(dir.path())
        };
        let up = Embedded::start(options, Shutdown::new()).await?;
        let http = reqwest::Client::new();
        let mut hooks = Vec::new();
        for number in 0..repositories {
            hooks.push(hook(&up, &http, number).await?);
        }
        let (sender, arrived) = mpsc::channel(ARRIVALS);
        let clock = Clock::system();
        let fleet = Fleet {
            grpc: up.grpc,
            slots: 2,
            takes: Duration::ZERO,
            clock: clock.clone(),
            arrived: sender,
            accepted: Arc::new(AtomicU64::new(0)),
        };
        Ok(Self {
            up,
            clock,
            arrived,
            http,
            hooks,
            source,
            fleet,
            agents: Shutdown::new(),
            _dir: dir,
        })
    }

    /// Starts agents.
    ///
    /// # Errors
    /// When one cannot join.
    pub async fn join(&self, count: usize, slots: u32, takes: Duration) -> anyhow::Result<()> {
        let fleet = Fleet {
            slots,
            takes,
            ..self.fleet.clone()
        };
        fleet.start(&self.up, count, &self.agents).await
    }

    /// The repository of a number.
    #[must_use]
    pub fn repository(&self, number: usize) -> &str {
        self.hooks.get(number).map_or("", |hook| &hook.repo)
    }

    /// Delivers a push of a fresh commit; when the 2xx was there.
    ///
    /// # Errors
    /// When it is not accepted.
    pub async fn push(
        &self,
        repository: usize,
        number: u32,
        pipeline: &str,
    ) -> anyhow::Result<Duration> {
        let hook = self.hooks.get(repository).context("no such repository")?;
        let sha = commit(number);
        let pipelines = vec![("default".to_owned(), pipeline.to_owned())];
        let commit = Commit {
            pipelines,
            ..Commit::default()
        };
        self.source.put(&sha, commit);
        let body = serde_json::json!({
            "ref": format!("refs/heads/b{number}"), "before": "0".repeat(40), "after": sha,
            "repository": {"id": 1}, "sender": {"login": "bench"},
        })
        .to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(hook.secret.as_bytes())?;
        mac.update(body.as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let response = self
            .http
            .post(format!("http://{}{}", self.up.intake, hook.url))
            .header("x-github-event", "push")
            .header("x-github-delivery", format!("bench-{number}"))
            .header("x-hub-signature-256", signature)
            .body(body)
            .send()
            .await?;
        let at = self.clock.monotonic();
        ensure!(response.status() == 202, "{}", response.status());
        Ok(at)
    }

    /// Waits until so many results are durable.
    ///
    /// # Errors
    /// When they are not within five minutes.
    pub async fn accepted(&self, results: u64) -> anyhow::Result<()> {
        let began = self.clock.monotonic();
        while self.fleet.accepted.load(Ordering::Relaxed) < results {
            let waited = self.clock.monotonic() - began;
            ensure!(
                waited < Duration::from_secs(300),
                "only {} of {results} results came",
                self.fleet.accepted.load(Ordering::Relaxed)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until so many stages wait for an agent.
    ///
    /// # Errors
    /// When they do not within two minutes.
    pub async fn queued(&self, stages: usize) -> anyhow::Result<()> {
        let began = self.clock.monotonic();
        while self.up.db.queue().await?.len() < stages {
            let waited = self.clock.monotonic() - began;
            ensure!(waited < Duration::from_secs(120), "they were not planned");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Stops everything.
    pub async fn stop(self) {
        self.agents.begin();
        self.up.stop().await;
    }
}

async fn hook(up: &Embedded, http: &reqwest::Client, number: usize) -> anyhow::Result<Hook> {
    let call = async |path: String, body: serde_json::Value| {
        let request = http
            .post(format!("http://{}/api/v1{path}", up.rest))
            .bearer_auth(&up.token)
            .json(&body);
        let response = request.send().await?.error_for_status()?;
        response.json::<serde_json::Value>().await
    };
    let url = format!("https://git.example/bench/shop-{number}.git");
    let repo = call("/repositories".into(), serde_json::json!({"repo_url": url})).await?;
    let repo = repo["repo_id"]
        .as_str()
        .context("no repository")?
        .to_owned();
    let made = call(
        format!("/repositories/{repo}/hooks"),
        serde_json::json!({"scheme": "github"}),
    )
    .await?;
    let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
    Ok(Hook {
        repo,
        url: text("url"),
        secret: text("secret"),
    })
}
