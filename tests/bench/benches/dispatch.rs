//! Webhook accepted → assignment received, with a hundred connected agents; and durable stage
//! completions per second on both stores, against single-row durable commits of the same engine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use slipway_bench::figure::{Figure, percentile};
use slipway_bench::fleet;
use slipway_bench::postgres::Postgres;
use slipway_cli::embedded::{Embedded, Options};
use slipway_core::time::Timestamp;
use slipway_daemon::{Clock, Shutdown};
use slipway_dispatcher::source::{Commit, FakeSource};
use slipway_store::{Db, FlagRow, Settings};
use tokio::sync::mpsc;

const AGENTS: usize = 100;
/// Webhooks measured one after the other.
const WEBHOOKS: u32 = 300;
/// Stages of one build and builds of the throughput figure.
const WIDTH: u32 = 50;
const BUILDS: u32 = 60;
/// Single-row commits of the floor.
const COMMITS: u32 = 300;
const URL: &str = "https://git.example/bench/shop.git";

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        latency().await?;
        let dir = tempfile::tempdir()?;
        let sqlite = Db::open(&Settings::Sqlite(dir.path().join("bench.db"))).await?;
        completions("completions_sqlite", sqlite).await?;
        let server = Postgres::start().await?;
        let postgres = Db::open(&Settings::Postgres(server.address())).await?;
        completions("completions_postgres", postgres).await
    })
}

struct Bench {
    up: Embedded,
    http: reqwest::Client,
    hook: String,
    secret: String,
    source: FakeSource,
    clock: Clock,
    arrived: mpsc::Receiver<fleet::Arrived>,
    agents: Shutdown,
    _dir: tempfile::TempDir,
}

fn pipeline(width: u32) -> String {
    let mut text = String::from("version: 1\ndefaults: { image: \"x:1\" }\nstages:\n");
    for stage in 0..width {
        text.push_str(&format!("  s{stage}: {{ commands: [\"true\"] }}\n"));
    }
    text
}

impl Bench {
    async fn start(db: Option<Db>, slots: u32) -> anyhow::Result<Self> {
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
        let base = format!("http://{}/api/v1", up.rest);
        let call = |path: String, body: serde_json::Value| {
            let request = http
                .post(format!("{base}{path}"))
                .bearer_auth(&up.token)
                .json(&body);
            async move {
                request
                    .send()
                    .await?
                    .error_for_status()?
                    .json::<serde_json::Value>()
                    .await
            }
        };
        let repo = call("/repositories".into(), serde_json::json!({"repo_url": URL})).await?;
        let id = repo["repo_id"].as_str().context("no repository")?;
        let hook = call(
            format!("/repositories/{id}/hooks"),
            serde_json::json!({"scheme": "github"}),
        )
        .await?;
        let text = |field: &str| hook[field].as_str().unwrap_or_default().to_owned();
        let (sender, arrived) = mpsc::channel(100_000);
        let (clock, agents) = (Clock::system(), Shutdown::new());
        fleet::start(&up, AGENTS, slots, &clock, sender, &agents).await?;
        Ok(Self {
            hook: text("url"),
            secret: text("secret"),
            up,
            http,
            source,
            clock,
            arrived,
            agents,
            _dir: dir,
        })
    }

    /// Delivers a push of a fresh commit; when the 2xx was there.
    async fn push(&self, number: u32, width: u32) -> anyhow::Result<Duration> {
        let sha = format!("{number:040x}");
        self.source.put(
            &sha,
            Commit {
                pipelines: vec![("default".to_owned(), pipeline(width))],
                ..Commit::default()
            },
        );
        let body = serde_json::json!({
            "ref": format!("refs/heads/b{number}"), "before": "0".repeat(40), "after": sha,
            "repository": {"id": 1}, "sender": {"login": "bench"},
        })
        .to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())?;
        mac.update(body.as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let response = self
            .http
            .post(format!("http://{}{}", self.up.intake, self.hook))
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

    async fn stop(self) {
        self.agents.begin();
        self.up.stop().await;
    }
}

async fn latency() -> anyhow::Result<()> {
    let mut bench = Bench::start(None, 2).await?;
    let mut samples = Vec::new();
    let mut echoes = Vec::new();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", bench.up.grpc))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    for number in 1..=WEBHOOKS {
        let accepted = bench.push(number, 1).await?;
        let arrived = tokio::time::timeout(Duration::from_secs(10), bench.arrived.recv())
            .await
            .context("no assignment came")?
            .context("the fleet is gone")?;
        let began = bench.clock.monotonic();
        health
            .check(tonic_health::pb::HealthCheckRequest::default())
            .await?;
        let echo = bench.clock.monotonic() - began;
        // The first ones warm caches and connections.
        if number > 20 {
            samples.push(arrived.saturating_sub(accepted));
            echoes.push(echo);
        }
    }
    bench.stop().await;
    for (figure, percent) in [("assign_p50", 50.0), ("assign_p99", 99.0)] {
        Figure {
            bench: "dispatch",
            figure,
            value: percentile(&samples, percent),
            unit: "ms",
            against: "grpc_echo",
            against_value: percentile(&echoes, percent),
        }
        .print();
    }
    Ok(())
}

async fn completions(figure: &'static str, db: Db) -> anyhow::Result<()> {
    let floor = single_commits(&db).await?;
    let bench = Bench::start(Some(db), 8).await?;
    let began = bench.clock.monotonic();
    for number in 1..=BUILDS {
        bench.push(number, WIDTH).await?;
    }
    loop {
        let filter = slipway_store::BuildFilter {
            status: "passed".to_owned(),
            limit: BUILDS + 1,
            ..slipway_store::BuildFilter::default()
        };
        if bench.up.db.builds(&filter).await?.len() >= BUILDS as usize {
            break;
        }
        ensure!(
            bench.clock.monotonic() - began < Duration::from_secs(300),
            "the builds did not end"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = bench.clock.monotonic() - began;
    bench.stop().await;
    Figure {
        bench: "dispatch",
        figure,
        value: f64::from(BUILDS * WIDTH) / took.as_secs_f64(),
        unit: "1/s",
        against: "single_row_commits",
        against_value: floor,
    }
    .print();
    Ok(())
}

/// Durable commits of one row each, one after the other.
async fn single_commits(db: &Db) -> anyhow::Result<f64> {
    let clock = Clock::system();
    let rng = slipway_daemon::Rng::system();
    let began = clock.monotonic();
    for number in 0..COMMITS {
        db.insert_flag(FlagRow {
            flag_id: rng.ulid(Timestamp::from_millis(i64::from(number))),
            name: format!("bench-{number}-{}", rng.number()),
            enabled: 1,
            rollout_percentage: 0,
            target_users: "[]".to_owned(),
            created_at: 0,
            updated_at: 0,
        })
        .await?;
    }
    Ok(f64::from(COMMITS) / (clock.monotonic() - began).as_secs_f64())
}
