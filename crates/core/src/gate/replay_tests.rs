//! Verdicts over recorded ticks: their sentences, their order, and that judging again says the same.

use proptest::prelude::*;

use super::*;

fn tick(second: i64, canary: (u64, u64), stable: (u64, u64)) -> Tick {
    let counts = |(total, bad): (u64, u64)| Counts {
        total,
        bad,
        half_total: total / 2,
        half_bad: bad / 2,
        ..Counts::default()
    };
    Tick {
        t0: (second - 5) * 1_000,
        t1: second * 1_000,
        boot_id: "b1".to_owned(),
        canary: counts(canary),
        stable: counts(stable),
        trouble: None,
    }
}

fn errors_only() -> GateRules {
    GateRules {
        latency_p99: None,
        restarts: None,
        memory: None,
        ..GateRules::default()
    }
}

fn bake<'a>(rules: &'a GateRules, ticks: &'a [Tick]) -> Bake<'a> {
    Bake {
        rules,
        theta: 1_200.0,
        length_ms: 300_000,
        last: false,
        weight_bp: 1_000,
        began_at: 0,
        baseline: &[],
        ticks,
        custom: None,
        instances: None,
        now: ticks.last().map_or(0, |tick| tick.t1),
    }
}

#[test]
fn a_bad_canary_is_aborted_with_its_numbers_in_the_sentence() {
    let rules = errors_only();
    let ticks: Vec<Tick> = (1..=4).map(|i| tick(i * 5, (25, 5), (225, 1))).collect();
    let report = judge_bake(&bake(&rules, &ticks));
    assert_eq!(report.worst(), Verdict::Abort);
    assert_eq!(
        report.text(),
        "Rolled back: 10 of 50 canary requests failed (20 %), stable 0.44 %: 45.0× (limit 2×). \
         Chance if healthy: below 1 in 1 200."
    );
    let text = serde_json::to_string(&ticks).unwrap();
    let again: Vec<Tick> = serde_json::from_str(&text).unwrap();
    assert_eq!(judge_bake(&bake(&rules, &again)), report, "a replay");
}

#[test]
fn five_percent_errors_at_fifty_requests_a_second_are_seen_within_half_a_minute() {
    let rules = errors_only();
    // 10 % of 50/s: 25 requests a tick, of them 1.25 fail; stable fails one in a thousand.
    let ticks: Vec<Tick> = (1..=60)
        .map(|i| {
            tick(
                i * 5,
                (25, 1 + u64::from(i % 4 == 0)),
                (225, u64::from(i % 5 == 0)),
            )
        })
        .collect();
    let at = (1..=60)
        .find(|n| judge_bake(&bake(&rules, &ticks[..*n])).worst() == Verdict::Abort)
        .unwrap();
    assert!(at <= 12, "aborted after {} s", at * 5);
}

#[test]
fn a_healthy_canary_passes_or_goes_on_with_what_could_have_been_caught() {
    let rules = errors_only();
    let many: Vec<Tick> = (1..=60)
        .map(|i| tick(i * 5, (500, 5), (4_500, 45)))
        .collect();
    let report = judge_bake(&bake(&rules, &many));
    assert_eq!(report.worst(), Verdict::Pass);
    assert!(
        report.text().starts_with("Passed: 300 of 30 000"),
        "{}",
        report.text()
    );
    let few: Vec<Tick> = (1..=60).map(|i| tick(i * 5, (2, 0), (200, 2))).collect();
    let one_percent = |ticks| {
        let mut bake = bake(&rules, ticks);
        bake.weight_bp = 100;
        judge_bake(&bake)
    };
    let report = one_percent(&few);
    assert_eq!(report.worst(), Verdict::Inconclusive(Doubt::GoesOn));
    assert!(
        report.text().contains("would have been caught"),
        "{}",
        report.text()
    );
    let report = one_percent(&few[..30]);
    assert_eq!(report.worst(), Verdict::Continue);
}

/// I-44.
#[test]
fn canary_missing_metrics_holds() {
    let rules = errors_only();
    let good: Vec<Tick> = (1..=60)
        .map(|i| tick(i * 5, (500, 5), (4_500, 45)))
        .collect();
    let judged = |ticks: &[Tick], now: i64| {
        let mut bake = bake(&rules, ticks);
        bake.now = now;
        judge_bake(&bake).worst()
    };
    assert_eq!(judged(&good, 300_000), Verdict::Pass);
    assert_eq!(judged(&good, 316_000), Verdict::Blind, "stale");
    assert_eq!(judged(&[], 16_000), Verdict::Blind, "empty");
    let with = |change: fn(&mut Tick)| {
        let mut ticks = good.clone();
        change(ticks.last_mut().unwrap());
        judged(&ticks, 300_000)
    };
    assert_eq!(
        with(|t| t.trouble = Some("skew".to_owned())),
        Verdict::Blind
    );
    let elsewhere: Vec<Tick> = (1..=60).map(|i| tick(i * 5, (1, 0), (4_500, 45))).collect();
    assert_eq!(judged(&elsewhere, 300_000), Verdict::Blind, "routing");
    let impossible: Vec<Tick> = (1..=60)
        .map(|i| tick(i * 5, (5, 50), (4_500, 45)))
        .collect();
    assert_eq!(judged(&impossible, 300_000), Verdict::Blind, "absurd");
}

