//! Simulated traffic with a seed: streams on which gates are judged, in tests and in the bench. Same
//! seed, same stream.

use super::binomial::number;
use super::dispersion::{HalfTick, phi};
use super::ratio::{Arm, Look, Pair, RatioTest, Terms};
use super::watch::LimitTest;

/// Ticks are five seconds.
pub const TICK_S: u32 = 5;
/// Ticks of stable before a bake: ten minutes.
const BASELINE: u32 = 120;

/// A kind of traffic that gates are judged on.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Requests per second.
    pub rps: f64,
    /// Share of the new version.
    pub weight: f64,
    /// Share of bad requests of a healthy version.
    pub base_error: f64,
    /// How often a version with 2, 4 and 10 times as many is to be caught.
    pub power: [f64; 3],
}

const fn cell(rps: f64, weight: f64, base_error: f64, power: [f64; 3]) -> Cell {
    Cell {
        rps,
        weight,
        base_error,
        power,
    }
}

/// The published ones.
pub const CELLS: [Cell; 8] = [
    cell(20.0, 0.01, 0.01, [0.00, 0.03, 0.50]),
    cell(20.0, 0.10, 0.01, [0.03, 0.77, 1.0]),
    cell(100.0, 0.01, 0.01, [0.01, 0.42, 1.0]),
    cell(100.0, 0.10, 0.01, [0.57, 1.0, 1.0]),
    cell(100.0, 0.50, 0.001, [0.04, 0.91, 1.0]),
    cell(100.0, 0.50, 0.01, [0.75, 1.0, 1.0]),
    cell(1_000.0, 0.01, 0.001, [0.01, 0.43, 1.0]),
    cell(1_000.0, 0.10, 0.01, [0.84, 1.0, 1.0]),
];

/// A small generator of repeatable chance.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// The next 64 bits (splitmix).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Within 0…1, never 0.
    pub fn unit(&mut self) -> f64 {
        number((self.bits() >> 11) + 1) / number(1 << 53)
    }

    /// How many of `n` happen, each with chance `p`, by inversion.
    pub fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p <= 0.0 || n == 0 {
            return 0;
        }
        if p >= 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        // In parts, so that the first term does not vanish.
        let part = 2_000;
        let mut left = n;
        let mut sum = 0;
        while left > 0 {
            let now = left.min(part);
            sum += self.small_binomial(now, p);
            left -= now;
        }
        sum
    }

    fn small_binomial(&mut self, n: u64, p: f64) -> u64 {
        if number(n) * p > 300.0 {
            return (0..n).filter(|_| self.unit() < p).count() as u64;
        }
        let odds = p / (1.0 - p);
        let mut term = ((1.0 - p).ln() * number(n)).exp();
        let mut rest = self.unit() - term;
        let mut k = 0;
        while rest > 0.0 && k < n {
            term *= odds * number(n - k) / number(k + 1);
            k += 1;
            rest -= term;
        }
        k
    }

    /// Normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let (a, b) = (self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

/// A service under traffic, and a new version of it.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Requests per second.
    pub rps: f64,
    /// Stable's share of bad requests.
    pub rate: f64,
    /// How many times more often the new version fails.
    pub worse: f64,
    /// Mean number of errors that come together from one client; 1 = each alone.
    pub burst: f64,
    /// Times an incident that hits both versions multiplies errors, in the middle of a bake.
    pub incident: f64,
    /// Whether the dispersion is read off stable, or known to be 1.
    pub reads_phi: bool,
}

impl Stream {
    /// Single errors, no incident.
    #[must_use]
    pub fn plain(rps: f64, rate: f64, worse: f64) -> Self {
        Self {
            rps,
            rate,
            worse,
            burst: 1.0,
            incident: 1.0,
            reads_phi: false,
        }
    }

    /// Bad ones of `n` requests. A burst comes from one client, so it stays in one version.
    fn bad(&self, chance: &mut Chance, n: u64, rate: f64) -> u64 {
        if self.burst <= 1.0 {
            return chance.binomial(n, rate.min(1.0));
        }
        let bursts = chance.binomial(n, (rate / self.burst).min(1.0));
        let mut bad = 0;
        for _ in 0..bursts {
            // Geometric with the mean `burst`.
            let mut size = 1;
            while chance.unit() > 1.0 / self.burst && size < 1_000 {
                size += 1;
            }
            bad += size;
        }
        bad.min(n)
    }

    /// Stable's dispersion as it is read off before a bake.
    pub fn phi(&self, chance: &mut Chance) -> f64 {
        let mut carry = Carry::default();
        let ticks: Vec<HalfTick> = (0..BASELINE)
            .map(|_| {
                let half = carry.take(0, self.rps * f64::from(TICK_S) / 2.0);
                let bad = [
                    self.bad(chance, half, self.rate),
                    self.bad(chance, half, self.rate),
                ];
                HalfTick {
                    total: [half, half],
                    bad,
                }
            })
            .collect();
        phi(&ticks)
    }
}

/// Requests that are not whole yet.
#[derive(Clone, Debug, Default)]
struct Carry([f64; 2]);

impl Carry {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand requests"
    )]
    fn take(&mut self, which: usize, wanted: f64) -> u64 {
        let all = self.0[which] + wanted;
        self.0[which] = all.fract();
        all.floor() as u64
    }
}

/// How a bake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Taken out, after so many seconds.
    Aborted(u32),
    /// A person is asked.
    Paused,
    /// Goes on.
    WentOn,
}

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The sequential test.
    Sequential,
    /// The bare numbers, every ten seconds.
    LiteralEvery10,
    /// The bare numbers, once at the end.
    LiteralAtEnd,
    /// An absolute limit of twice the usual rate over the last minute, every ten seconds, three times
    /// in a row.
    Fixed,
}

