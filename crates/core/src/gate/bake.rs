//! All gates of one bake, or of the watch, judged over recorded ticks. Stateless: whoever judges the
//! same window again gets the same verdict.

use std::collections::BTreeMap;

use super::binomial::number;
use super::custom::{Sample, judge_custom, unanswered_ms};
use super::dispersion::{HalfTick, phi};
use super::histogram::Histogram;
use super::instances::{ExitVerdict, Exits, MemorySample, judge_exits, judge_memory};
use super::latency::{LatencyWindow, Slow};
use super::power::detectable;
use super::ratio::{Arm, Look, Pair, RatioTest, Terms};
use super::rules::{GateRules, Mode, RULE_VERSION};
use super::sentence::{self, FAILED, SLOW, Words, count, percent};
use super::tick::Tick;
use super::verdict::{Doubt, GateReport, Metric, MetricVerdict, Verdict};
use super::watch::LimitTest;

/// Without a tick for this long nothing is known: three ticks.
const BLIND_AFTER_MS: u64 = 15_000;
/// Fewer requests than this are no sign that routing is wrong.
const EXPECTED_MIN: f64 = 20.0;
/// A canary gets at least this part of its expected share.
const ROUTED_MIN: f64 = 0.25;
/// Looks of one bake: at its length, at twice and at three times it.
pub(super) const LOOKS: u64 = 3;
/// Slower than this share is what a 99th percentile means.
const SLOW_SHARE: f64 = 0.01;

/// What is known of instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instances {
    /// Ends of the new version's since the bake began.
    pub canary: Exits,
    /// Ends of stable's in the last day.
    pub stable: Exits,
    /// Memory of the new version's; `None` = no limit is set, or the target cannot say.
    pub memory: Option<Vec<MemorySample>>,
    /// Stable's highest in the last hour, thousandths of its limit.
    pub stable_memory_permille: u32,
}

/// One bake, or the watch.
#[derive(Clone, Copy, Debug)]
pub struct Bake<'a> {
    /// What is configured.
    pub rules: &'a GateRules,
    /// The evidence that an abort needs.
    pub theta: f64,
    /// Its length.
    pub length_ms: u64,
    /// No further bake follows: what is not proven here is not proven.
    pub last: bool,
    /// The new version's weight.
    pub weight_bp: u32,
    /// When it began, wall-clock milliseconds.
    pub began_at: i64,
    /// Stable before it, at most ten minutes.
    pub baseline: &'a [Tick],
    /// What was counted since.
    pub ticks: &'a [Tick],
    /// What is known of instances.
    pub instances: Option<&'a Instances>,
    /// Answers to the user's own gates since it began, by their names.
    pub custom: Option<&'a BTreeMap<String, Vec<Sample>>>,
    /// Now.
    pub now: i64,
}

/// Judges a bake: two versions side by side.
#[must_use]
pub fn judge_bake(bake: &Bake<'_>) -> GateReport {
    let mut verdicts = Vec::new();
    if let Some(rule) = bake.rules.error_rate {
        let halves: Vec<HalfTick> = usable(bake.baseline)
            .map(|tick| HalfTick::from(&tick.stable))
            .collect();
        let terms = Terms {
            theta: bake.theta,
            phi: phi(&halves),
            max_ratio: rule.max_ratio(),
            floor: rule.floor(),
        };
        let pairs = usable(bake.ticks).map(|tick| (tick.length_ms(), error_pair(tick), None));
        let judged = Judged::over(bake, terms, pairs);
        verdicts.push(judged.verdict(bake, Metric::ErrorRate, FAILED, rule.dry_run, None));
    }
    if let Some(rule) = bake.rules.latency_p99 {
        verdicts.push(latency(bake, rule.max_increase_percent, rule.dry_run));
    }
    report(bake, verdicts, true)
}