#[test]
fn the_literal_mode_acts_on_the_bare_numbers() {
    let mut rules = errors_only();
    rules.mode = Mode::Literal { every_ms: 10_000 };
    let ticks: Vec<Tick> = (1..=2).map(|i| tick(i * 5, (10, 1), (90, 1))).collect();
    let report = judge_bake(&bake(&rules, &ticks));
    assert_eq!(report.worst(), Verdict::Abort);
    assert!(
        report.text().ends_with("(literal rule)"),
        "{}",
        report.text()
    );
    rules.mode = Mode::Sequential;
    assert_eq!(judge_bake(&bake(&rules, &ticks)).worst(), Verdict::Continue);
    rules.error_rate = Some(ErrorRule {
        dry_run: true,
        ..ErrorRule::default()
    });
    rules.mode = Mode::Literal { every_ms: 10_000 };
    let report = judge_bake(&bake(&rules, &ticks));
    assert_eq!(
        report.worst(),
        Verdict::Pass,
        "a dry run is recorded and not acted on"
    );
    assert_eq!(report.verdicts[0].verdict, Verdict::Abort);
}

#[test]
fn a_slow_canary_is_aborted_and_one_that_is_just_as_slow_is_not() {
    use super::simulation::Chance;
    let rules = GateRules {
        error_rate: None,
        restarts: None,
        memory: None,
        ..GateRules::default()
    };
    let stream = |worse: f64| -> (Vec<Tick>, Vec<Tick>) {
        let mut chance = Chance::new(7);
        let mut make = |second: i64, canary: u32| {
            let mut one = tick(second, (0, 0), (0, 0));
            let mut draw = |factor: f64| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "microseconds"
                )]
                let micros = (20_000.0 * factor * (0.8 * chance.normal()).exp()) as u64;
                micros
            };
            for _ in 0..450 {
                one.stable.latency.record(draw(1.0));
            }
            for _ in 0..canary {
                one.canary.latency.record(draw(worse));
            }
            one
        };
        let baseline = (1..=60).map(|i| make(i * 5 - 300, 0)).collect();
        let ticks = (1..=60).map(|i| make(i * 5, 50)).collect();
        (baseline, ticks)
    };
    let judged = |worse| {
        let (baseline, ticks) = stream(worse);
        let mut bake = bake(&rules, &ticks);
        bake.baseline = &baseline;
        let mut at = None;
        for n in 1..=ticks.len() {
            bake.ticks = &ticks[..n];
            bake.now = ticks[n - 1].t1;
            if judge_bake(&bake).worst() == Verdict::Abort {
                at = Some(n * 5);
                break;
            }
        }
        at
    };
    assert!(judged(3.0).is_some_and(|at| at <= 40), "{:?}", judged(3.0));
    assert_eq!(judged(1.0), None);
    assert_eq!(judged(1.3), None);
}

#[test]
fn the_watch_judges_against_the_limit_or_twice_what_stable_had() {
    let rules = errors_only();
    let ticks: Vec<Tick> = (1..=10).map(|i| tick(i * 5, (100, 4), (0, 0))).collect();
    let watch = |baseline: &[Tick]| {
        let mut bake = bake(&rules, &ticks);
        bake.baseline = baseline;
        bake.weight_bp = 10_000;
        judge_watch(&bake)
    };
    assert_eq!(watch(&[]).worst(), Verdict::Abort);
    let as_bad: Vec<Tick> = (1..=10)
        .map(|i| tick(i * 5 - 60, (0, 0), (100, 3)))
        .collect();
    assert_eq!(watch(&as_bad).worst(), Verdict::Continue);
}

proptest! {
    #[test]
    fn absurd_counts_never_panic_and_are_never_a_pass(
        seen in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..20),
        length_ms in any::<u64>(), now in any::<i64>(), last in any::<bool>(),
    ) {
        let rules = errors_only();
        let ticks: Vec<Tick> = seen
            .iter()
            .zip(1_i64..)
            .map(|((a, b, c, d), i)| tick(i * 5, (*a, *b), (*c, *d)))
            .collect();
        let mut one = bake(&rules, &ticks);
        one.length_ms = length_ms;
        one.now = now;
        one.last = last;
        let report = judge_bake(&one);
        prop_assert_eq!(judge_bake(&one), report.clone());
        let _text = (report.text(), judge_watch(&one));
        if ticks.iter().all(|tick| !tick.is_usable()) && now > 20_000 {
            prop_assert_eq!(report.worst(), Verdict::Blind);
        }
    }
}
