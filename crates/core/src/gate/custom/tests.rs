//! Gates of the user's own: what their answers come to.

use std::collections::BTreeMap;

use super::*;
use crate::gate::{Counts, GateRules, Tick, judge_bake, judge_watch};

const LENGTH: u64 = 300_000;

fn rule(asks: CustomKind) -> CustomRule {
    CustomRule {
        name: "checkout".to_owned(),
        asks,
        interval_ms: 10_000,
        count: 0,
        failure_limit: 2,
        inconclusive_limit: 3,
        error_limit: 3,
        dry_run: false,
    }
}

fn threshold(pass: Option<&str>, fail: Option<&str>) -> CustomRule {
    rule(CustomKind::Threshold {
        query: "checkout_failed".to_owned(),
        pass: pass.map(str::to_owned),
        fail: fail.map(str::to_owned),
    })
}

/// The router counts nothing bad, for so long.
fn ticks(ms: u64) -> Vec<Tick> {
    let all = i64::try_from(ms / 5_000).unwrap();
    let counts = Counts {
        total: 500,
        ..Counts::default()
    };
    let tick = |at: i64| Tick {
        t0: at * 5_000,
        t1: (at + 1) * 5_000,
        boot_id: "b".to_owned(),
        canary: counts.clone(),
        stable: counts.clone(),
        trouble: None,
    };
    (0..all).map(tick).collect()
}

fn judged(rule: &CustomRule, answers: &[Option<f64>], ms: u64) -> (Verdict, String) {
    let at = |i: usize| i64::try_from(i * 10_000).unwrap();
    let samples = answers.iter().enumerate().map(|(i, value)| match value {
        Some(value) => Sample::value(at(i), *value),
        None => Sample {
            at: at(i),
            answer: Answer::Missing("it is away".to_owned()),
        },
    });
    over(rule, samples.collect(), ms, true)
}

fn over(rule: &CustomRule, samples: Vec<Sample>, ms: u64, beside: bool) -> (Verdict, String) {
    let rules = GateRules {
        custom: vec![rule.clone()],
        ..GateRules::default()
    };
    let now = samples.last().map_or(0, |sample| sample.at);
    let ticks = ticks(ms);
    let custom = BTreeMap::from([(rule.name.clone(), samples)]);
    let bake = Bake {
        rules: &rules,
        theta: 1_200.0,
        length_ms: LENGTH,
        last: false,
        weight_bp: 5_000,
        began_at: 0,
        baseline: &[],
        ticks: &ticks,
        instances: None,
        custom: Some(&custom),
        now,
    };
    let report = if beside {
        judge_bake(&bake)
    } else {
        judge_watch(&bake)
    };
    let one = report
        .verdicts
        .iter()
        .find(|one| one.called() == "checkout");
    let one = one.expect("judged").clone();
    (one.verdict, one.text)
}

#[test]
fn the_third_bad_answer_in_a_row_takes_the_version_out() {
    let rule = threshold(Some("value < 0.01"), None);
    let two = judged(&rule, &[Some(0.0), Some(0.5), Some(0.5)], 20_000);
    assert_eq!(two.0, Verdict::Continue);
    let broken = [Some(0.5), Some(0.5), Some(0.0), Some(0.5), Some(0.5)];
    assert_eq!(judged(&rule, &broken, 40_000).0, Verdict::Continue);
    let three = judged(&rule, &[Some(0.5), Some(0.5), Some(0.5), Some(0.0)], 30_000);
    assert_eq!(three.0, Verdict::Abort, "{}", three.1);
    assert_eq!(
        three.1,
        "Rolled back: `checkout` is 0 after 4 answers, `value < 0.01` is wanted; 3 bad answers in a row."
    );
}

#[test]
fn good_answers_pass_at_the_end_of_the_bake_or_after_their_count() {
    let mut rule = threshold(None, Some("value > 1"));
    let good = vec![Some(0.5); 30];
    assert_eq!(judged(&rule, &good[..3], 60_000).0, Verdict::Continue);
    assert_eq!(judged(&rule, &good, LENGTH).0, Verdict::Pass);
    rule.count = 3;
    assert_eq!(judged(&rule, &good[..3], 60_000).0, Verdict::Pass);
}

