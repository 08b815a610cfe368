//! Gates over numbers that somebody else measures (Prometheus): a threshold on one number, or counts that
//! go through the same test as the router's own.
//!
//! Owns the rules, what one answer is worth, and the verdict over the answers of a step. Does not ask
//! anybody: answers are taken by the coordinator and kept before they count. A number that is missing or
//! absurd is BLIND and never a pass.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bake::{Bake, Judged, LOOKS, elapsed, watched};
use super::binomial::number;
use super::ratio::{Arm, Pair, Terms};
use super::rules::RULE_VERSION;
use super::sentence::FAILED;
use super::verdict::{Doubt, Metric, MetricVerdict, Verdict};
use super::watch::LimitTest;
use crate::pipeline::number_holds;

/// Answers that are missing after this many of their intervals make a gate blind.
const MISSING_INTERVALS: u64 = 3;

/// What is asked, and what the answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CustomKind {
    /// One number.
    Threshold {
        /// The query.
        query: String,
        /// CEL over `value`: good.
        pass: Option<String>,
        /// CEL over `value`: bad.
        fail: Option<String>,
    },
    /// Two counters for each version, which only grow.
    Counts {
        /// Of bad events.
        bad: String,
        /// Of all events.
        total: String,
        /// Above this many times stable's rate, in thousandths.
        max_ratio_milli: u32,
        /// And above it by this share of all events, in parts per million.
        floor_ppm: u32,
    },
}

/// A gate of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomRule {
    /// Its name, not that of a gate of ours.
    pub name: String,
    /// What is asked.
    #[serde(flatten)]
    pub asks: CustomKind,
    /// How often, milliseconds.
    pub interval_ms: u64,
    /// Answers after which a threshold is settled; 0 = as long as the step looks.
    pub count: u32,
    /// Bad answers in a row that are still borne.
    pub failure_limit: u32,
    /// Answers in a row that are neither good nor bad and still borne.
    pub inconclusive_limit: u32,
    /// Missing answers in a row that are still borne.
    pub error_limit: u32,
    /// Recorded and not acted on.
    pub dry_run: bool,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The number.
    Value(f64),
    /// Cumulative counts.
    Counts {
        /// Of the new version.
        canary: Arm,
        /// Of stable.
        stable: Arm,
    },
    /// There is none, and why.
    Missing(String),
}

/// One answer at its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was asked for, wall-clock milliseconds.
    pub at: i64,
    /// What came.
    pub answer: Answer,
}

impl Sample {
    /// A number as a query gave it: what is not finite is no answer.
    #[must_use]
    pub fn value(at: i64, value: f64) -> Self {
        let answer = if value.is_finite() {
            Answer::Value(value)
        } else {
            Answer::Missing(format!("the query gave {value}"))
        };
        Self { at, answer }
    }

    /// Counts as two queries for each version gave them: `[canary bad, canary all, stable bad, stable all]`.
    #[must_use]
    pub fn counts(at: i64, counts: [f64; 4]) -> Self {
        let possible = counts.iter().all(|one| one.is_finite() && *one >= 0.0);
        let [canary_bad, canary_all, stable_bad, stable_all] = counts;
        let answer = if !possible || canary_bad > canary_all || stable_bad > stable_all {
            Answer::Missing(format!(
                "counts cannot be: {canary_bad} of {canary_all} and {stable_bad} of {stable_all}"
            ))
        } else {
            let arm = |bad, all| Arm {
                n: super::binomial::whole(all),
                k: super::binomial::whole(bad),
            };
            Answer::Counts {
                canary: arm(canary_bad, canary_all),
                stable: arm(stable_bad, stable_all),
            }
        };
        Self { at, answer }
    }

    /// There is no answer.
    #[must_use]
    pub fn missing(at: i64, why: String) -> Self {
        Self {
            at,
            answer: Answer::Missing(why),
        }
    }

    fn is_missing(&self) -> bool {
        matches!(self.answer, Answer::Missing(_))
    }
}

/// Kept answers to a gate are of the source that begins so and ends with the gate's name.
pub const ANSWERS: &str = "gate:";

/// Answers by the gates' names, of kept rows (source, JSON) in their order. Rows of other sources, and what
/// cannot be read, are left out.
pub fn answers<'a>(
    rows: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<String, Vec<Sample>> {
    let mut answers: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for (source, json) in rows {
        if let Some(name) = source.strip_prefix(ANSWERS)
            && let Ok(sample) = serde_json::from_str(json)
        {
            answers.entry(name.to_owned()).or_default().push(sample);
        }
    }
    answers
}

