//! What a bake can see: the smallest worsening that it would catch four times in five. Shown before a
//! rollout starts, and with every verdict that proves nothing.

use super::binomial::{number, quantile, whole};
use super::ratio::{Arm, Pair, RatioTest, Terms};

/// Ratios that are tried: each 5 % above the one before, up to two thousand times.
const GRID: f64 = 1.05;
const GRID_MAX: i32 = 156;
/// Missed this often.
const MISSED: f64 = 0.20;

/// The detectable ratio of a bake that expects so many requests, or `None` when it cannot catch even
/// the worst. `rate` is stable's share of bad requests.
#[must_use]
pub fn detectable(canary_n: u64, stable_n: u64, rate: f64, terms: Terms) -> Option<f64> {
    if canary_n == 0 || stable_n == 0 {
        return None;
    }
    let rate = rate.max(0.5 / number(stable_n));
    let stable_k = whole(rate * number(stable_n));
    for step in 1..=GRID_MAX {
        let ratio = GRID.powi(step);
        let worse = ratio * rate;
        if worse > 1.0 {
            return None;
        }
        let caught = Pair {
            canary: Arm {
                n: canary_n,
                k: quantile(canary_n, worse, MISSED),
            },
            stable: Arm {
                n: stable_n,
                k: stable_k,
            },
        };
        let mut test = RatioTest::new(terms);
        test.add(caught, None);
        // Twice in a row: the second look brings nothing new.
        if test.add(Pair::default(), None) {
            return Some(ratio);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        theta: 1_200.0,
        phi: 1.0,
        max_ratio: 2.0,
        floor: 0.001,
    };

    #[test]
    fn the_detectable_effect_is_that_of_the_published_table() {
        // Requests per second, weight in percent, stable's rate, and the ratio.
        for (rps, weight, rate, known) in [
            (20, 1, 0.01, 15.4),
            (20, 10, 0.01, 4.1),
            (100, 1, 0.01, 5.5),
            (100, 10, 0.01, 2.3),
            (100, 50, 0.001, 3.7),
            (100, 50, 0.01, 2.2),
            (1_000, 1, 0.001, 5.5),
            (1_000, 10, 0.01, 2.1),
        ] {
            let all = rps * 300;
            let canary = all * weight / 100;
            let found = detectable(canary, all - canary, rate, TERMS).unwrap();
            assert!(
                (found / known - 1.0).abs() < 0.06,
                "{rps}/s at {weight} %: {found}, published {known}"
            );
        }
    }

    #[test]
    fn a_bake_that_sees_nothing_says_so() {
        assert_eq!(detectable(0, 100, 0.01, TERMS), None);
        assert_eq!(detectable(2, 100, 0.01, TERMS), None);
    }
}
