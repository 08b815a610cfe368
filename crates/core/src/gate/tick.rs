//! What is counted: raw numbers, never ratios. A reading is cumulative, a tick is what came between
//! two readings.

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
}

impl Reading {
    /// The tick between `earlier` and this one. A source that started again counts from zero: what it
    /// had counted and not told is lost, not negative.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Tick {
        let none = Counts::default();
        let same = self.boot_id == earlier.boot_id;
        let from = |counts| if same { counts } else { &none };
        let canary = self.canary.since(from(&earlier.canary));
        let stable = self.stable.since(from(&earlier.stable));
        let trouble = if canary.is_none() || stable.is_none() {
            Some("a counter went down".to_owned())
        } else if self.at <= earlier.at {
            Some("the clock went back".to_owned())
        } else if !self.canary.is_possible() || !self.stable.is_possible() {
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