/// What one number is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    Good,
    Bad,
    Neither,
}

fn worth(pass: Option<&str>, fail: Option<&str>, value: f64) -> Result<Worth, String> {
    let holds = |source: Option<&str>| source.map(|it| number_holds(it, value)).transpose();
    Ok(match (holds(pass)?, holds(fail)?) {
        (Some(true), None | Some(false)) | (None, Some(false)) => Worth::Good,
        (Some(false), None | Some(true)) | (None, Some(true)) => Worth::Bad,
        (Some(true), Some(true)) | (Some(false), Some(false)) | (None, None) => Worth::Neither,
    })
}

/// Whether both expressions can be evaluated over a number.
pub(super) fn check_expressions(pass: Option<&str>, fail: Option<&str>) -> Result<(), String> {
    worth(pass, fail, 0.5).map(drop)
}

/// For how long a gate has had no answer, milliseconds; 0 while that is borne.
#[must_use]
pub fn unanswered_ms(rule: &CustomRule, samples: &[Sample], began_at: i64, now: i64) -> u64 {
    let since = |at: i64| u64::try_from(now.saturating_sub(at)).unwrap_or(0);
    let good = samples.iter().rev().find(|sample| !sample.is_missing());
    let missing = samples
        .iter()
        .rev()
        .take_while(|one| one.is_missing())
        .count();
    let ms = since(good.map_or(began_at, |sample| sample.at.max(began_at)));
    let last = since(
        samples
            .last()
            .map_or(began_at, |sample| sample.at.max(began_at)),
    );
    let silent = last > rule.interval_ms.saturating_mul(MISSING_INTERVALS);
    let refused = u64::try_from(missing).unwrap_or(u64::MAX) > u64::from(rule.error_limit);
    if silent || refused { ms } else { 0 }
}

/// Judges one gate over its answers since the step began.
#[must_use]
pub fn judge_custom(
    bake: &Bake<'_>,
    rule: &CustomRule,
    samples: &[Sample],
    beside: bool,
) -> MetricVerdict {
    let mut verdict = match &rule.asks {
        CustomKind::Threshold { pass, fail, .. } => {
            threshold(bake, rule, [pass.as_deref(), fail.as_deref()], samples)
        }
        CustomKind::Counts {
            max_ratio_milli,
            floor_ppm,
            ..
        } => {
            let terms = Terms {
                theta: bake.theta,
                phi: 1.0,
                max_ratio: f64::from(*max_ratio_milli) / 1_000.0,
                floor: f64::from(*floor_ppm) / 1_000_000.0,
            };
            let mut verdict = counts(bake, rule, terms, samples, beside);
            verdict.text = format!("`{}`: {}", rule.name, verdict.text);
            verdict
        }
    };
    let silent = unanswered_ms(rule, samples, bake.began_at, bake.now);
    if silent > 0 && verdict.verdict != Verdict::Abort {
        let why = samples
            .iter()
            .rev()
            .find_map(|sample| match &sample.answer {
                Answer::Missing(why) => Some(format!(": {why}")),
                _ => None,
            });
        verdict.verdict = Verdict::Blind;
        verdict.text = format!(
            "Gate `{}` has had no answer for {} s{}.",
            rule.name,
            silent / 1_000,
            why.unwrap_or_default()
        );
    }
    verdict.name = Some(rule.name.clone());
    verdict.dry_run = rule.dry_run;
    verdict
}

/// Good and bad answers in their order.
#[derive(Default)]
struct Rows {
    answers: u32,
    bad: u32,
    bad_most: u32,
    neither: u32,
    neither_most: u32,
    last: f64,
    trouble: Option<String>,
}

impl Rows {
    fn of(exprs: [Option<&str>; 2], samples: &[Sample]) -> Self {
        let mut rows = Self::default();
        for sample in samples {
            let Answer::Value(value) = sample.answer else {
                continue;
            };
            rows.answers = rows.answers.saturating_add(1);
            rows.last = value;
            let worth = worth(exprs[0], exprs[1], value).unwrap_or_else(|why| {
                rows.trouble = Some(why);
                Worth::Neither
            });
            (rows.bad, rows.neither) = match worth {
                Worth::Good => (0, 0),
                Worth::Bad => (rows.bad.saturating_add(1), 0),
                Worth::Neither => (0, rows.neither.saturating_add(1)),
            };
            rows.bad_most = rows.bad_most.max(rows.bad);
            rows.neither_most = rows.neither_most.max(rows.neither);
        }
        rows
    }
}

