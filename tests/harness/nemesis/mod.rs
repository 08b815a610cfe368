//! The nemesis: real dispatchers, agents and containers, to which everything happens that can happen to
//! processes and networks, while pushes arrive; then it stops, and everything must be well.
//!
//! Two dispatchers over one PostgreSQL, two agents that reach them over lines that can be cut. Faults come
//! two at a time, drawn by a seed; what they hit, and when, depends on the machine, so a seed
//! repeats the plan and not the run.

mod checker;
mod faults;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use slipway_daemon::{Clock, Rng};

use crate::{Hook, Postgres, Several, eventually};

pub use checker::Verdict;

/// Stages of different lengths, one after another and side by side.
const PIPELINE: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  \
    first:\n    commands:\n      - echo begun\n      - sleep 0.5\n      - echo ended\n  \
    second:\n    needs: [first]\n    commands:\n      - echo begun\n      - echo ended\n";
/// The shortest lease there is: what follows from a lost one is not waited for in minutes.
const SETTINGS: &str = "lease_seconds = 6\n";
/// Between two pushes.
const PUSH_EVERY: Duration = Duration::from_secs(1);
/// Faults at once.
const AT_ONCE: usize = 2;
/// Once faults stop, everything is over within this, and so long more for each build.
const WELL_AGAIN: Duration = Duration::from_secs(180);
const WELL_PER_BUILD: Duration = Duration::from_secs(3);

/// Runs `builds` pushes under faults drawn by `seed`; `say` hears what happens.
///
/// # Errors
/// When something cannot be started. What the nemesis broke is in the verdict.
pub async fn run(
    binary: &Path,
    seed: u64,
    builds: usize,
    say: impl Fn(&str),
) -> anyhow::Result<Verdict> {
    let server = Postgres::start().context("PostgreSQL is not installed")?;
    let database = server.database("nemesis");
    let mut several = Several::start_with(binary, &database, 2, true, SETTINGS).await;
    for name in ["agent-0", "agent-1"] {
        several.start_agent(name).await;
    }
    let (hook, sha) = several.pushed(PIPELINE).await;
    several.leader().await;
    let rng = Rng::seeded(seed);
    let (clock, mut acknowledged) = (Clock::system(), Vec::new());
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut under_way: Vec<faults::Fault> = Vec::new();
    while acknowledged.len() < builds {
        let now = clock.monotonic();
        while let Some(over) = under_way.iter().position(|fault| fault.is_over(now)) {
            under_way.swap_remove(over).end(&mut several);
        }
        while under_way.len() < AT_ONCE {
            let next = faults::Fault::begin(&mut several, &rng, now);
            say(&format!(
                "{} of {builds}: {}",
                acknowledged.len(),
                next.what()
            ));
            *counts.entry(next.kind()).or_default() += 1;
            under_way.push(next);
        }
        let id = format!("push-{}", acknowledged.len());
        if push(&several, &hook, &sha, &id, rng.number()).await {
            acknowledged.push(id);
        }
        tokio::time::sleep(PUSH_EVERY).await;
    }
    for fault in under_way {
        fault.end(&mut several);
    }
    say("the faults are over");
    let limit = WELL_AGAIN + WELL_PER_BUILD * u32::try_from(builds).unwrap_or(u32::MAX);
    checker::check(&several, &hook, &acknowledged, counts, limit).await
}

/// Delivers to one of the dispatchers; whether it was acknowledged.
async fn push(several: &Several, hook: &Hook, sha: &str, id: &str, which: u64) -> bool {
    let number = usize::try_from(which % 2).unwrap_or(0);
    let rest = &several.members[number].rest;
    let body = hook.push_body("0000000000000000000000000000000000000000", sha);
    let hook = hook.at(rest);
    let delivered = tokio::time::timeout(Duration::from_secs(5), hook.deliver(rest, id, body));
    match delivered.await {
        Ok(Ok(answer)) => (200..300).contains(&answer.status),
        // Not acknowledged: sent again under the same id, as a good sender does.
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Waits until `ask` has an answer, and gives up without an error.
async fn in_time<T, F, Fut>(limit: Duration, ask: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    eventually("well again", limit, ask).await.ok()
}
