//! The published figures, on simulated streams with fixed seeds.

use super::simulation::{CELLS, Chance, End, Judge, Stream, bakes, canary, tally, watch};

#[test]
fn a_healthy_canary_is_aborted_in_less_than_one_bake_in_a_hundred_of_every_cell() {
    for cell in CELLS {
        let (rps, weight, rate) = (cell.rps, cell.weight, cell.base_error);
        let stream = Stream::plain(rps, rate, 1.0);
        let (aborted, _, _) = bakes(Judge::Sequential, stream, weight, 1_000);
        assert!(aborted <= 0.01, "{rps}/s, {weight}, {rate}: {aborted}");
    }
}

#[test]
fn a_worse_canary_is_caught_as_often_as_published() {
    for cell in CELLS {
        let (rps, weight, rate) = (cell.rps, cell.weight, cell.base_error);
        for (worse, power) in [2.0, 4.0, 10.0].into_iter().zip(cell.power) {
            let stream = Stream::plain(rps, rate, worse);
            let (aborted, _, _) = bakes(Judge::Sequential, stream, weight, 1_000);
            assert!(
                aborted >= power - 0.05,
                "{rps}/s, {weight}, {rate}, {worse}×: {aborted}, published {power}"
            );
        }
    }
}

#[test]
fn ten_times_as_many_errors_at_ten_percent_are_seen_within_fifteen_seconds() {
    let stream = Stream::plain(100.0, 0.01, 10.0);
    let (aborted, median, _) = bakes(Judge::Sequential, stream, 0.10, 500);
    assert!(aborted > 0.99 && median <= 15, "{aborted} in {median} s");
}

#[test]
fn reading_dispersion_off_stable_costs_little_power() {
    for (worse, known) in [(2.0, 0.57), (4.0, 1.0)] {
        let stream = Stream {
            reads_phi: true,
            ..Stream::plain(100.0, 0.01, worse)
        };
        let (aborted, _, _) = bakes(Judge::Sequential, stream, 0.10, 500);
        assert!(
            aborted >= known - 0.15,
            "{worse}×: {aborted}, with φ known {known}"
        );
    }
}

#[test]
fn the_literal_rule_would_abort_what_the_sequential_one_lets_live() {
    let stream = Stream::plain(20.0, 0.01, 1.0);
    let (literal, _, _) = bakes(Judge::LiteralEvery10, stream, 0.01, 500);
    assert!(literal > 0.30, "{literal}");
}

#[test]
fn a_whole_healthy_canary_is_neither_aborted_nor_paused_more_than_once_in_a_hundred() {
    for (rps, rate) in [(5.0, 0.01), (20.0, 0.01), (20.0, 0.001), (100.0, 0.001)] {
        let ends: Vec<End> = (0..400)
            .map(|seed| {
                let stream = Stream::plain(rps, rate, 1.0);
                canary(Judge::Sequential, stream, &mut Chance::new(seed))
            })
            .collect();
        let (aborted, _, paused) = tally(&ends);
        assert!(
            aborted <= 0.01 && paused <= 0.01,
            "{rps}/s {rate}: {aborted} {paused}"
        );
    }
}

#[test]
fn bursts_and_shared_incidents_abort_no_healthy_canary() {
    for (burst, incident) in [(5.0, 1.0), (20.0, 1.0), (1.0, 5.0)] {
        let stream = Stream {
            burst,
            incident,
            reads_phi: true,
            ..Stream::plain(100.0, 0.01, 1.0)
        };
        let (aborted, _, _) = bakes(Judge::Sequential, stream, 0.10, 500);
        assert!(
            aborted <= 0.01,
            "burst {burst}, incident {incident}: {aborted}"
        );
    }
}

#[test]
fn the_watch_lets_the_limit_pass_and_catches_three_times_it() {
    let run = |rps, rate| {
        let ends: Vec<End> = (0..500)
            .map(|seed| watch(rps, rate, 300.0, &mut Chance::new(seed)))
            .collect();
        tally(&ends)
    };
    assert!(run(5.0, 0.01).0 <= 0.01);
    assert!(run(100.0, 0.01).0 <= 0.01);
    let (slow, median, _) = run(5.0, 0.03);
    assert!(
        (slow - 0.98).abs() < 0.05 && median <= 130,
        "{slow} {median}"
    );
    let (fast, median, _) = run(100.0, 0.03);
    assert!(fast > 0.99 && median <= 20, "{fast} {median}");
}

#[test]
fn the_detectable_effect_is_caught_three_times_in_four() {
    use super::{Terms, detectable};
    let terms = Terms {
        theta: 1_200.0,
        phi: 1.0,
        max_ratio: 2.0,
        floor: 0.001,
    };
    for cell in CELLS {
        let (rps, weight, rate) = (cell.rps, cell.weight, cell.base_error);
        let all = rps * 300.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few hundred thousand"
        )]
        let (canary, stable) = ((all * weight) as u64, (all * (1.0 - weight)) as u64);
        let ratio = detectable(canary, stable, rate, terms).unwrap();
        let stream = Stream::plain(rps, rate, ratio);
        let (aborted, _, _) = bakes(Judge::Sequential, stream, weight, 1_000);
        assert!(
            aborted >= 0.75,
            "{rps}/s, {weight}, {rate}, {ratio}×: {aborted}"
        );
    }
}
