//! A seeded simulation of one dispatcher and its agents over the pure machines of `slipway-core`:
//! queue, leases, fence and builds, with every fault that a network, a process and a clock have.
//!
//! `SIM_SEEDS=200` looks at so many seeds, `SIM_SEED=7` at one. A seed that failed is a line of
//! `seeds.txt`, which is replayed first. It sees neither SQL nor sockets: that is what `e2e` is for.

mod agent;
mod checker;
mod dispatcher;
mod rng;
mod store;
mod wire;
mod world;

use std::collections::BTreeMap;

use store::Fence;
use world::{Mode, Verdict, World};

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 20;

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no settings of its own"
)]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Those that failed once, then fresh ones.
fn seeds() -> Vec<u64> {
    if let Some(one) = setting("SIM_SEED") {
        return vec![one];
    }
    let known = include_str!("seeds.txt").lines();
    let known = known.filter_map(|line| line.split_whitespace().next()?.parse().ok());
    known
        .chain(1..=setting("SIM_SEEDS").unwrap_or(SEEDS))
        .collect()
}

fn run(seed: u64, mode: Mode, fence: Fence) -> Verdict {
    World::new(seed, mode, fence).run()
}

fn nothing_is_wrong(mode: Mode) {
    let mut happened: BTreeMap<&str, u64> = BTreeMap::new();
    let mut stages = 0;
    let seeds = seeds();
    for seed in &seeds {
        let verdict = run(*seed, mode, Fence::Real);
        assert!(
            verdict.flaws.is_empty(),
            "SIM_SEED={seed} {mode:?}:\n{}",
            verdict.flaws.join("\n")
        );
        stages += verdict.stages;
        for (what, count) in verdict.happened {
            *happened.entry(what).or_default() += count;
        }
    }
    assert!(stages > seeds.len(), "hardly anything was submitted");
    if seeds.len() >= 10 {
        for what in [
            "executions",
            "lost",
            "doubled",
            "dispatcher crashes",
            "dispatcher pauses",
            "agent crashes",
            "agent pauses",
            "partitions",
            "one-way partitions",
            "clock jumps",
        ] {
            assert!(
                happened.contains_key(what),
                "{what} never happened: {happened:?}"
            );
        }
    }
}

#[test]
fn nothing_wrong_happens_under_faults_without_end() {
    nothing_is_wrong(Mode::Safety);
}

#[test]
fn everything_accepted_ends_once_a_core_is_healthy() {
    nothing_is_wrong(Mode::Liveness);
}

#[test]
fn sim_is_deterministic() {
    for seed in 1..=3 {
        for mode in [Mode::Safety, Mode::Liveness] {
            let [one, two] = [(); 2].map(|()| run(seed, mode, Fence::Real).trace);
            assert_eq!(one, two, "seed {seed} {mode:?}");
        }
    }
    let [one, two] = [1, 2].map(|seed| run(seed, Mode::Safety, Fence::Real).trace);
    assert_ne!(one, two, "the trace says nothing");
}

#[test]
fn a_broken_fence_is_seen() {
    for fence in [Fence::AnyAttempt, Fence::LastWord] {
        let caught = (1..=20).any(|seed| !run(seed, Mode::Safety, fence).flaws.is_empty());
        assert!(caught, "{fence:?} went unseen");
    }
}
