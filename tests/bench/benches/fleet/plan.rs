//! What one decision costs in a queue of a thousand stages and of a hundred thousand, with many
//! repositories and many different demands.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use slipway_core::id::AgentId;
use slipway_core::queue::{Agent, AgentState, Queue, Waiting};
use slipway_core::time::Timestamp;
use slipway_daemon::Clock;

const AGENTS: u64 = 100;
const SLOTS: u32 = 4;
/// Labels of a matrix: kinds of demands.
const KINDS: u64 = 20;
const DECISIONS: u32 = 3_000;

fn id<T: FromStr>(n: u64) -> T {
    match format!("{n:026}").parse() {
        Ok(id) => id,
        Err(_) => unreachable!("26 digits are an id"),
    }
}

fn stage(n: u64, repositories: u64) -> Waiting {
    let label = ("os".to_owned(), format!("v{}", n % KINDS));
    Waiting {
        stage: id(n),
        attempt: 0,
        build: id(n / 4),
        repo: id(n % repositories),
        weight: 1,
        name: format!("s{}", n % 4),
        cache_key: String::new(),
        priority: 5,
        urgent: false,
        ready_at: Timestamp::from_millis(i64::try_from(n).unwrap_or(0)),
        not_before: Timestamp::EPOCH,
        labels: BTreeMap::from([label]),
        group: None,
        build_group: None,
        build_begun: false,
        critical: Duration::from_secs(60),
        lost_by: BTreeSet::new(),
        near: None,
    }
}

fn agent() -> Agent {
    Agent {
        state: AgentState::Ready,
        connected: true,
        silent: Duration::ZERO,
        silent_max: Duration::from_secs(40),
        slots: SLOTS,
        labels: BTreeMap::from([("os".to_owned(), "*".to_owned())]),
        disk_free: 90.0,
        cpu_pressure: 0.0,
        memory_pressure: 0.0,
    }
}

/// Microseconds from a freed slot to the next holder, in a queue that stays as long as it is.
fn decision(stages: u64, repositories: u64) -> f64 {
    let agents: BTreeMap<AgentId, Agent> = (0..AGENTS)
        .map(|n| (id(900_000_000 + n), agent()))
        .collect();
    let mut queue = Queue::new();
    (0..stages).for_each(|n| queue.put(stage(n, repositories)));
    let mut now = Timestamp::from_millis(1_000_000);
    let full = queue.plan(&agents, now);
    for assignment in &full.assignments {
        queue.grant(assignment);
    }
    let clock = Clock::system();
    let began = clock.monotonic();
    for n in 0..DECISIONS {
        now = now.after(Duration::from_millis(20));
        let ended = queue
            .held()
            .next()
            .map(|(id, held)| (id.clone(), held.repo.clone()));
        if let Some((ended, repo)) = ended {
            queue.remove(&ended);
            queue.spend(&repo, Duration::from_secs(20), now);
        }
        queue.put(stage(stages + u64::from(n), repositories));
        for assignment in &queue.plan(&agents, now).assignments {
            queue.grant(assignment);
        }
    }
    (clock.monotonic() - began).as_secs_f64() * 1e6 / f64::from(DECISIONS)
}

pub(crate) fn cost() {
    let short = decision(1_000, 10);
    let long = decision(100_000, 10);
    super::print("plan_cost_100k", long, "us", "1000_queued", short);
    let short = decision(1_000, 1_000);
    let long = decision(100_000, 1_000);
    super::print(
        "plan_cost_100k_1000_repositories",
        long,
        "us",
        "1000_queued",
        short,
    );
}
