//! Whether a new version is worse, not worse, or not known to be either.
//!
//! Owns the tests (two versions side by side, one version against a limit, instances that end or fill
//! their memory), what data is too bad to judge, the verdicts with their sentences, and the effect
//! that could have been detected. Does not own what follows from a verdict (that is `rollout`), where
//! counts come from, or any clock: a recorded window judged again gives the same verdict.
//!
//! Invariants: of a hundred healthy deployments at most one is aborted, however often one looks;
//! missing or absurd data is BLIND and never a pass; every verdict names its numbers.

mod bake;
pub mod binomial;
mod custom;
mod dispersion;
mod histogram;
mod instances;
mod latency;
mod power;
mod ratio;
mod read;
mod read_custom;
mod rules;
mod sentence;
mod tick;
mod verdict;
mod watch;

#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

pub use bake::{Bake, Instances, judge_bake, judge_watch};
pub use custom::{
    ANSWERS, Answer, CustomKind, CustomRule, Sample, answers, judge_custom, unanswered_ms,
};
pub use dispersion::{HalfTick, phi};
pub use histogram::{BUCKETS, Histogram, bucket_of, lower_edge};
pub use instances::{ExitVerdict, Exits, MemorySample, judge_exits, judge_memory};
pub use latency::LatencyWindow;
pub use power::detectable;
pub use ratio::{Arm, Look, Pair, RatioTest, Terms};
pub use read::read_rules;
pub use rules::{
    ErrorRule, GateRules, LatencyRule, MemoryRule, Mode, OnInconclusive, OnUnproven, RULE_VERSION,
    RestartRule, theta,
};
pub use tick::{Counts, Part, Reading, Tick};
pub use verdict::{Doubt, GateReport, Metric, MetricVerdict, Verdict};
pub use watch::LimitTest;

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod stream_tests;
