//! Shares of counts: tails, bounds and quantiles of the binomial law. Counts may be fractions, because
//! what comes in bursts is divided by its dispersion first.

use statrs::function::beta::checked_beta_reg;

/// Halvings of an interval of length 1: below what an `f64` can tell apart.
const HALVINGS: u32 = 60;

/// `P(X ≥ k)` of `n` trials with chance `p`.
#[must_use]
pub fn at_least(k: f64, n: f64, p: f64) -> f64 {
    if k <= 0.0 || p >= 1.0 {
        return 1.0;
    }
    if k > n || p <= 0.0 {
        return 0.0;
    }
    checked_beta_reg(k, n - k + 1.0, p).unwrap_or(1.0)
}

/// The largest chance under which `k` of `n` or fewer are still seen with probability `level`
/// (Clopper and Pearson, one-sided); 1 of nothing.
#[must_use]
pub fn upper(k: f64, n: f64, level: f64) -> f64 {
    if n <= 0.0 || k >= n {
        return 1.0;
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        // P(X ≤ k) falls as the chance rises.
        if 1.0 - at_least(k + 1.0, n, middle) > level {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The smallest `k` with `P(X ≤ k) ≥ level`.
#[must_use]
pub fn quantile(n: u64, p: f64, level: f64) -> u64 {
    let (mut low, mut high) = (0_u64, n);
    while low < high {
        let middle = low + (high - low) / 2;
        if 1.0 - at_least(number(middle) + 1.0, number(n), p) >= level {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// A count as a number to calculate with.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "exact below 2^53; no service counts that far"
)]
pub fn number(count: u64) -> f64 {
    count as f64
}

/// The nearest count to a number; nothing is less than none.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, or a threshold that was checked against its bounds"
)]
pub fn whole(number: f64) -> u64 {
    number.round().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6 * b.abs().max(1e-6), "{a} is not {b}");
    }

    #[test]
    fn tails_and_bounds_are_those_of_the_tables() {
        near(at_least(1.0, 10.0, 0.1), 1.0 - 0.9_f64.powi(10));
        near(at_least(10.0, 10.0, 0.5), 0.5_f64.powi(10));
        near(at_least(0.0, 10.0, 0.5), 1.0);
        near(at_least(11.0, 10.0, 0.5), 0.0);
        near(upper(0.0, 100.0, 0.05), 1.0 - 0.05_f64.powf(0.01));
        near(upper(5.0, 5.0, 0.05), 1.0);
        near(upper(0.0, 0.0, 0.05), 1.0);
        assert_eq!(quantile(100, 0.5, 0.5), 50);
        assert_eq!(quantile(100, 0.0, 0.2), 0);
    }

    #[test]
    fn large_counts_keep_their_meaning() {
        let half = at_least(500_001.0, 1_000_000.0, 0.5);
        assert!((half - 0.5).abs() < 0.001, "{half}");
        // Two standard deviations: one in forty-four.
        let two = at_least(501_000.0, 1_000_000.0, 0.5);
        assert!((two - 0.0229).abs() < 0.0005, "{two}");
        let bound = upper(10_000.0, 1_000_000.0, 0.05 / 3.0);
        assert!(bound > 0.0101 && bound < 0.0104, "{bound}");
    }
}
