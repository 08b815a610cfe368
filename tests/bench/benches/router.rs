//! The router beside HAProxy and nginx, in the same run, before the same instance: what each adds to a
//! request, and how many it passes on.

use std::path::Path;
use std::time::Duration;

use slipway_bench::figure::{Figure, median, percentile};
use slipway_bench::peers::{self, Peer};
use slipway_bench::routed::{Routed, free};
use slipway_bench::wire::{Client, Instance, Load, serve_if_asked};
use slipway_daemon::Clock;

/// Rounds; each measures everybody once, so that a slow moment of the machine hits all of them.
const ROUNDS: usize = 5;
/// Closed loop.
const CONNECTIONS: usize = 16;
const THROUGHPUT: Duration = Duration::from_secs(2);
/// Open loop: requests per second and how long, over so many connections.
const PACE: u32 = 800;
const PACED: Duration = Duration::from_secs(2);
const PACED_CONNECTIONS: u32 = 16;

fn main() -> anyhow::Result<()> {
    if serve_if_asked()? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

#[derive(Default)]
struct Seen {
    p50: Vec<f64>,
    throughput: Vec<f64>,
}

async fn measure() -> anyhow::Result<()> {
    let instance = Instance::start("measured", 0)?;
    let dir = tempfile::tempdir()?;
    let listen = free()?;
    let binary = Path::new(env!("CARGO_BIN_EXE_slipway-measured"));
    let mut router = Routed::start(binary, dir.path()).await?;
    router
        .switch(&listen, &[("measured", 10_000, &instance.address)])
        .await?;
    let haproxy = peers::haproxy(dir.path(), &instance.address).await?;
    let nginx = peers::nginx(dir.path(), &instance.address).await?;
    let address = |peer: &Option<Peer>| peer.as_ref().map(|peer| peer.listen.clone());
    let places = [
        Some(instance.address.clone()),
        Some(listen),
        address(&haproxy),
        address(&nginx),
    ];
    let mut seen: [Seen; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (place, seen) in places.iter().zip(&mut seen) {
            let Some(place) = place else { continue };
            seen.p50.push(paced(place).await);
            seen.throughput.push(flood(place).await);
        }
    }
    let [direct, ours, haproxy_seen, nginx_seen] = &seen;
    let added = |seen: &Seen| (median(&seen.p50) - median(&direct.p50)).max(0.0);
    let peers = [
        (
            "added_p50",
            "throughput",
            haproxy_seen,
            haproxy.is_some(),
            "haproxy",
        ),
        (
            "added_p50_nginx",
            "throughput_nginx",
            nginx_seen,
            nginx.is_some(),
            "nginx",
        ),
    ];
    for (added_name, throughput_name, peer, there, name) in peers {
        let against = if there { name } else { "not installed" };
        Figure {
            bench: "router",
            figure: added_name,
            value: added(ours),
            unit: "ms",
            against,
            against_value: added(peer),
        }
        .print();
        Figure {
            bench: "router",
            figure: throughput_name,
            value: median(&ours.throughput),
            unit: "requests/s",
            against,
            against_value: median(&peer.throughput),
        }
        .print();
    }
    Ok(())
}

/// Requests per second of a closed loop.
async fn flood(address: &str) -> f64 {
    let clock = Clock::system();
    let load = Load::start(address, CONNECTIONS);
    load.more(200).await;
    let before = load.good.load(std::sync::atomic::Ordering::Relaxed);
    let began = clock.monotonic();
    tokio::time::sleep(THROUGHPUT).await;
    let count = load.good.load(std::sync::atomic::Ordering::Relaxed) - before;
    let took = clock.monotonic() - began;
    load.stop().await;
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

/// The median of an even pace, milliseconds.
async fn paced(address: &str) -> f64 {
    let every = Duration::from_secs(1) * PACED_CONNECTIONS / PACE;
    let asking: Vec<_> = (0..PACED_CONNECTIONS)
        .map(|number| {
            let address = address.to_owned();
            slipway_daemon::spawn("pace", async move {
                let clock = Clock::system();
                let mut client = Client::new(&address);
                client.ask(false).await;
                tokio::time::sleep(every * number / PACED_CONNECTIONS).await;
                let mut ticks = tokio::time::interval(every);
                let mut samples = Vec::new();
                let began = clock.monotonic();
                while clock.monotonic() - began < PACED {
                    ticks.tick().await;
                    let asked = clock.monotonic();
                    if client.ask(false).await {
                        samples.push(clock.monotonic() - asked);
                    }
                }
                samples
            })
        })
        .collect();
    let mut samples = Vec::new();
    for client in asking {
        samples.extend(client.await.ok().flatten().unwrap_or_default());
    }
    percentile(&samples, 50.0)
}
