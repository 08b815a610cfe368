//! Many agents and many builds: stages per second, waiting under a steady stream, fair shares, what a
//! decision costs in a long queue, and what idle processes hold in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use slipway_bench::cluster::{Cluster, commit};
use slipway_bench::figure::{Figure, percentile};
use slipway_bench::postgres::Postgres;
use slipway_store::{Db, Settings};

#[path = "fleet/memory.rs"]
mod memory;
#[path = "fleet/plan.rs"]
mod plan;

const AGENTS: usize = 100;
const REPOSITORIES: usize = 20;
/// Builds of a burst, of four stages each.
const BUILDS: u32 = 1_000;
/// Pushes on their way at once: a code host sends no hook after the other.
const AT_ONCE: usize = 16;
/// Builds of the steady stream, and the time between two: 40 stages a second.
const STREAM: u32 = 300;
const BETWEEN: Duration = Duration::from_millis(100);
/// Four stages, two of them side by side.
const DIAMOND: &str = "version: 1\ndefaults: { image: \"x:1\" }\nstages:\n  \
    a: { commands: [\"true\"] }\n  \
    b: { commands: [\"true\"], needs: [a] }\n  \
    c: { commands: [\"true\"], needs: [a] }\n  \
    d: { commands: [\"true\"], needs: [b, c] }\n";
/// One stage, for what is counted by starts.
const SINGLE: &str =
    "version: 1\ndefaults: { image: \"x:1\" }\nstages:\n  a: { commands: [\"true\"] }\n";

fn main() -> anyhow::Result<()> {
    slipway_daemon::start::install_crypto();
    if wanted("plan") {
        plan::cost();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if wanted("memory") {
            memory::resident().await?;
        }
        if wanted("sqlite") {
            let sqlite = burst(sqlite().await?, AGENTS, 2).await?;
            print("throughput_sqlite", sqlite, "1/s", "target", 500.0);
            let few = burst(self::sqlite().await?, 10, 20).await?;
            print("throughput_100_agents", sqlite, "1/s", "10_agents", few);
        }
        if wanted("postgres") {
            let server = Postgres::start().await?;
            let postgres = Db::open(&Settings::Postgres(server.address())).await?;
            let postgres = burst(postgres, AGENTS, 2).await?;
            print("throughput_postgres", postgres, "1/s", "target", 1_000.0);
        }
        if wanted("steady") {
            steady().await?;
        }
        if wanted("fairness") {
            fairness().await?;
        }
        Ok(())
    })
}

/// Whether a part was asked for: all of them when none was named.
fn wanted(part: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .peekable();
    named.peek().is_none() || named.any(|arg| arg == part)
}

fn print(figure: &str, value: f64, unit: &str, against: &str, against_value: f64) {
    Figure {
        bench: "fleet",
        figure,
        value,
        unit,
        against,
        against_value,
    }
    .print();
}

/// A store whose folder lives as long as the process.
async fn sqlite() -> anyhow::Result<Db> {
    let dir = tempfile::tempdir()?.keep();
    Ok(Db::open(&Settings::Sqlite(dir.join("bench.db"))).await?)
}

/// Delivers builds as a burst; stages per second from the first push to the last durable result.
async fn burst(db: Db, agents: usize, slots: u32) -> anyhow::Result<f64> {
    let bench = Cluster::start(Some(db), REPOSITORIES).await?;
    bench.join(agents, slots, Duration::ZERO).await?;
    let began = bench.clock.monotonic();
    push_all(&bench, 1..=BUILDS, DIAMOND, |n| n as usize % REPOSITORIES).await?;
    bench.accepted(u64::from(BUILDS) * 4).await?;
    let took = bench.clock.monotonic() - began;
    bench.stop().await;
    Ok(f64::from(BUILDS * 4) / took.as_secs_f64())
}

async fn push_all(
    bench: &Cluster,
    numbers: std::ops::RangeInclusive<u32>,
    pipeline: &str,
    repository: impl Fn(u32) -> usize,
) -> anyhow::Result<()> {
    use futures::{StreamExt as _, TryStreamExt as _};
    let repository = &repository;
    let pushes = numbers.map(|n| async move { bench.push(repository(n), n, pipeline).await });
    let pushes = futures::stream::iter(pushes).buffer_unordered(AT_ONCE);
    pushes.try_for_each(|_| std::future::ready(Ok(()))).await
}

/// From the accepted webhook to the first assignment of its build, while a stream of builds goes on.
async fn steady() -> anyhow::Result<()> {
    let mut bench = Cluster::start(Some(sqlite().await?), REPOSITORIES).await?;
    bench.join(AGENTS, 2, Duration::from_millis(200)).await?;
    let mut tick = tokio::time::interval(BETWEEN);
    let mut accepted = BTreeMap::new();
    for number in 1..=STREAM {
        tick.tick().await;
        let at = bench
            .push(number as usize % REPOSITORIES, number, DIAMOND)
            .await?;
        accepted.insert(commit(number), at);
    }
    bench.accepted(u64::from(STREAM) * 4).await?;
    let mut first: BTreeMap<String, Duration> = BTreeMap::new();
    while let Ok(arrived) = bench.arrived.try_recv() {
        first.entry(arrived.commit).or_insert(arrived.at);
    }
    let mut samples = Vec::new();
    // The first ones warm caches and connections.
    for (sha, at) in accepted.iter().skip(20) {
        let arrived = first.get(sha).context("a build was never assigned")?;
        samples.push(arrived.saturating_sub(*at));
    }
    bench.stop().await;
    print(
        "assign_p50_steady",
        percentile(&samples, 50.0),
        "ms",
        "target",
        10.0,
    );
    print(
        "assign_p99_steady",
        percentile(&samples, 99.0),
        "ms",
        "target",
        50.0,
    );
    Ok(())
}

/// Jain's index of stages started by each repository while all of them have a backlog: one has ten
/// times as many as each other.
async fn fairness() -> anyhow::Result<()> {
    const REPOS: usize = 10;
    const EACH: u32 = 40;
    let mut bench = Cluster::start(Some(sqlite().await?), REPOS).await?;
    let builds = EACH * 10 + EACH * 9;
    push_all(&bench, 1..=builds, SINGLE, |n| {
        (n.saturating_sub(EACH * 10) as usize).div_ceil(EACH as usize)
    })
    .await?;
    bench.queued(builds as usize).await?;
    bench.join(10, 1, Duration::from_millis(50)).await?;
    bench.accepted(u64::from(builds)).await?;
    let mut started: BTreeMap<String, f64> = (0..REPOS)
        .map(|n| (bench.repository(n).to_owned(), 0.0))
        .collect();
    let mut arrivals = Vec::new();
    while let Ok(arrived) = bench.arrived.try_recv() {
        arrivals.push(arrived);
    }
    arrivals.sort_by_key(|a| a.at);
    for arrived in arrivals {
        let count = started.entry(arrived.repo).or_default();
        *count += 1.0;
        // From here on some repository has nothing left that waits.
        if *count >= f64::from(EACH) {
            break;
        }
    }
    bench.stop().await;
    let shares: Vec<f64> = started.into_values().collect();
    ensure!(shares.len() == REPOS, "a repository that nobody made");
    #[expect(clippy::cast_precision_loss, reason = "ten")]
    let count = shares.len() as f64;
    let (sum, squares) = shares
        .iter()
        .fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    print(
        "fairness",
        sum * sum / (count * squares),
        "jain",
        "target",
        0.95,
    );
    Ok(())
}
