//! Blue-green switches under 64 keep-alive connections of GET and POST, the old version SIGKILLed right
//! after each acknowledged switch; and rollbacks by a whole coordinator, from the request to verified.

mod coordinated;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use slipway_bench::figure::{Figure, percentile};
use slipway_bench::routed::{Routed, free};
use slipway_bench::wire::{Instance, Load, serve_if_asked};
use slipway_daemon::Clock;

/// Switches of the router alone.
const SWITCHES: u32 = 200;
/// Rollouts with a rollback each, by a coordinator.
const ROLLBACKS: u32 = 50;
const CONNECTIONS: usize = 64;
/// Answers between two switches.
const BETWEEN: u64 = 550;

fn main() -> anyhow::Result<()> {
    if serve_if_asked()? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let binary = Path::new(env!("CARGO_BIN_EXE_slipway-measured"));
        let (mut requests, mut failed, switches) = switches(binary).await?;
        let rollbacks = coordinated::rollbacks(binary, ROLLBACKS).await?;
        requests += rollbacks.requests;
        failed += rollbacks.failed;
        let count = |value: u64| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
        let figures = [
            (
                "failed",
                count(failed),
                "requests",
                "requests",
                count(requests),
            ),
            (
                "switch_p99",
                percentile(&switches, 99.0),
                "ms",
                "target",
                50.0,
            ),
            (
                "switch_p50",
                percentile(&switches, 50.0),
                "ms",
                "target",
                50.0,
            ),
            (
                "rollback_p99",
                percentile(&rollbacks.took, 99.0),
                "ms",
                "target",
                1_000.0,
            ),
            (
                "rollback_p50",
                percentile(&rollbacks.took, 50.0),
                "ms",
                "target",
                1_000.0,
            ),
        ];
        for (figure, value, unit, against, against_value) in figures {
            Figure {
                bench: "switch",
                figure,
                value,
                unit,
                against,
                against_value,
            }
            .print();
        }
        Ok(())
    })
}

/// Requests, failures, and how long each switch took to be acknowledged.
async fn switches(binary: &Path) -> anyhow::Result<(u64, u64, Vec<Duration>)> {
    let dir = tempfile::tempdir()?;
    let listen = free()?;
    let mut router = Routed::start(binary, dir.path()).await?;
    let clock = Clock::system();
    let mut old = Instance::start("v0", 0)?;
    router
        .switch(&listen, &[("v0", 10_000, &old.address)])
        .await?;
    let load = Load::start(&listen, CONNECTIONS);
    load.more(BETWEEN).await;
    let mut took = Vec::new();
    for round in 1..=SWITCHES {
        let (from, to) = (format!("v{}", round - 1), format!("v{round}"));
        let new = Instance::start(&to, 0)?;
        let began = clock.monotonic();
        let versions = [
            (from.as_str(), 0, old.address.as_str()),
            (to.as_str(), 10_000, new.address.as_str()),
        ];
        router
            .switch(&listen, &versions)
            .await
            .context("the switch")?;
        took.push(clock.monotonic() - began);
        old.kill();
        old = new;
        load.more(BETWEEN).await;
    }
    let (good, failed) = load.stop().await;
    Ok((good + failed, failed, took))
}
