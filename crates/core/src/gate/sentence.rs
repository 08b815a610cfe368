//! Verdicts as sentences: numbers first, then what they mean.

use super::binomial::whole;
use super::ratio::{Pair, RatioTest};

/// `1480` as `1 480`.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + 8);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A share in percent, with as many places as say something.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "0 %".to_owned(),
        p if p >= 10.0 => format!("{p:.0} %"),
        p if p >= 1.0 => format!("{p:.1} %"),
        p if p >= 0.01 => format!("{p:.2} %"),
        p => format!("{p:.4} %"),
    }
}

/// A ratio.
pub(super) fn times(ratio: f64) -> String {
    if ratio.is_finite() {
        format!("{ratio:.1}×")
    } else {
        "any multiple".to_owned()
    }
}

/// What a bad request is called.
#[derive(Clone, Copy)]
pub(super) struct Words {
    /// "failed", "took longer than 120 ms".
    pub(super) did: &'static str,
}

pub(super) const FAILED: Words = Words { did: "failed" };
pub(super) const SLOW: Words = Words {
    did: "were too slow",
};

fn shares(pair: Pair, words: Words) -> String {
    let (canary, stable) = (pair.canary, pair.stable);
    format!(
        "{} of {} canary requests {} ({}), stable {}",
        count(canary.k),
        count(canary.n),
        words.did,
        percent(canary.rate()),
        percent(stable.rate())
    )
}

pub(super) fn abort(test: &RatioTest, words: Words) -> String {
    let pair = test.sums();
    let ratio = if pair.stable.k == 0 {
        "stable had none".to_owned()
    } else {
        times(pair.canary.rate() / pair.stable.rate())
    };
    let terms = test.terms();
    format!(
        "Rolled back: {}: {ratio} (limit {}×). Chance if healthy: below 1 in {}.",
        shares(pair, words),
        terms.max_ratio,
        count(whole(terms.theta)),
    )
}

pub(super) fn pass(test: &RatioTest, words: Words) -> String {
    let pair = test.sums();
    let (ratio, share) = test.bounds();
    let bound = if ratio < test.terms().max_ratio {
        format!("At most {} worse.", times(ratio))
    } else {
        format!("At most {} of all.", percent(share))
    };
    format!(
        "Passed: {} of {} canary requests {} ({}), stable {}. {bound}",
        count(pair.canary.k),
        count(pair.canary.n),
        words.did,
        percent(pair.canary.rate()),
        percent(pair.stable.rate())
    )
}

pub(super) fn going_on(test: &RatioTest, words: Words, suspicious: bool, left_ms: u64) -> String {
    let minutes = left_ms.div_ceil(1_000);
    let left = if minutes >= 120 {
        format!("{} min", minutes.div_ceil(60))
    } else {
        format!("{minutes} s")
    };
    let note = if suspicious {
        "above the limit, not yet certain"
    } else {
        "not yet certain"
    };
    format!("{}: {note}. {left} more.", shares(test.sums(), words))
}

pub(super) fn inconclusive(test: &RatioTest, words: Words, caught: Option<f64>) -> String {
    let pair = test.sums();
    let (ratio, _) = test.bounds();
    let caught = caught.map_or_else(
        || "there is too little traffic for this gate to catch anything".to_owned(),
        |ratio| format!("{} would have been caught", times(ratio)),
    );
    format!(
        "Went on unproven: {} of {} canary requests {} ({}), stable {}. Cannot rule out {}; {caught}.",
        count(pair.canary.k),
        count(pair.canary.n),
        words.did,
        percent(pair.canary.rate()),
        percent(pair.stable.rate()),
        times(ratio),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(count(1_480), "1 480");
        assert_eq!(count(12), "12");
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(percent(0.0277), "2.8 %");
        assert_eq!(percent(0.0042), "0.42 %");
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(times(f64::INFINITY), "any multiple");
    }
}
