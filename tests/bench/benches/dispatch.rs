//! Webhook accepted → assignment received, with a hundred connected agents; and durable stage
//! completions per second on both stores, against single-row durable commits of the same engine.

use std::time::Duration;

use anyhow::Context as _;
use slipway_bench::cluster::Cluster;
use slipway_bench::figure::{Figure, percentile};
use slipway_bench::postgres::Postgres;
use slipway_core::access::PeerRole;
use slipway_core::time::Timestamp;
use slipway_daemon::Clock;
use slipway_identity::connect;
use slipway_store::{Db, FlagRow, Settings};

const AGENTS: usize = 100;
/// Webhooks measured one after the other.
const WEBHOOKS: u32 = 300;
/// Stages of one build and builds of the throughput figure.
const WIDTH: u32 = 50;
const BUILDS: u32 = 60;
/// Single-row commits of the floor.
const COMMITS: u32 = 300;

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

fn pipeline(width: u32) -> String {
    let mut text = String::from("version: 1\ndefaults: { image: \"x:1\" }\nstages:\n");
    for stage in 0..width {
        text.push_str(&format!("  s{stage}: {{ commands: [\"true\"] }}\n"));
    }
    text
}

async fn latency() -> anyhow::Result<()> {
    let mut bench = Cluster::start(None, 1).await?;
    bench.join(AGENTS, 2, Duration::ZERO).await?;
    let mut samples = Vec::new();
    let mut echoes = Vec::new();
    let (address, known_by) = (
        format!("https://{}", bench.up.grpc),
        bench.up.authority.fingerprint(),
    );
    let channel = connect::pinned(&address, PeerRole::Dispatcher, &known_by)?;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    for number in 1..=WEBHOOKS {
        let accepted = bench.push(0, number, &pipeline(1)).await?;
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
            samples.push(arrived.at.saturating_sub(accepted));
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
    let bench = Cluster::start(Some(db), 1).await?;
    bench.join(AGENTS, 8, Duration::ZERO).await?;
    let began = bench.clock.monotonic();
    for number in 1..=BUILDS {
        bench.push(0, number, &pipeline(WIDTH)).await?;
    }
    bench.accepted(u64::from(BUILDS * WIDTH)).await?;
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
