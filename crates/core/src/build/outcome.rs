//! What an attempt's ending means, and whether the stage is tried again.
//!
//! An agent reports facts (an ending and an exit code); the outcome is derived here. Losses that are
//! ours are never called the user's failure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// How an attempt ended, as the agent saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The commands ended by themselves.
    Exited,
    /// The stage's time-out passed.
    TimedOut,
    /// Ended because it was cancelled.
    Cancelled,
    /// Infrastructure: image pull, sandbox, disk, cache, drain, checkout.
    Aborted,
    /// A limit of the stage: memory, log, outputs.
    Limit,
}

/// What an attempt amounts to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Ended well.
    Succeeded,
    /// The user's failure, with its reason (`exit_code`, `timeout`, `oom`, `log_limit` …).
    Failed(String),
    /// Cancelled.
    Cancelled,
    /// Ours: to be repeated where the stage allows it.
    Lost(String),
}

/// Derives the outcome. A claimed success with another exit code than 0 is a failure, whatever the
/// agent says (H-047).
#[must_use]
pub fn derive_outcome(ending: Ending, exit_code: i32, reason: &str) -> Outcome {
    match ending {
        Ending::Exited if exit_code == 0 => Outcome::Succeeded,
        Ending::Exited => Outcome::Failed("exit_code".to_owned()),
        Ending::TimedOut => Outcome::Failed("timeout".to_owned()),
        Ending::Cancelled => Outcome::Cancelled,
        Ending::Limit => Outcome::Failed(word(reason, "limit")),
        Ending::Aborted => Outcome::Lost(word(reason, "aborted")),
    }
}

fn word(reason: &str, otherwise: &str) -> String {
    let fits = !reason.is_empty()
        && reason.len() <= 40
        && reason.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if fits {
        reason.to_owned()
    } else {
        otherwise.to_owned()
    }
}

/// What happens to a stage whose attempt was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossPolicy {
    /// Queued again, not before this delay.
    Requeue(Duration),
    /// Repeated often enough: failed, shown as ours.
    FailedInfra,
    /// An at-most-once stage that may have been executed: a person decides.
    Unknown,
}

/// Repetitions after losses, before a stage is given up (Hydra's 5 × 60 s·3ⁿ is too slow).
const INFRA_RETRIES: u32 = 3;

/// What to do after the `losses`-th loss (1 = the first) of a stage. `may_have_executed` is whether
/// an at-most-once stage had its go. `jitter` is a random number for ± 20 %.
#[must_use]
pub fn after_loss(
    losses: u32,
    at_most_once: bool,
    may_have_executed: bool,
    jitter: u64,
) -> LossPolicy {
    if at_most_once && may_have_executed {
        return LossPolicy::Unknown;
    }
    if losses > INFRA_RETRIES {
        return LossPolicy::FailedInfra;
    }
    LossPolicy::Requeue(retry_delay(losses, jitter))
}

/// The back-off before the repetition that follows loss number `losses`: 0, 15, 60 s ± 20 %.
#[must_use]
pub fn retry_delay(losses: u32, jitter: u64) -> Duration {
    let base: u64 = match losses {
        0 | 1 => return Duration::ZERO,
        2 => 15_000,
        _ => 60_000,
    };
    let spread = base * 2 / 5;
    Duration::from_millis(base - spread / 2 + jitter % (spread + 1))
}

/// Longer than any back-off is.
const BACK_OFF_MAX: Duration = Duration::from_secs(75);

/// When a recorded back-off ends. One that would last longer than back-offs do was written by a clock
/// that has been set back since, and is over: nobody waits until the year that it showed.
#[must_use]
pub fn back_off_end(recorded: Timestamp, now: Timestamp) -> Timestamp {
    if recorded.since(now) > BACK_OFF_MAX {
        Timestamp::EPOCH
    } else {
        recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_no_back_off_longer() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        for jitter in [0, 7, u64::MAX] {
            for losses in 0..9 {
                let end = now.after(retry_delay(losses, jitter));
                assert_eq!(back_off_end(end, now), end);
                let back = now.before(Duration::from_secs(3_600));
                assert!(back_off_end(end, back) <= back, "an hour too late");
            }
        }
    }

    #[test]
    fn hostile_h047_success_with_a_bad_exit_code_is_a_failure() {
        for code in [1, -1, 256, i32::MAX, i32::MIN] {
            let failed = Outcome::Failed("exit_code".to_owned());
            assert_eq!(derive_outcome(Ending::Exited, code, "success"), failed);
        }
        assert_eq!(derive_outcome(Ending::Exited, 0, ""), Outcome::Succeeded);
        let forged = derive_outcome(Ending::Aborted, 0, "\n[ERROR] fake");
        assert_eq!(forged, Outcome::Lost("aborted".to_owned()));
    }

    #[test]
    fn an_at_most_once_stage_is_never_repeated_once_it_may_have_been_executed() {
        assert_eq!(after_loss(1, true, true, 0), LossPolicy::Unknown);
        assert_eq!(
            after_loss(1, true, false, 0),
            LossPolicy::Requeue(Duration::ZERO)
        );
    }

    #[test]
    fn losses_are_repeated_three_times_and_then_given_up_as_ours() {
        for losses in 1..=3 {
            assert!(matches!(
                after_loss(losses, false, true, 7),
                LossPolicy::Requeue(_)
            ));
        }
        assert_eq!(after_loss(4, false, true, 7), LossPolicy::FailedInfra);
        for jitter in [0, 1, 5_999, 6_000, u64::MAX] {
            let delay = retry_delay(2, jitter);
            assert!(delay >= Duration::from_secs(12) && delay <= Duration::from_secs(18));
        }
    }
}