/// Judges the watch: the new version alone, against a limit.
#[must_use]
pub fn judge_watch(bake: &Bake<'_>) -> GateReport {
    let mut verdicts = Vec::new();
    let over = elapsed(bake.ticks) >= bake.length_ms;
    let arms = |of: fn(&Tick) -> Arm| usable(bake.ticks).map(of);
    let stable = usable(bake.baseline).fold(Arm::default(), |sum, tick| Arm {
        n: sum.n.saturating_add(tick.stable.total),
        k: sum.k.saturating_add(tick.stable.bad),
    });
    let halves: Vec<HalfTick> = usable(bake.baseline)
        .map(|tick| HalfTick::from(&tick.stable))
        .collect();
    let limit = (number(bake.rules.watch_error_ppm) / 1_000_000.0).max(2.0 * stable.rate());
    let mut test = LimitTest::new(bake.theta, phi(&halves), limit);
    let canary = |tick: &Tick| Arm {
        n: tick.canary.total,
        k: tick.canary.bad,
    };
    // Up to the tick at which it was taken out.
    let bad = arms(canary).any(|arm| test.add(arm));
    let dry_run = bake.rules.error_rate.is_some_and(|rule| rule.dry_run);
    verdicts.push(watched(
        &test,
        Metric::ErrorRate,
        FAILED,
        bad,
        over,
        dry_run,
    ));
    if let Some(rule) = bake.rules.latency_p99 {
        let mut seen = Histogram::default();
        usable(bake.baseline).for_each(|tick| seen.merge(&tick.stable.latency));
        if let Some(slow) = Slow::beyond(&seen, rule.max_increase_percent) {
            let mut test = LimitTest::new(bake.theta, 1.0, SLOW_SHARE);
            let mut ticks = usable(bake.ticks).map(|tick| slow.pair(tick).canary);
            let bad = ticks.any(|arm| test.add(arm));
            let metric = Metric::LatencyP99;
            verdicts.push(watched(&test, metric, SLOW, bad, over, rule.dry_run));
        }
    }
    report(bake, verdicts, false)
}

/// With what is judged the same way in a bake and in a watch.
fn report(bake: &Bake<'_>, mut verdicts: Vec<MetricVerdict>, beside: bool) -> GateReport {
    verdicts.extend(instances(bake));
    let mut blind_ms = silent_ms(bake);
    for rule in &bake.rules.custom {
        let samples = bake.custom.and_then(|all| all.get(&rule.name));
        let samples = samples.map_or(&[][..], Vec::as_slice);
        verdicts.push(judge_custom(bake, rule, samples, beside));
        if !rule.dry_run {
            blind_ms = blind_ms.max(unanswered_ms(rule, samples, bake.began_at, bake.now));
        }
    }
    GateReport {
        verdicts,
        elapsed_ms: elapsed(bake.ticks),
        blind: blind(bake, beside),
        blind_ms,
    }
}

pub(super) fn watched(
    test: &LimitTest,
    metric: Metric,
    words: Words,
    bad: bool,
    over: bool,
    dry_run: bool,
) -> MetricVerdict {
    let sums = test.sums();
    let numbers = format!(
        "{} of {} requests {} ({}), the limit is {}",
        count(sums.k),
        count(sums.n),
        words.did,
        percent(sums.rate()),
        percent(test.limit())
    );
    let (verdict, text) = match (bad, over) {
        (true, _) => (Verdict::Abort, format!("Rolled back: {numbers}.")),
        (false, true) => (Verdict::Pass, format!("Passed the watch: {numbers}.")),
        (false, false) => (Verdict::Continue, format!("{numbers}.")),
    };
    MetricVerdict {
        metric,
        name: None,
        verdict,
        text,
        baseline: test.limit(),
        current: sums.rate(),
        evidence: serde_json::json!({
            "n": sums.n, "k": sums.k, "limit": test.limit(), "e": finite(test.evidence()),
            "rule_version": RULE_VERSION,
        }),
        dry_run,
    }
}

fn usable(ticks: &[Tick]) -> impl Iterator<Item = &Tick> {
    ticks.iter().filter(|tick| tick.is_usable())
}

pub(super) fn elapsed(ticks: &[Tick]) -> u64 {
    usable(ticks).fold(0, |sum, tick| sum.saturating_add(tick.length_ms()))
}

fn error_pair(tick: &Tick) -> Pair {
    Pair {
        canary: Arm {
            n: tick.canary.total,
            k: tick.canary.bad,
        },
        stable: Arm {
            n: tick.stable.total,
            k: tick.stable.bad,
        },
    }
}

/// JSON knows no infinity.
fn finite(value: f64) -> f64 {
    value.min(f64::MAX)
}

/// A metric's test over a bake's ticks.
pub(super) struct Judged {
    test: RatioTest,
    elapsed_ms: u64,
    settled: Settled,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    Abort,
    Pass,
    Doubt(Doubt),
    /// And whether it looked suspicious at the last look.
    Not(bool),
}

impl Judged {
    pub(super) fn over(
        bake: &Bake<'_>,
        terms: Terms,
        ticks: impl Iterator<Item = (u64, Pair, Option<bool>)>,
    ) -> Self {
        let mut judged = Self {
            test: RatioTest::new(terms),
            elapsed_ms: 0,
            settled: Settled::Not(false),
        };
        let mut looked = 0;
        let mut last_check = 0;
        let mut fires = None;
        for (length_ms, pair, effect) in ticks {
            let abort = judged.test.add(pair, effect);
            judged.elapsed_ms = judged.elapsed_ms.saturating_add(length_ms);
            fires = effect;
            match bake.rules.mode {
                Mode::Sequential if abort => {
                    judged.settled = Settled::Abort;
                    return judged;
                }
                Mode::Literal { every_ms }
                    if every_ms > 0 && judged.elapsed_ms - last_check >= every_ms =>
                {
                    last_check = judged.elapsed_ms;
                    if fires.unwrap_or_else(|| judged.test.fires()) {
                        judged.settled = Settled::Abort;
                        return judged;
                    }
                }
                _ => {}
            }
            judged.look(bake, &mut looked, fires);
        }
        judged.look(bake, &mut looked, fires);
        judged
    }

