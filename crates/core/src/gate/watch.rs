//! The sequential test with all traffic on the new version: nothing runs beside it to compare with, so
//! its share of bad requests is judged against a limit.

use super::binomial::number;
use super::ratio::{Arm, log_mean_exp};

/// Alternatives, in multiples of the limit.
const RATIOS: [f64; 12] = [
    1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0,
];
/// An alternative that comes closer to certainty than this is none.
const RATE_MAX: f64 = 0.99;
const BAD_MIN: u64 = 3;
const IN_A_ROW: u32 = 2;

/// The test of one metric in a watch.
#[derive(Clone, Debug)]
pub struct LimitTest {
    theta: f64,
    phi: f64,
    limit: f64,
    scores: Vec<(f64, f64)>,
    sums: Arm,
    in_a_row: u32,
}

impl LimitTest {
    /// Nothing seen yet. `limit` is a share of all requests.
    #[must_use]
    pub fn new(theta: f64, phi: f64, limit: f64) -> Self {
        let limit = limit.clamp(1e-9, 1.0);
        let possible = RATIOS.into_iter().filter(|r| r * limit < RATE_MAX);
        Self {
            theta,
            phi,
            limit,
            scores: possible.map(|ratio| (ratio, 0.0)).collect(),
            sums: Arm::default(),
            in_a_row: 0,
        }
    }

    /// The sums so far.
    #[must_use]
    pub fn sums(&self) -> Arm {
        self.sums
    }

    /// The limit that it judges by.
    #[must_use]
    pub fn limit(&self) -> f64 {
        self.limit
    }

    /// `E`; 1 where no worse rate is possible.
    #[must_use]
    pub fn evidence(&self) -> f64 {
        let scores: Vec<f64> = self.scores.iter().map(|(_, score)| *score).collect();
        log_mean_exp(&scores).exp()
    }

    /// Counts a tick; answers whether the new version must be taken out.
    pub fn add(&mut self, tick: Arm) -> bool {
        let bad = number(tick.k);
        let good = number(tick.n.saturating_sub(tick.k));
        for (ratio, score) in &mut self.scores {
            let worse = (1.0 - *ratio * self.limit).ln() - (1.0 - self.limit).ln();
            *score += (bad * ratio.ln() + good * worse) / self.phi;
        }
        self.sums.n = self.sums.n.saturating_add(tick.n);
        self.sums.k = self.sums.k.saturating_add(tick.k);
        let above = self.sums.rate() > self.limit && self.sums.k >= BAD_MIN;
        let all = above && self.evidence() >= self.theta;
        self.in_a_row = if all { self.in_a_row + 1 } else { 0 };
        self.in_a_row >= IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_far_above_the_limit_is_seen_at_the_second_tick_and_one_below_never() {
        let mut bad = LimitTest::new(300.0, 1.0, 0.01);
        assert!(!bad.add(Arm { n: 500, k: 250 }));
        assert!(bad.add(Arm { n: 500, k: 250 }));
        let mut good = LimitTest::new(300.0, 1.0, 0.01);
        assert!((0..1_000).all(|_| !good.add(Arm { n: 500, k: 5 })));
        assert!(good.evidence() < 1.0);
    }

    #[test]
    fn a_limit_that_nothing_can_exceed_never_fires_and_never_panics() {
        let mut all = LimitTest::new(300.0, 1.0, 1.0);
        assert!(!all.add(Arm { n: 10, k: 10 }) && !all.add(Arm { n: 10, k: 10 }));
        let mut none = LimitTest::new(300.0, 1.0, 0.0);
        let _seen = none.add(Arm { n: 0, k: 0 });
        assert!(none.evidence().is_finite());
    }
}