#[test]
fn neither_good_nor_bad_is_doubt_and_never_a_pass() {
    let rule = threshold(Some("value < 1"), Some("value > 2"));
    assert_eq!(judged(&rule, &[Some(1.5); 3], 30_000).0, Verdict::Continue);
    let doubt = Verdict::Inconclusive(Doubt::Suspicious);
    assert_eq!(judged(&rule, &[Some(1.5); 4], 40_000).0, doubt);
    // Both hold: as good as neither.
    let rule = threshold(Some("value < 3"), Some("value > 1"));
    assert_eq!(judged(&rule, &[Some(2.0); 4], 40_000).0, doubt);
}

#[test]
fn missing_answers_are_blind_and_never_a_pass_or_an_abort() {
    let rule = threshold(Some("value < 1"), None);
    let mut answers = vec![Some(0.0); 27];
    answers.extend([None; 3]);
    assert_eq!(
        judged(&rule, &answers, LENGTH).0,
        Verdict::Pass,
        "three are borne"
    );
    answers.push(None);
    let (verdict, text) = judged(&rule, &answers, LENGTH);
    assert_eq!(verdict, Verdict::Blind);
    assert_eq!(
        text,
        "Gate `checkout` has had no answer for 40 s: it is away."
    );
    assert_eq!(
        judged(&rule, &[Some(f64::NAN); 4], LENGTH).0,
        Verdict::Blind
    );
    // Nobody asked for four intervals.
    let only_one = vec![Sample::value(0, 0.0)];
    assert_eq!(unanswered_ms(&rule, &only_one, 0, 30_000), 0);
    assert_eq!(unanswered_ms(&rule, &only_one, 0, 30_001), 30_001);
    assert_eq!(unanswered_ms(&rule, &[], 0, 30_001), 30_001);
}

fn counts() -> CustomRule {
    rule(CustomKind::Counts {
        bad: "bad".to_owned(),
        total: "total".to_owned(),
        max_ratio_milli: 2_000,
        floor_ppm: 1_000,
    })
}

/// Cumulative counts with these per interval.
fn growing(n: u32, canary_bad: f64, stable_bad: f64) -> Vec<Sample> {
    (0..n)
        .map(|i| {
            let times = f64::from(i);
            let counts = [canary_bad, 500.0, stable_bad, 500.0].map(|one| one * times);
            Sample::counts(i64::from(i) * 10_000, counts)
        })
        .collect()
}

#[test]
fn counts_of_the_users_own_go_through_the_same_test() {
    let (verdict, text) = over(&counts(), growing(10, 50.0, 2.0), 90_000, true);
    assert_eq!(verdict, Verdict::Abort, "{text}");
    assert!(text.starts_with("`checkout`: Rolled back: "), "{text}");
    let (verdict, text) = over(&counts(), growing(31, 2.0, 2.0), LENGTH, true);
    assert_eq!(verdict, Verdict::Pass, "{text}");
    let (verdict, _) = over(&counts(), growing(10, 50.0, 0.0), 90_000, false);
    assert_eq!(verdict, Verdict::Abort, "also when nothing runs beside it");
    let (verdict, _) = over(&counts(), growing(31, 1.0, 0.0), LENGTH, false);
    assert_eq!(verdict, Verdict::Pass);
}

#[test]
fn counts_that_went_down_say_nothing_about_that_time_and_impossible_ones_are_missing() {
    let mut samples = growing(10, 2.0, 2.0);
    // A pod left, and its counts with it.
    samples[5] = Sample::counts(50_000, [1.0, 20.0, 1.0, 20.0]);
    assert_eq!(pairs(&samples).len(), 8);
    for bad in [
        [2.0, 1.0, 0.0, 1.0],
        [-1.0, 1.0, 0.0, 1.0],
        [0.0, f64::NAN, 0.0, 1.0],
    ] {
        assert!(Sample::counts(0, bad).is_missing(), "{bad:?}");
    }
}
