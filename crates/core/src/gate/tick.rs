//! What is counted: raw numbers, never ratios. A reading is cumulative, a tick is what came between
//! two readings.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// Requests of one version at one source, or of one tick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Attempts at an instance that ended.
    pub total: u64,
    /// Of them bad: 5xx, connect failure, reset, time-out.
    pub bad: u64,
    /// Of all, those whose client falls into the second half.
    pub half_total: u64,
    /// Of the bad ones, the same.
    pub half_bad: u64,
    /// How long answers took; long-lived connections are left out.
    pub latency: Histogram,
    /// Unexpected ends of instances.
    pub exits: u64,
    /// Of them for want of memory.
    pub oom: u64,
}

impl Counts {
    /// Whether the numbers can be: nothing is more than what it is part of.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.bad <= self.total
            && self.half_total <= self.total
            && self.half_bad <= self.bad
            && self.half_bad <= self.half_total
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut latency = self.latency.clone();
        latency.merge(&other.latency);
        Self {
            total: self.total.saturating_add(other.total),
            bad: self.bad.saturating_add(other.bad),
            half_total: self.half_total.saturating_add(other.half_total),
            half_bad: self.half_bad.saturating_add(other.half_bad),
            latency,
            exits: self.exits.saturating_add(other.exits),
            oom: self.oom.saturating_add(other.oom),
        }
    }

    /// What was counted since `earlier`; `None` when a count went down.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        let total = self.total.checked_sub(earlier.total)?;
        let bad = self.bad.checked_sub(earlier.bad)?;
        // A request may be counted between the reading of a whole and of its half.
        let half_total = self.half_total.checked_sub(earlier.half_total)?.min(total);
        let half_bad = self.half_bad.checked_sub(earlier.half_bad)?;
        Some(Self {
            total,
            bad,
            half_total,
            half_bad: half_bad.min(bad).min(half_total),
            latency: self.latency.since(&earlier.latency)?,
            exits: self.exits.checked_sub(earlier.exits)?,
            oom: self.oom.checked_sub(earlier.oom)?,
        })
    }
}

/// What came between two readings of all sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// From, wall-clock milliseconds.
    pub t0: i64,
    /// To.
    pub t1: i64,
    /// Which life of the source counted it.
    pub boot_id: String,
    /// The new version.
    pub canary: Counts,
    /// Stable.
    pub stable: Counts,
    /// Counts that cannot be, or a clock that is off, in words: such a tick proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Tick {
    /// How long it is.
    #[must_use]
    pub fn length_ms(&self) -> u64 {
        u64::try_from(self.t1.saturating_sub(self.t0)).unwrap_or(0)
    }

    /// Whether it may be judged.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.trouble.is_none()
            && self.t1 > self.t0
            && self.canary.is_possible()
            && self.stable.is_possible()
    }
}

/// What a source says at one moment, since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// New at every start of the source.
    pub boot_id: String,
    /// When it was read, wall-clock milliseconds.
    pub at: i64,
    /// The new version.
    pub canary: Counts,
    /// Stable.
    pub stable: Counts,
    /// Where several sources count: each one's own, by its name. What stands above is not used then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Part>,
}

/// What one of several sources says, since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// New at every start of this source.
    pub boot_id: String,
    /// The new version.
    pub canary: Counts,
    /// Stable.
    pub stable: Counts,
}

impl Reading {
    /// This reading with what `earlier` knew of sources that did not answer now: what they count meanwhile comes
    /// with their next answer, once.
    #[must_use]
    pub fn carrying(mut self, earlier: &Self) -> Self {
        for (name, part) in &earlier.parts {
            if !self.parts.contains_key(name) {
                self.parts.insert(name.clone(), part.clone());
            }
        }
        self
    }

    /// What came between, source by source. A source that is new to us counts from here on: what it had counted
    /// before nobody looked may be another rollout's.
    fn parts_since(&self, earlier: &Self) -> (Option<Counts>, Option<Counts>) {
        let (mut canary, mut stable) = (Some(Counts::default()), Some(Counts::default()));
        let none = Part::default();
        for (name, part) in &self.parts {
            let Some(before) = earlier.parts.get(name) else {
                continue;
            };
            let same = part.boot_id == before.boot_id;
            let before = if same { before } else { &none };
            let add = |sum: Option<Counts>, more: Option<Counts>| Some(sum?.and(&more?));
            canary = add(canary, part.canary.since(&before.canary));
            stable = add(stable, part.stable.since(&before.stable));
        }
        (canary, stable)
    }

    fn is_possible(&self) -> bool {
        let parts = self
            .parts
            .values()
            .flat_map(|part| [&part.canary, &part.stable]);
        parts
            .chain([&self.canary, &self.stable])
            .all(Counts::is_possible)
    }