    fn look(&mut self, bake: &Bake<'_>, looked: &mut u64, fires: Option<bool>) {
        while *looked < LOOKS
            && matches!(self.settled, Settled::Not(_))
            && self.elapsed_ms >= bake.length_ms.saturating_mul(*looked + 1)
        {
            *looked += 1;
            if let Mode::Literal { .. } = bake.rules.mode {
                let bad = fires.unwrap_or_else(|| self.test.fires());
                self.settled = if bad { Settled::Abort } else { Settled::Pass };
                return;
            }
            let over = *looked == LOOKS;
            self.settled = match self.test.look(fires) {
                Look::Pass => Settled::Pass,
                Look::Suspicious if over => Settled::Doubt(Doubt::Suspicious),
                Look::Suspicious => Settled::Not(true),
                Look::NoWorse => Settled::Doubt(Doubt::GoesOn),
                Look::Unproven if !bake.last => Settled::Doubt(Doubt::GoesOn),
                Look::Unproven if over => Settled::Doubt(Doubt::Unproven),
                Look::Unproven => Settled::Not(false),
            };
        }
    }

    pub(super) fn verdict(
        &self,
        bake: &Bake<'_>,
        metric: Metric,
        words: Words,
        dry_run: bool,
        slow: Option<Slow>,
    ) -> MetricVerdict {
        let sums = self.test.sums();
        let terms = self.test.terms();
        let caught = detectable(sums.canary.n, sums.stable.n, sums.stable.rate(), terms);
        let left = (bake.length_ms.max(1) - self.elapsed_ms % bake.length_ms.max(1)).min(
            bake.length_ms
                .saturating_mul(LOOKS)
                .saturating_sub(self.elapsed_ms),
        );
        let literal = matches!(bake.rules.mode, Mode::Literal { .. });
        let (verdict, text) = match self.settled {
            Settled::Abort if literal => {
                let text = sentence::abort(&self.test, words);
                let plain = text.split(" Chance if healthy").next().unwrap_or_default();
                (Verdict::Abort, format!("{plain} (literal rule)"))
            }
            Settled::Abort => (Verdict::Abort, sentence::abort(&self.test, words)),
            Settled::Pass => (Verdict::Pass, sentence::pass(&self.test, words)),
            Settled::Doubt(doubt) => (
                Verdict::Inconclusive(doubt),
                sentence::inconclusive(&self.test, words, caught),
            ),
            Settled::Not(suspicious) => (
                Verdict::Continue,
                sentence::going_on(&self.test, words, suspicious, left),
            ),
        };
        MetricVerdict {
            metric,
            name: None,
            verdict,
            text,
            baseline: sums.stable.rate(),
            current: sums.canary.rate(),
            evidence: serde_json::json!({
                "n_canary": sums.canary.n, "k_canary": sums.canary.k,
                "n_stable": sums.stable.n, "k_stable": sums.stable.k,
                "phi": terms.phi, "theta": terms.theta, "e": finite(self.test.evidence()),
                "u_micros": slow.map(Slow::micros), "detectable": caught,
                "rule_version": RULE_VERSION,
            }),
            dry_run,
        }
    }
}

fn latency(bake: &Bake<'_>, increase_percent: u32, dry_run: bool) -> MetricVerdict {
    let mut window = LatencyWindow::default();
    usable(bake.baseline).for_each(|tick| window.push(tick));
    let (mut canary, mut stable) = (Histogram::default(), Histogram::default());
    let mut last = None;
    let mut pairs = Vec::with_capacity(bake.ticks.len());
    for tick in usable(bake.ticks) {
        canary.merge(&tick.canary.latency);
        stable.merge(&tick.stable.latency);
        let slow = window.slow(increase_percent);
        window.push(tick);
        last = slow.or(last);
        let pair = slow.map_or_else(Pair::default, |slow| slow.pair(tick));
        // The literal rule: the bake's own percentiles.
        let fires = Slow::beyond(&stable, increase_percent)
            .zip(canary.p99())
            .is_some_and(|(slow, p99)| p99 >= slow.canary);
        pairs.push((tick.length_ms(), pair, Some(fires)));
    }
    let terms = Terms {
        theta: bake.theta,
        phi: slow_phi(bake, last),
        max_ratio: 2.0,
        floor: 0.0,
    };
    let judged = Judged::over(bake, terms, pairs.into_iter());
    judged.verdict(bake, Metric::LatencyP99, SLOW, dry_run, last)
}

