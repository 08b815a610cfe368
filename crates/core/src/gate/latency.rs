//! Slow requests as bad ones: the 99th percentile of stable becomes a limit that the new version's
//! requests are counted against. No quantile of a few samples is ever compared with another.

use std::collections::VecDeque;

use super::histogram::{BUCKETS, Histogram, lower_edge};
use super::ratio::{Arm, Pair};
use super::tick::Tick;

/// Stable's percentile is of the last minute,
const RECENT_MS: i64 = 60_000;
/// or of as much of the last ten as this many requests need.
const REACH_MS: i64 = 600_000;
const SAMPLES_MIN: u64 = 1_000;

/// Stable's latest answers.
#[derive(Clone, Debug, Default)]
pub struct LatencyWindow {
    ticks: VecDeque<(i64, Histogram)>,
    recent: Histogram,
    /// How many of the newest ticks `recent` sums up.
    recent_len: usize,
}

/// Where slow begins, as buckets: rounded down for stable and up for the new version, so that rounding
/// never speaks against the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slow {
    pub(super) stable: u16,
    pub(super) canary: u16,
}

impl Slow {
    /// Beyond `percent` more than the 99th percentile of `seen`.
    pub(super) fn beyond(seen: &Histogram, increase_percent: u32) -> Option<Self> {
        let stable = seen.p99()?;
        let top = lower_edge(stable.saturating_add(1));
        let limit = top.saturating_mul(100 + u64::from(increase_percent)) / 100;
        let last = u16::try_from(BUCKETS).unwrap_or(u16::MAX);
        let canary = (stable..last).find(|bucket| lower_edge(*bucket) >= limit)?;
        Some(Self { stable, canary })
    }

    /// The limit of the new version, in microseconds.
    pub(super) fn micros(self) -> u64 {
        lower_edge(self.canary)
    }

    /// A tick as requests and slow ones.
    pub(super) fn pair(self, tick: &Tick) -> Pair {
        let arm = |seen: &Histogram, bucket| Arm {
            n: seen.total(),
            k: seen.from_bucket(bucket),
        };
        Pair {
            canary: arm(&tick.canary.latency, self.canary),
            stable: arm(&tick.stable.latency, self.stable),
        }
    }
}

impl LatencyWindow {
    /// Adds stable's answers of a tick.
    pub fn push(&mut self, tick: &Tick) {
        self.ticks.push_back((tick.t1, tick.stable.latency.clone()));
        self.recent.merge(&tick.stable.latency);
        self.recent_len += 1;
        while self
            .ticks
            .front()
            .is_some_and(|(at, _)| at + REACH_MS < tick.t1)
        {
            self.ticks.pop_front();
        }
        self.recent_len = self.recent_len.min(self.ticks.len());
        while let Some((at, oldest)) = self.ticks.get(self.ticks.len() - self.recent_len) {
            if *at + RECENT_MS > tick.t1 || self.recent_len <= 1 {
                break;
            }
            self.recent = self.recent.since(oldest).unwrap_or_default();
            self.recent_len -= 1;
        }
    }

    /// Where slow begins for what comes next; `None` while too little is known of stable.
    pub(super) fn slow(&self, increase_percent: u32) -> Option<Slow> {
        if self.recent.total() >= SAMPLES_MIN {
            return Slow::beyond(&self.recent, increase_percent);
        }
        let mut seen = Histogram::default();
        for (_, tick) in self.ticks.iter().rev() {
            seen.merge(tick);
            if seen.total() >= SAMPLES_MIN {
                return Slow::beyond(&seen, increase_percent);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::tick::Counts;

    fn tick(second: i64, count: u64, ms: u64) -> Tick {
        let mut latency = Histogram::default();
        latency.add(super::super::bucket_of(ms * 1_000), count);
        Tick {
            t0: (second - 5) * 1_000,
            t1: second * 1_000,
            stable: Counts {
                latency,
                ..Counts::default()
            },
            ..Tick::default()
        }
    }

    #[test]
    fn the_limit_is_of_the_last_minute_or_of_as_much_as_a_thousand_requests_need() {
        let mut window = LatencyWindow::default();
        window.push(&tick(5, 600, 10));
        assert_eq!(window.slow(50), None, "too few");
        window.push(&tick(10, 600, 10));
        let first = window.slow(50).unwrap();
        assert!((15_000..16_500).contains(&first.micros()), "{first:?}");
        for i in 0..12 {
            window.push(&tick(75 + i * 5, 1_000, 100));
        }
        let second = window.slow(50).unwrap();
        assert!((150_000..165_000).contains(&second.micros()), "{second:?}");
        for i in 0..14 {
            window.push(&tick(200 + i * 5, 10, 10));
        }
        let third = window.slow(50).unwrap();
        assert!(
            third.micros() > 150_000,
            "the last minute has too few: {third:?}"
        );
    }
}
