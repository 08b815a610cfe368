//! Limits that are passed on purpose, and what must not outlive a stage.

use std::time::Duration;

use slipway_core::pipeline::Sandbox as Profile;

use super::{Bench, Report, word};
use crate::sandbox::profile::confine;

/// Counts how many processes it could start; the last number stands.
const FORKS: &str = "n=0; while [ $n -lt 6000 ]; do sleep 30 & n=$((n+1)); echo \"forks $n\"; done";
/// Takes more and more memory; one process alone ends at 2 GiB by itself.
const MEMORY: &str = "echo begun; for n in 1 2 3 4; do tail /dev/zero & done; wait; exit 1";
/// Leaves somebody behind.
const DAEMON: &str = "(setsid sleep 300 >/dev/null 2>&1 &); sleep 0.2; echo left";
/// Does not listen.
const DEAF: &str = "trap '' TERM INT HUP; echo deaf; while :; do sleep 1; done";
/// Between asking politely and ending it.
const GRACE: Duration = Duration::from_secs(1);
/// A deaf one is gone within this, the engine's own time included.
const GONE: Duration = Duration::from_secs(10);
/// Writes 32 MiB outside its workspace.
const WRITES: &str =
    "dd if=/dev/zero of=/written bs=1M count=32 2>/dev/null; sync; echo written; sleep 60";
const WRITTEN: u64 = 32 << 20;

pub(super) async fn try_limits(
    bench: &Bench<'_>,
    profile: Profile,
    report: &mut Report,
) -> anyhow::Result<()> {
    let name = word(profile);
    let promised = confine(profile).limits;

    let (text, _) = bench.execute(profile, FORKS, &[]).await?;
    let forks = text.lines().filter_map(|l| l.strip_prefix("forks "));
    let most: u64 = forks.filter_map(|n| n.parse().ok()).max().unwrap_or(0);
    // Half of it is the control: it could start processes at all.
    let good = most > promised.pids / 2 && most <= promised.pids;
    let found = format!("{most} of at most {}", promised.pids);
    report.add(name, "a fork bomb ends at its limit", good, found);

    let (text, ended) = bench.execute(profile, MEMORY, &[]).await?;
    let good = text.contains("begun") && ended.out_of_memory.is_some();
    let found = match ended.out_of_memory {
        Some(limit) => format!("ended at {} MiB", limit >> 20),
        None => format!("not ended: exit code {}", ended.code),
    };
    report.add(name, "memory ends at its limit", good, found);

    let trial = bench.begin(profile, DAEMON, &[]).await?;
    let ended = bench.wait(&trial).await;
    let text = bench.read(&trial, "").await;
    let key = trial.key.clone();
    bench.end(trial).await;
    let left = bench.sandbox.remains().await?.contains(&key);
    let good = ended.is_ok() && text.contains("left") && !left;
    report.add(name, "nothing outlives the stage", good, "");

    let trial = bench.begin(profile, DEAF, &[]).await?;
    let text = bench.read(&trial, "deaf").await;
    let asked = bench.clock.monotonic();
    let stopped = bench.sandbox.stop(&trial.key, GRACE).await;
    let ended = bench.wait(&trial).await;
    let took = bench.clock.monotonic() - asked;
    bench.end(trial).await;
    let good = text.contains("deaf") && stopped.is_ok() && ended.is_ok() && took < GONE;
    let found = format!("after {:.1} s", took.as_secs_f32());
    report.add(name, "whoever ignores SIGTERM is ended", good, found);

    // The strict profile's root takes no files at all.
    if profile != Profile::Strict {
        let trial = bench.begin(profile, WRITES, &[]).await?;
        let text = bench.read(&trial, "written").await;
        let seen = bench.sandbox.written(&trial.key).await;
        bench.end(trial).await;
        let seen = seen.unwrap_or(0);
        let good = text.contains("written") && seen >= WRITTEN;
        let found = format!("{} of 32 MiB", seen >> 20);
        report.add(name, "what it writes is seen by the quota", good, found);
    }
    Ok(())
}
