//! The sequential test of two versions that share traffic: is the new one worse by more than chance,
//! however often one looks?
//!
//! Given a tick's requests and its bad ones in all, a canary that is no worse gets at most its share of
//! them. For each of a dozen ratios the test keeps the likelihood of "worse by this much" against "the
//! same", and their mean `E` starts at 1 and cannot be expected to grow. So the chance that it ever
//! passes `θ` is below `1/θ`. Load, stickiness and incidents that hit both versions cancel.

use serde::{Deserialize, Serialize};

use super::binomial::{at_least, number, upper};

/// Alternatives, equally likely beforehand.
const RATIOS: [f64; 12] = [
    1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0,
];
/// Fewer bad ones than this decide nothing.
const BAD_MIN: f64 = 3.0;
/// Ticks in a row that must say so.
const IN_A_ROW: u32 = 2;
/// One-sided level of a look, so that three of them have 5 %.
const LOOK_LEVEL: f64 = 0.05 / 3.0;
/// Less likely than this under health is suspicious.
const SUSPICIOUS: f64 = 0.01;

/// Requests and bad ones of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Requests.
    pub n: u64,
    /// Bad ones.
    pub k: u64,
}

impl Arm {
    /// The share of bad ones; 0 of nothing.
    #[must_use]
    pub fn rate(self) -> f64 {
        if self.n == 0 {
            0.0
        } else {
            number(self.k) / number(self.n)
        }
    }

    fn add(&mut self, other: Self) {
        self.n = self.n.saturating_add(other.n);
        self.k = self.k.saturating_add(other.k);
    }
}

/// Both versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    /// The new version.
    pub canary: Arm,
    /// Stable.
    pub stable: Arm,
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The evidence that is needed.
    pub theta: f64,
    /// Dispersion, at least 1.
    pub phi: f64,
    /// Worse than this many times stable is too bad.
    pub max_ratio: f64,
    /// And by this difference of shares.
    pub floor: f64,
}

/// What a look at the end of a bake says, without the evidence for an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Not worse than allowed, by proof.
    Pass,
    /// It may well be worse.
    Suspicious,
    /// Neither; the new version fails no more often than stable.
    NoWorse,
    /// Neither; it fails somewhat more often.
    Unproven,
}

/// The test of one metric in one bake.
#[derive(Clone, Debug)]
pub struct RatioTest {
    terms: Terms,
    scores: [f64; RATIOS.len()],
    sums: Pair,
    in_a_row: u32,
}

impl RatioTest {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            scores: [0.0; RATIOS.len()],
            sums: Pair::default(),
            in_a_row: 0,
        }
    }

    /// The sums so far.
    #[must_use]
    pub fn sums(&self) -> Pair {
        self.sums
    }

    /// Its terms.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Counts a tick; answers whether the new version must be taken out. `fires`: the literal rule as
    /// something else sees it (latency has its own); `None` = by the rates.
    pub fn add(&mut self, tick: Pair, fires: Option<bool>) -> bool {
        self.score(tick);
        self.sums.canary.add(tick.canary);
        self.sums.stable.add(tick.stable);
        let bad = number(self.sums.canary.k) / self.terms.phi;
        let fires = fires.unwrap_or_else(|| self.fires());
        let all = fires && bad >= BAD_MIN && self.evidence() >= self.terms.theta;
        self.in_a_row = if all { self.in_a_row + 1 } else { 0 };
        self.in_a_row >= IN_A_ROW
    }

    fn score(&mut self, tick: Pair) {
        let (canary, stable) = (number(tick.canary.n), number(tick.stable.n));
        if canary == 0.0 || stable == 0.0 || (tick.canary.k == 0 && tick.stable.k == 0) {
            return;
        }
        let (bad_canary, bad_stable) = (number(tick.canary.k), number(tick.stable.k));
        let all = canary + stable;
        for (score, ratio) in self.scores.iter_mut().zip(RATIOS) {
            // q(r)/q(1) and (1−q(r))/(1−q(1)), where q(r) = r·Nc / (r·Nc + Ns).
            let scaled = all / (ratio * canary + stable);
            let gain = bad_canary * (ratio * scaled).ln() + bad_stable * scaled.ln();
            *score += gain / self.terms.phi;
        }
    }

    /// `E`: how much likelier "worse" is than "the same".
    #[must_use]
    pub fn evidence(&self) -> f64 {
        log_mean_exp(&self.scores).exp()
    }

    /// The literal rule over the bake so far, on the bare numbers.
    #[must_use]
    pub fn fires(&self) -> bool {
        let (canary, stable) = (self.sums.canary.rate(), self.sums.stable.rate());
        canary > self.terms.max_ratio * stable && canary - stable > self.terms.floor
    }

    /// The largest ratio that cannot be ruled out, and the largest share; each at the level of a look.
    #[must_use]
    pub fn bounds(&self) -> (f64, f64) {
        let (canary, stable, phi) = (self.sums.canary, self.sums.stable, self.terms.phi);
        let (k, n) = (number(canary.k) / phi, number(canary.n) / phi);
        let all = k + number(stable.k) / phi;
        let ratio = if all <= 0.0 || canary.n == 0 || stable.n == 0 {
            f64::INFINITY
        } else {
            let share = upper(k, all, LOOK_LEVEL);
            if share >= 1.0 {
                f64::INFINITY
            } else {
                share / (1.0 - share) * number(stable.n) / number(canary.n)
            }
        };
        (ratio, upper(k, n, LOOK_LEVEL))
    }

    /// Looks at the end of a bake.
    #[must_use]
    pub fn look(&self, fires: Option<bool>) -> Look {
        let (canary, stable) = (self.sums.canary, self.sums.stable);
        let (ratio, share) = self.bounds();
        if ratio < self.terms.max_ratio || share < self.terms.floor {
            return Look::Pass;
        }
        let all = number(canary.n.saturating_add(stable.n));
        let by_chance = || {
            let bad = number(canary.k.saturating_add(stable.k));
            at_least(number(canary.k), bad, number(canary.n) / all.max(1.0))
        };
        let fires = fires.unwrap_or_else(|| self.fires());
        if fires && number(canary.k) >= BAD_MIN && by_chance() < SUSPICIOUS {
            return Look::Suspicious;
        }
        if canary.rate() <= stable.rate() {
            Look::NoWorse
        } else {
            Look::Unproven
        }
    }
}

/// `ln(mean(exp(x)))`, without overflow.
pub(super) fn log_mean_exp(scores: &[f64]) -> f64 {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !highest.is_finite() {
        return 0.0;
    }
    let sum: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
    highest + (sum / number(u64::try_from(scores.len()).unwrap_or(1))).ln()
}