/// One bake of `seconds` at `weight`. With `extends` it may take three times as long, and its looks
/// decide; without, only whether it is aborted within `seconds`.
pub fn bake(
    judge: Judge,
    stream: Stream,
    chance: &mut Chance,
    weight: f64,
    seconds: u32,
    (theta, last, extends): (f64, bool, bool),
) -> End {
    let terms = Terms {
        theta,
        phi: if judge == Judge::Sequential && stream.reads_phi {
            stream.phi(chance)
        } else {
            1.0
        },
        max_ratio: 2.0,
        floor: 0.001,
    };
    let mut test = RatioTest::new(terms);
    let mut carry = Carry::default();
    let ticks = seconds / TICK_S;
    let most = if extends { ticks * 3 } else { ticks };
    let mut fixed = FixedLimit::new(2.0 * stream.rate);
    for tick in 1..=most {
        let all = stream.rps * f64::from(TICK_S);
        let shared = tick > ticks / 3 && tick <= ticks * 2 / 3;
        let rate = stream.rate * if shared { stream.incident } else { 1.0 };
        let mut arm = |which, share: f64, rate| {
            let n = carry.take(which, all * share);
            Arm {
                n,
                k: stream.bad(chance, n, rate),
            }
        };
        let pair = Pair {
            canary: arm(0, weight, rate * stream.worse),
            stable: arm(1, 1.0 - weight, rate),
        };
        let abort = test.add(pair, None);
        let at = tick * TICK_S;
        let out = match judge {
            Judge::Sequential => abort,
            Judge::LiteralEvery10 => tick.is_multiple_of(2) && test.fires(),
            Judge::LiteralAtEnd => tick == ticks && test.fires(),
            Judge::Fixed => fixed.add(pair.canary),
        };
        if out {
            return End::Aborted(at);
        }
        if !tick.is_multiple_of(ticks) {
            continue;
        }
        if judge != Judge::Sequential {
            return End::WentOn;
        }
        match test.look(None) {
            Look::Pass | Look::NoWorse => return End::WentOn,
            Look::Unproven if !last => return End::WentOn,
            Look::Suspicious if tick == ticks * 3 => return End::Paused,
            Look::Suspicious | Look::Unproven => {}
        }
    }
    End::WentOn
}

struct FixedLimit {
    limit: f64,
    window: Vec<Arm>,
    in_a_row: u32,
    ticks: u32,
}

impl FixedLimit {
    fn new(limit: f64) -> Self {
        Self {
            limit,
            window: vec![],
            in_a_row: 0,
            ticks: 0,
        }
    }

    fn add(&mut self, arm: Arm) -> bool {
        self.window.push(arm);
        if self.window.len() > 12 {
            self.window.remove(0);
        }
        self.ticks += 1;
        if !self.ticks.is_multiple_of(2) {
            return false;
        }
        let sum = self.window.iter().fold(Arm::default(), |sum, arm| Arm {
            n: sum.n + arm.n,
            k: sum.k + arm.k,
        });
        let above = sum.rate() > self.limit;
        self.in_a_row = if above { self.in_a_row + 1 } else { 0 };
        self.in_a_row >= 3
    }
}

/// A whole canary: 1 % and 10 % for five minutes, 50 % for ten.
pub fn canary(judge: Judge, stream: Stream, chance: &mut Chance) -> End {
    let steps = [(0.01, 300, false), (0.10, 300, false), (0.50, 600, true)];
    for (weight, seconds, last) in steps {
        match bake(
            judge,
            stream,
            chance,
            weight,
            seconds,
            (1_200.0, last, true),
        ) {
            End::WentOn => {}
            ended => return ended,
        }
    }
    End::WentOn
}

/// A watch of five minutes with all traffic on a version whose share of bad requests is `rate`,
/// against a limit of 1 %.
pub fn watch(rps: f64, rate: f64, theta: f64, chance: &mut Chance) -> End {
    let mut test = LimitTest::new(theta, 1.0, 0.01);
    let mut carry = Carry::default();
    for tick in 1..=(300 / TICK_S) {
        let n = carry.take(0, rps * f64::from(TICK_S));
        let k = chance.binomial(n, rate);
        if test.add(Arm { n, k }) {
            return End::Aborted(tick * TICK_S);
        }
    }
    End::WentOn
}

/// [`tally`] of so many bakes of five minutes, one per seed.
#[must_use]
pub fn bakes(judge: Judge, stream: Stream, weight: f64, count: u64) -> (f64, u32, f64) {
    let ends: Vec<End> = (0..count)
        .map(|seed| {
            let mut chance = Chance::new(seed);
            bake(
                judge,
                stream,
                &mut chance,
                weight,
                300,
                (1_200.0, false, false),
            )
        })
        .collect();
    tally(&ends)
}

/// Answers of `count` bakes: the share that was aborted, their median seconds, and the share paused.
#[must_use]
pub fn tally(ends: &[End]) -> (f64, u32, f64) {
    let all = number(ends.len() as u64).max(1.0);
    let mut seconds: Vec<u32> = ends
        .iter()
        .filter_map(|end| match end {
            End::Aborted(at) => Some(*at),
            _ => None,
        })
        .collect();
    seconds.sort_unstable();
    let paused = ends.iter().filter(|end| **end == End::Paused).count();
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(0);
    (
        number(seconds.len() as u64) / all,
        median,
        number(paused as u64) / all,
    )
}
