//! Instances that end by themselves, and instances that fill their memory.

use serde::{Deserialize, Serialize};

use super::binomial::{at_least, number};

/// Ends and exposure of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    /// Unexpected ends.
    pub count: u64,
    /// Of them for want of memory.
    pub oom: u64,
    /// Seconds that its instances lived, summed.
    pub seconds: u64,
}

/// What the ends of instances say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitVerdict {
    /// Too often.
    Abort(String),
    /// One is no proof, and no pass either.
    Blocks(String),
    /// None.
    None,
}

/// Judges the canary's ends against stable's of the last day.
#[must_use]
pub fn judge_exits(canary: Exits, stable: Exits, theta: f64) -> ExitVerdict {
    if canary.oom > 0 && stable.oom == 0 {
        return ExitVerdict::Abort(format!(
            "{} instance(s) of the new version ran out of memory; stable had none in 24 h",
            canary.oom
        ));
    }
    if canary.count == 0 {
        return ExitVerdict::None;
    }
    let seconds = number(canary.seconds.saturating_add(stable.seconds)).max(1.0);
    let chance = at_least(
        number(canary.count),
        number(canary.count.saturating_add(stable.count)),
        number(canary.seconds.max(1)) / seconds,
    );
    let allowed = 1.0 / (theta * number(canary.count) * number(canary.count));
    if canary.count >= 2 && chance <= allowed {
        return ExitVerdict::Abort(format!(
            "{} instances of the new version ended by themselves in {} s of their lives; stable {} \
             in {} s",
            canary.count, canary.seconds, stable.count, stable.seconds
        ));
    }
    ExitVerdict::Blocks(format!(
        "{} instance(s) of the new version ended by themselves: not yet certain",
        canary.count
    ))
}

/// One look at the memory of one version's instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySample {
    /// When, wall-clock milliseconds.
    pub at: i64,
    /// Of the fullest instance, thousandths of its limit.
    pub permille: u32,
}

/// Samples that must say so.
const SAMPLES: usize = 3;
/// At least this far apart.
const APART_MS: i64 = 10_000;
/// Above stable's highest by this many thousandths.
const ABOVE_STABLE: u32 = 50;

/// Whether the last three samples, ten seconds apart, are all above `max_percent` and above stable's
/// highest of the last hour plus five points. Answers the sentence.
#[must_use]
pub fn judge_memory(
    samples: &[MemorySample],
    stable_highest_permille: u32,
    max_percent: u32,
) -> Option<String> {
    let limit = max_percent
        .saturating_mul(10)
        .max(stable_highest_permille.saturating_add(ABOVE_STABLE));
    let mut above = Vec::new();
    for sample in samples.iter().rev() {
        let apart = above
            .last()
            .is_none_or(|last: &MemorySample| last.at.saturating_sub(sample.at) >= APART_MS);
        if !apart {
            continue;
        }
        if sample.permille <= limit {
            return None;
        }
        above.push(*sample);
        if above.len() == SAMPLES {
            let highest = above.iter().map(|s| s.permille).max().unwrap_or(0);
            return Some(format!(
                "an instance of the new version uses {}.{} % of its memory (limit {}.{} %)",
                highest / 10,
                highest % 10,
                limit / 10,
                limit % 10
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(count: u64, seconds: u64) -> Exits {
        Exits {
            count,
            oom: 0,
            seconds,
        }
    }

    #[test]
    fn one_end_blocks_and_a_crash_loop_aborts() {
        let day = 2 * 86_400;
        assert_eq!(
            judge_exits(exits(0, 60), exits(0, day), 1_200.0),
            ExitVerdict::None
        );
        assert!(matches!(
            judge_exits(exits(1, 60), exits(0, day), 1_200.0),
            ExitVerdict::Blocks(_)
        ));
        assert!(matches!(
            judge_exits(exits(3, 60), exits(0, day), 1_200.0),
            ExitVerdict::Abort(_)
        ));
        // Stable ends as often: nothing new.
        assert!(matches!(
            judge_exits(exits(3, 600), exits(900, day), 1_200.0),
            ExitVerdict::Blocks(_)
        ));
    }

    #[test]
    fn want_of_memory_is_judged_at_once_unless_stable_wants_too() {
        let oom = Exits {
            count: 1,
            oom: 1,
            seconds: 60,
        };
        assert!(matches!(
            judge_exits(oom, exits(0, 86_400), 1_200.0),
            ExitVerdict::Abort(_)
        ));
        let stable = Exits {
            count: 1,
            oom: 1,
            seconds: 86_400,
        };
        assert!(matches!(
            judge_exits(oom, stable, 1_200.0),
            ExitVerdict::Blocks(_)
        ));
    }

    #[test]
    fn memory_needs_three_samples_ten_seconds_apart_above_what_stable_needs() {
        let at = |at: i64, permille| MemorySample { at, permille };
        let high = [at(0, 900), at(10_000, 910), at(20_000, 905)];
        assert!(judge_memory(&high, 300, 80).is_some());
        assert!(judge_memory(&high[..2], 300, 80).is_none());
        assert!(
            judge_memory(&high, 880, 80).is_none(),
            "stable needs it too"
        );
        let dip = [at(0, 900), at(10_000, 700), at(20_000, 905)];
        assert!(judge_memory(&dip, 300, 80).is_none());
        let close = [at(0, 900), at(1_000, 900), at(2_000, 900)];
        assert!(judge_memory(&close, 300, 80).is_none());
    }
}
