//! How long requests took: 32 buckets per doubling, so that no quantile is off by more than 1.6 %.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything faster is one bucket.
const FLOOR_MICROS: u64 = 100;
/// Buckets of one doubling.
const PER_OCTAVE: u64 = 32;
/// 0.1 ms doubled twenty times is above 60 s.
const OCTAVES: u64 = 20;
/// How many buckets there are.
pub const BUCKETS: usize = (1 + OCTAVES * PER_OCTAVE) as usize;

/// Counts by bucket; what is empty is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(pub BTreeMap<u16, u64>);

/// The bucket of a duration.
#[must_use]
pub fn bucket_of(micros: u64) -> u16 {
    if micros < FLOOR_MICROS {
        return 0;
    }
    let octave = u64::from((micros / FLOOR_MICROS).ilog2());
    if octave >= OCTAVES {
        return u16::try_from(BUCKETS - 1).unwrap_or(u16::MAX);
    }
    let base = FLOOR_MICROS << octave;
    let within = (micros - base) * PER_OCTAVE / base;
    u16::try_from(1 + octave * PER_OCTAVE + within).unwrap_or(u16::MAX)
}

/// The shortest duration of a bucket, in microseconds.
#[must_use]
pub fn lower_edge(bucket: u16) -> u64 {
    let Some(index) = u64::from(bucket).checked_sub(1) else {
        return 0;
    };
    let base = FLOOR_MICROS << (index / PER_OCTAVE).min(OCTAVES);
    // Rounded up: the smallest whole microsecond that falls into the bucket.
    base + (base * (index % PER_OCTAVE)).div_ceil(PER_OCTAVE)
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, micros: u64) {
        self.add(bucket_of(micros), 1);
    }

    /// Counts `count` in a bucket.
    pub fn add(&mut self, bucket: u16, count: u64) {
        let held = self.0.entry(bucket).or_default();
        *held = held.saturating_add(count);
    }

    /// Everything that `other` counted as well.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            self.add(*bucket, *count);
        }
    }

    /// What was counted since `earlier`; `None` when a count went down.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.0.keys().any(|bucket| !self.0.contains_key(bucket)) {
            return None;
        }
        let mut delta = Self::default();
        for (bucket, count) in &self.0 {
            let before = earlier.0.get(bucket).copied().unwrap_or(0);
            let more = count.checked_sub(before)?;
            if more > 0 {
                delta.0.insert(*bucket, more);
            }
        }
        Some(delta)
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// How many in `bucket` and above.
    #[must_use]
    pub fn from_bucket(&self, bucket: u16) -> u64 {
        let above = self.0.range(bucket..);
        above.fold(0, |sum, (_, n)| sum.saturating_add(*n))
    }

    /// The bucket of the 99th percentile; `None` of nothing.
    #[must_use]
    pub fn p99(&self) -> Option<u16> {
        let total = self.total();
        let allowed = total / 100;
        let mut above = 0_u64;
        for (bucket, count) in self.0.iter().rev() {
            above = above.saturating_add(*count);
            if above > allowed {
                return Some(*bucket);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_percentile_is_found_and_a_count_that_fell_is_no_delta() {
        let mut seen = Histogram::default();
        (1..=1_000).for_each(|ms| seen.record(ms * 1_000));
        let p99 = lower_edge(seen.p99().unwrap());
        assert!((960_000..=1_000_000).contains(&p99), "{p99}");
        assert_eq!(Histogram::default().p99(), None);
        let mut more = seen.clone();
        more.record(5);
        assert_eq!(more.since(&seen).unwrap().total(), 1);
        assert_eq!(seen.since(&more), None);
    }

    proptest! {
        #[test]
        fn every_duration_is_in_its_bucket_within_four_percent(micros in 100_u64..60_000_000) {
            let bucket = bucket_of(micros);
            prop_assert!(lower_edge(bucket) <= micros);
            prop_assert!(lower_edge(bucket + 1) > micros);
            prop_assert!(usize::from(bucket) < BUCKETS);
            let width = lower_edge(bucket + 1) - lower_edge(bucket);
            prop_assert!(width * 31 <= lower_edge(bucket) + 31);
        }

        #[test]
        fn no_duration_is_outside(micros in any::<u64>()) {
            prop_assert!(usize::from(bucket_of(micros)) < BUCKETS);
        }
    }
}
