//! Real errors come in bursts, from one client or one instance. How much so is read off stable before
//! a bake, from its two halves, and every count is divided by it.

use super::binomial::number;
use super::tick::Counts;

/// With fewer events than this nothing is read off.
const EVENTS_MIN: u64 = 20;

/// One tick of stable: requests and bad ones in each half.
#[derive(Clone, Copy, Debug, Default)]
pub struct HalfTick {
    /// Requests, by half.
    pub total: [u64; 2],
    /// Bad ones, by half.
    pub bad: [u64; 2],
}

impl From<&Counts> for HalfTick {
    fn from(counts: &Counts) -> Self {
        Self {
            total: [
                counts.total.saturating_sub(counts.half_total),
                counts.half_total,
            ],
            bad: [counts.bad.saturating_sub(counts.half_bad), counts.half_bad],
        }
    }
}

/// `φ ≥ 1`: how many events one event brings with it.
#[must_use]
pub fn phi(ticks: &[HalfTick]) -> f64 {
    let events = ticks.iter().fold(0_u64, |sum, t| {
        sum.saturating_add(t.bad[0]).saturating_add(t.bad[1])
    });
    if events < EVENTS_MIN {
        return 1.0;
    }
    let (mut spread, mut expected) = (0.0, 0.0);
    for tick in ticks {
        let all = number(tick.total[0].saturating_add(tick.total[1]));
        if all == 0.0 {
            continue;
        }
        let share = number(tick.total[1]) / all;
        let bad = number(tick.bad[0].saturating_add(tick.bad[1]));
        let off = number(tick.bad[1]) - share * bad;
        spread += off * off;
        expected += bad * share * (1.0 - share);
    }
    // One client, or a source without halves: everything is in one of them.
    if expected < number(EVENTS_MIN) / 10.0 {
        return over_time(ticks);
    }
    (spread / expected).max(1.0)
}

/// Stable's ticks against its own mean rate. Incidents count as dispersion too: larger, so safe.
fn over_time(ticks: &[HalfTick]) -> f64 {
    let pairs = ticks.iter().map(|tick| {
        let total = number(tick.total[0].saturating_add(tick.total[1]));
        (total, number(tick.bad[0].saturating_add(tick.bad[1])))
    });
    let (total, bad) = pairs
        .clone()
        .fold((0.0, 0.0), |(n, k), (dn, dk)| (n + dn, k + dk));
    if total <= 0.0 || bad >= total {
        return 1.0;
    }
    let rate = bad / total;
    let spread: f64 = pairs.map(|(n, k)| (k - rate * n) * (k - rate * n)).sum();
    (spread / (total * rate * (1.0 - rate))).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_errors_have_no_dispersion_and_bursts_have_their_size() {
        let single: Vec<HalfTick> = (0..120)
            .map(|i| HalfTick {
                total: [50, 50],
                bad: if i % 2 == 0 { [1, 0] } else { [0, 1] },
            })
            .collect();
        assert!((phi(&single) - 1.0).abs() < 1e-9);
        let bursts: Vec<HalfTick> = (0..120)
            .map(|i| HalfTick {
                total: [50, 50],
                bad: if i % 2 == 0 { [10, 0] } else { [0, 10] },
            })
            .collect();
        assert!((phi(&bursts) - 10.0).abs() < 1e-6);
        assert!((phi(&single[..10]) - 1.0).abs() < 1e-9, "too few to tell");
    }

    #[test]
    fn one_client_alone_is_judged_over_time() {
        let one_half: Vec<HalfTick> = (0..120)
            .map(|i| HalfTick {
                total: [100, 0],
                bad: [if i % 20 == 0 { 20 } else { 0 }, 0],
            })
            .collect();
        assert!(phi(&one_half) > 10.0);
        assert!((phi(&[]) - 1.0).abs() < 1e-9);
    }
}