    /// The tick between `earlier` and this one. A source that started again counts from zero: what it
    /// had counted and not told is lost, not negative.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Tick {
        let none = Counts::default();
        let same = self.boot_id == earlier.boot_id;
        let from = |counts| if same { counts } else { &none };
        let (canary, stable) = if self.parts.is_empty() {
            (
                self.canary.since(from(&earlier.canary)),
                self.stable.since(from(&earlier.stable)),
            )
        } else {
            self.parts_since(earlier)
        };
        let trouble = if canary.is_none() || stable.is_none() {
            Some("a counter went down".to_owned())
        } else if self.at <= earlier.at {
            Some("the clock went back".to_owned())
        } else if !self.is_possible() {
            Some("more requests failed than ended".to_owned())
        } else {
            None
        };
        Tick {
            t0: earlier.at,
            t1: self.at,
            boot_id: self.boot_id.clone(),
            canary: canary.unwrap_or_default(),
            stable: stable.unwrap_or_default(),
            trouble,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(boot: &str, at: i64, total: u64, bad: u64) -> Reading {
        Reading {
            boot_id: boot.to_owned(),
            at,
            canary: Counts {
                total,
                bad,
                ..Counts::default()
            },
            stable: Counts::default(),
            parts: BTreeMap::new(),
        }
    }

    fn of_two(at: i64, one: Option<(&str, u64)>, two: Option<(&str, u64)>) -> Reading {
        let mut reading = reading("", at, 0, 0);
        for (name, said) in [("a", one), ("b", two)] {
            if let Some((boot, total)) = said {
                let part = Part {
                    boot_id: boot.to_owned(),
                    canary: Counts {
                        total,
                        ..Counts::default()
                    },
                    stable: Counts::default(),
                };
                reading.parts.insert(name.to_owned(), part);
            }
        }
        reading
    }

    #[test]
    fn a_source_that_was_away_is_counted_once_and_one_that_is_new_from_here_on() {
        let first = of_two(1, Some(("a1", 10)), None);
        let second = of_two(2, Some(("a1", 15)), Some(("b1", 900))).carrying(&first);
        assert_eq!(
            second.since(&first).canary.total,
            5,
            "b was not looked at before"
        );
        let third = of_two(3, None, Some(("b1", 907))).carrying(&second);
        assert_eq!(third.since(&second).canary.total, 7);
        let fourth = of_two(4, Some(("a1", 21)), Some(("b1", 908))).carrying(&third);
        assert_eq!(fourth.since(&third).canary.total, 7, "six of a, one of b");
        let fifth = of_two(5, Some(("a2", 2)), Some(("b1", 908))).carrying(&fourth);
        let tick = fifth.since(&fourth);
        assert_eq!(tick.canary.total, 2, "a began anew, b did not");
        assert!(tick.is_usable());
    }

    proptest::proptest! {
        #[test]
        fn no_request_of_several_sources_is_counted_twice(
            steps in proptest::collection::vec((0_u64..9, 0_u64..9, 0_u8..8), 1..40)
        ) {
            let (mut counted, mut boots, mut all) = ([0_u64; 2], [0_u32; 2], 0);
            let mut last = of_two(0, Some(("0", 0)), Some(("0", 0)));
            let (mut seen, mut at) = (0, 0);
            for (a, b, what) in steps {
                at += 1;
                let heard = [what & 1 == 0, what & 2 == 0];
                for (i, more) in [a, b].into_iter().enumerate() {
                    if what == 7 { counted[i] = 0; boots[i] += 1; }
                    counted[i] += more;
                    all += more;
                }
                let (one, two) = (boots[0].to_string(), boots[1].to_string());
                let said = |i: usize, boot| heard[i].then_some((boot, counted[i]));
                let next = of_two(at, said(0, one.as_str()), said(1, two.as_str())).carrying(&last);
                seen += next.since(&last).canary.total;
                last = next;
            }
            proptest::prop_assert!(seen <= all, "{} of {}", seen, all);
            if boots == [0, 0] {
                let next = of_two(at + 1, Some(("0", counted[0])), Some(("0", counted[1])));
                seen += next.since(&last).canary.total;
                proptest::prop_assert_eq!(seen, all);
            }
        }
    }

    #[test]
    fn a_tick_is_what_came_between_and_never_less_than_nothing() {
        let tick = reading("b1", 9, 30, 3).since(&reading("b1", 4, 10, 1));
        assert_eq!((tick.canary.total, tick.canary.bad), (20, 2));
        assert!(tick.is_usable());
        let restarted = reading("b2", 9, 5, 1).since(&reading("b1", 4, 10, 1));
        assert_eq!((restarted.canary.total, restarted.canary.bad), (5, 1));
        assert!(restarted.is_usable());
    }

    #[test]
    fn impossible_readings_make_a_tick_that_proves_nothing() {
        for (now, before) in [
            (reading("b1", 9, 5, 0), reading("b1", 4, 10, 0)),
            (reading("b1", 4, 20, 0), reading("b1", 4, 10, 0)),
            (reading("b1", 9, 20, 21), reading("b1", 4, 10, 0)),
        ] {
            assert!(!now.since(&before).is_usable());
        }
    }
}
