//! The literal rule that takes a bad version out: its share of failed requests, with a floor under
//! the number of requests and of failures, so that one unlucky request decides nothing.

use serde::{Deserialize, Serialize};

/// Stored with every verdict.
pub const RULE_VERSION: &str = "literal-1";

/// What a router counted for one version since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// New at every start of the router; counters start over with it.
    pub boot_id: String,
    /// Requests that ended.
    pub completed: u64,
    /// Of them, those that failed: 5xx, connect failures, resets, time-outs.
    pub bad: u64,
}

/// Counters at the moment when a step's weight was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchBase {
    /// Of the new version.
    pub new: Counters,
    /// Failed share of stable over the router's life before the switch, in parts per million.
    pub stable_bad_ppm: u64,
}

/// What is too bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLimits {
    /// Share of failed requests, in parts per million.
    pub max_error_ppm: u64,
    /// Nothing is judged below this many requests.
    pub min_requests: u64,
    /// Nothing is judged below this many failures.
    pub min_bad: u64,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self {
            max_error_ppm: 10_000,
            min_requests: 20,
            min_bad: 3,
        }
    }
}

/// What the counters say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not worse than allowed.
    Good {
        /// Requests seen.
        requests: u64,
        /// Of them failed.
        bad: u64,
    },
    /// Too few requests to say anything; the rollout goes on by time and says so.
    TooFew {
        /// Requests seen.
        requests: u64,
    },
    /// Worse: take it out. The text says with what numbers.
    Bad(String),
}

/// Judges the new version's requests since `base`.
#[must_use]
pub fn judge_traffic(base: &WatchBase, now: &Counters, limits: WatchLimits) -> Verdict {
    // A router that started again counts from zero; what it counted before is lost, not negative.
    let (from_completed, from_bad) = if base.new.boot_id == now.boot_id {
        (base.new.completed, base.new.bad)
    } else {
        (0, 0)
    };
    let requests = now.completed.saturating_sub(from_completed);
    let bad = now.bad.saturating_sub(from_bad).min(requests);
    if requests < limits.min_requests {
        return Verdict::TooFew { requests };
    }
    let limit_ppm = limits
        .max_error_ppm
        .max(base.stable_bad_ppm.saturating_mul(2));
    let bad_ppm = ppm(bad, requests);
    if bad >= limits.min_bad && bad_ppm > limit_ppm {
        return Verdict::Bad(format!(
            "{bad} of {requests} requests to the new version failed ({}), the limit is {}; stable \
             had {} before",
            percent(bad_ppm),
            percent(limit_ppm),
            percent(base.stable_bad_ppm),
        ));
    }
    Verdict::Good { requests, bad }
}

/// `part` of `whole` in parts per million; 0 of nothing.
pub(super) fn ppm(part: u64, whole: u64) -> u64 {
    let parts = u128::from(part) * 1_000_000 / u128::from(whole.max(1));
    u64::try_from(parts).unwrap_or(u64::MAX)
}

fn percent(ppm: u64) -> String {
    format!("{}.{:02} %", ppm / 10_000, ppm % 10_000 / 100)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counters(completed: u64, bad: u64) -> Counters {
        Counters {
            boot_id: "b1".to_owned(),
            completed,
            bad,
        }
    }

    #[test]
    fn the_rule_needs_requests_and_failures_and_names_its_numbers() {
        let base = WatchBase {
            new: counters(100, 50),
            stable_bad_ppm: 0,
        };
        let judged = |completed, bad| {
            judge_traffic(&base, &counters(completed, bad), WatchLimits::default())
        };
        assert_eq!(judged(119, 69), Verdict::TooFew { requests: 19 });
        assert_eq!(
            judged(120, 52),
            Verdict::Good {
                requests: 20,
                bad: 2
            }
        );
        let Verdict::Bad(text) = judged(120, 53) else {
            panic!("3 of 20 is bad")
        };
        assert!(
            text.starts_with("3 of 20 requests to the new version failed (15.00 %)"),
            "{text}"
        );
        assert_eq!(
            judged(1_100, 60),
            Verdict::Good {
                requests: 1_000,
                bad: 10
            }
        );
    }

    #[test]
    fn a_stable_version_that_fails_as_often_is_no_reason_to_go_back() {
        let base = WatchBase {
            new: counters(0, 0),
            stable_bad_ppm: 50_000,
        };
        let judged = judge_traffic(&base, &counters(100, 9), WatchLimits::default());
        assert_eq!(
            judged,
            Verdict::Good {
                requests: 100,
                bad: 9
            }
        );
    }

    proptest! {
        #[test]
        fn absurd_counters_never_panic(
            a in any::<u64>(), b in any::<u64>(), c in any::<u64>(), d in any::<u64>(),
            stable_bad_ppm in any::<u64>(), same in any::<bool>(),
        ) {
            let boot_id = if same { "b1" } else { "b2" }.to_owned();
            let base = WatchBase { new: counters(a, b), stable_bad_ppm };
            let now = Counters { boot_id, completed: c, bad: d };
            let _verdict = judge_traffic(&base, &now, WatchLimits::default());
        }
    }
}