fn threshold(
    bake: &Bake<'_>,
    rule: &CustomRule,
    exprs: [Option<&str>; 2],
    samples: &[Sample],
) -> MetricVerdict {
    let rows = Rows::of(exprs, samples);
    let wanted = match exprs {
        [Some(pass), _] => format!("`{pass}`"),
        [None, Some(fail)] => format!("not `{fail}`"),
        [None, None] => "nothing".to_owned(),
    };
    let plural = if rows.answers == 1 { "" } else { "s" };
    let said = format!(
        "`{}` is {} after {} answer{plural}, {wanted} is wanted",
        rule.name, rows.last, rows.answers
    );
    let looked = elapsed(bake.ticks);
    let settled = rule.count > 0 && rows.answers >= rule.count;
    let over = looked >= bake.length_ms || settled;
    let (verdict, text) = if rows.bad_most > rule.failure_limit {
        let row = match rows.bad_most {
            1 => "none bad is borne".to_owned(),
            row => format!("{row} bad answers in a row"),
        };
        (Verdict::Abort, format!("Rolled back: {said}; {row}."))
    } else if let Some(why) = &rows.trouble {
        let doubt = Verdict::Inconclusive(Doubt::Suspicious);
        (doubt, format!("`{}` cannot be judged: {why}.", rule.name))
    } else if rows.neither_most > rule.inconclusive_limit {
        let row = format!("{} answers in a row were neither", rows.neither_most);
        (
            Verdict::Inconclusive(Doubt::Suspicious),
            format!("{said}; {row}."),
        )
    } else if over && rows.answers > 0 && rows.bad == 0 && rows.neither == 0 {
        (Verdict::Pass, format!("Passed: {said}."))
    } else if looked >= bake.length_ms.saturating_mul(LOOKS) {
        (
            Verdict::Inconclusive(Doubt::Suspicious),
            format!("{said}; looked three times as long."),
        )
    } else {
        (Verdict::Continue, format!("{said}."))
    };
    MetricVerdict {
        metric: Metric::Custom,
        name: None,
        verdict,
        text,
        baseline: 0.0,
        current: rows.last,
        evidence: serde_json::json!({
            "answers": rows.answers, "bad_in_a_row": rows.bad_most, "pass": exprs[0], "fail": exprs[1],
            "rule_version": RULE_VERSION,
        }),
        dry_run: rule.dry_run,
    }
}

fn counts(
    bake: &Bake<'_>,
    rule: &CustomRule,
    terms: Terms,
    samples: &[Sample],
    beside: bool,
) -> MetricVerdict {
    let pairs = pairs(samples);
    if beside {
        let ticks = pairs.into_iter().map(|(ms, pair)| (ms, pair, None));
        let judged = Judged::over(bake, terms, ticks);
        return judged.verdict(bake, Metric::Custom, FAILED, rule.dry_run, None);
    }
    let limit = number(bake.rules.watch_error_ppm) / 1_000_000.0;
    let mut test = LimitTest::new(bake.theta, terms.phi, limit);
    let bad = pairs.iter().any(|(_, pair)| test.add(pair.canary));
    let over = elapsed(bake.ticks) >= bake.length_ms && !pairs.is_empty();
    watched(&test, Metric::Custom, FAILED, bad, over, rule.dry_run)
}

/// What came between two answers. A counter that went down (an instance left, and its counts with it)
/// says nothing about that time.
fn pairs(samples: &[Sample]) -> Vec<(u64, Pair)> {
    let mut last: Option<(i64, Arm, Arm)> = None;
    let mut pairs = Vec::new();
    for sample in samples {
        let Answer::Counts { canary, stable } = sample.answer else {
            continue;
        };
        if let Some((at, canary_before, stable_before)) = last
            && let (Some(canary), Some(stable)) =
                (since(canary, canary_before), since(stable, stable_before))
        {
            let ms = u64::try_from(sample.at.saturating_sub(at)).unwrap_or(0);
            pairs.push((ms, Pair { canary, stable }));
        }
        last = Some((sample.at, canary, stable));
    }
    pairs
}

fn since(now: Arm, before: Arm) -> Option<Arm> {
    let arm = Arm {
        n: now.n.checked_sub(before.n)?,
        k: now.k.checked_sub(before.k)?,
    };
    (arm.k <= arm.n).then_some(arm)
}

#[cfg(test)]
mod tests;