/// Dispersion of slow requests, over time: halves are not kept for them.
fn slow_phi(bake: &Bake<'_>, slow: Option<Slow>) -> f64 {
    let Some(slow) = slow else {
        return 1.0;
    };
    let ticks: Vec<HalfTick> = usable(bake.baseline)
        .map(|tick| slow.pair(tick).stable)
        .map(|arm| HalfTick {
            total: [arm.n, 0],
            bad: [arm.k, 0],
        })
        .collect();
    phi(&ticks)
}

fn instances(bake: &Bake<'_>) -> Vec<MetricVerdict> {
    let mut verdicts = Vec::new();
    let Some(known) = bake.instances else {
        return verdicts;
    };
    let one = |metric, verdict, text: String, dry_run| MetricVerdict {
        metric,
        name: None,
        verdict,
        text,
        baseline: number(known.stable.count),
        current: number(known.canary.count),
        evidence: serde_json::json!({
            "canary": known.canary, "stable": known.stable, "rule_version": RULE_VERSION,
        }),
        dry_run,
    };
    let over = elapsed(bake.ticks) >= bake.length_ms;
    if let Some(rule) = bake.rules.restarts {
        let (verdict, text) = match judge_exits(known.canary, known.stable, bake.theta) {
            ExitVerdict::Abort(why) => (Verdict::Abort, format!("Rolled back: {why}.")),
            ExitVerdict::Blocks(why) if elapsed(bake.ticks) < bake.length_ms.saturating_mul(2) => {
                (Verdict::Continue, format!("{why}."))
            }
            // Looked twice as long, and it did not become a habit.
            ExitVerdict::Blocks(why) => (
                Verdict::Inconclusive(Doubt::GoesOn),
                format!("{why}; looked twice as long."),
            ),
            ExitVerdict::None if over => (Verdict::Pass, "Passed: no instance ended.".to_owned()),
            ExitVerdict::None => (Verdict::Continue, "No instance ended.".to_owned()),
        };
        verdicts.push(one(Metric::PodRestartCount, verdict, text, rule.dry_run));
    }
    // Without a limit there is nothing to be full of: not applicable, and not a pass either.
    if let (Some(rule), Some(samples)) = (bake.rules.memory, &known.memory) {
        let full = judge_memory(samples, known.stable_memory_permille, rule.max_percent);
        let (verdict, text) = match full {
            Some(why) => (Verdict::Abort, format!("Rolled back: {why}.")),
            None if over => (
                Verdict::Pass,
                "Passed: memory is below its limit.".to_owned(),
            ),
            None => (Verdict::Continue, "Memory is below its limit.".to_owned()),
        };
        verdicts.push(one(Metric::MemoryUsage, verdict, text, rule.dry_run));
    }
    verdicts
}

/// For how long nothing usable was counted.
fn silent_ms(bake: &Bake<'_>) -> u64 {
    let heard = usable(bake.ticks)
        .map(|tick| tick.t1)
        .max()
        .unwrap_or(bake.began_at);
    u64::try_from(bake.now.saturating_sub(heard)).unwrap_or(0)
}

/// Why nothing can be judged, if so. Missing data is a state of its own: nothing is promoted on it,
/// and nothing is taken out at once because a counter is away.
fn blind(bake: &Bake<'_>, beside: bool) -> Option<String> {
    let silent = silent_ms(bake);
    let weight = percent(f64::from(bake.weight_bp) / 10_000.0);
    if let Some(trouble) = bake.ticks.last().and_then(|tick| tick.trouble.as_ref()) {
        return Some(format!(
            "Counters cannot be: {trouble}. Weight stays at {weight}."
        ));
    }
    if silent > BLIND_AFTER_MS {
        let seconds = silent / 1_000;
        return Some(format!(
            "No counters from the router for {seconds} s. Weight stays at {weight}."
        ));
    }
    if beside {
        let sums = usable(bake.ticks).fold((0_u64, 0_u64), |(canary, all), tick| {
            let both = tick.canary.total.saturating_add(tick.stable.total);
            (
                canary.saturating_add(tick.canary.total),
                all.saturating_add(both),
            )
        });
        let expected = number(sums.1) * f64::from(bake.weight_bp) / 10_000.0;
        if expected >= EXPECTED_MIN && number(sums.0) < ROUTED_MIN * expected {
            return Some(format!(
                "The new version got {} of about {expected:.0} requests: routing is not as it should \
                 be. Weight stays at {weight}.",
                count(sums.0)
            ));
        }
    }
    None
}
