//! WHICH agent is stopped: one that loses whatever it is given, quickly, empties the queue into a
//! black hole. A person looks at it, and lets it go on.

use std::time::Duration;

/// So many losses in a row quarantine an agent …
pub const IN_A_ROW: usize = 10;
/// … each within less than this of its assignment: a slow loss costs nobody but itself.
pub const QUICKLY: Duration = Duration::from_secs(5);

/// How an attempt of the agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Lost for a reason that is ours or the agent's, not the stage's.
    pub lost: bool,
    /// From its assignment to its end.
    pub took: Duration,
}

impl Ended {
    /// Whether it counts against the agent.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.lost && self.took < QUICKLY
    }
}

/// Why an agent must take nothing more, by its last attempts, newest first; `None` when it may.
#[must_use]
pub fn judge(last: &[Ended]) -> Option<String> {
    let rogue = last.len() >= IN_A_ROW && last.iter().take(IN_A_ROW).all(Ended::counts);
    rogue.then(|| {
        format!(
            "lost {IN_A_ROW} attempts in a row, each in less than {} s; \
             see its log, then `slipway agents resume`",
            QUICKLY.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rogue_agent_quarantine() {
        let lost = |millis| Ended {
            lost: true,
            took: Duration::from_millis(millis),
        };
        let mut last = vec![lost(4_999); 10];
        let why = judge(&last).unwrap();
        assert!(why.contains("10 attempts") && why.contains("5 s"), "{why}");
        assert_eq!(judge(&last[1..]), None, "nine may be chance");
        last[9] = lost(5_000);
        assert_eq!(judge(&last), None, "a slow one");
        last[9] = Ended {
            lost: false,
            ..lost(10)
        };
        assert_eq!(judge(&last), None, "the user's own failure, or a success");
    }

    proptest! {
        #[test]
        fn one_attempt_that_went_well_among_ten_keeps_an_agent_at_work(
            mut last in proptest::collection::vec((any::<bool>(), 0..10_000_u64), 0..20),
            good in 0..10_usize,
        ) {
            if let Some(one) = last.get_mut(good) {
                one.0 = false;
            }
            let last: Vec<Ended> = last
                .into_iter()
                .map(|(lost, took)| Ended { lost, took: Duration::from_millis(took) })
                .collect();
            prop_assert_eq!(judge(&last), None);
        }
    }
}
