//! Gates on simulated streams: how many healthy canaries each rule aborts, and how soon it sees a bad
//! one. Ours beside the literal rule and a fixed limit, on the same streams with the same seeds.

#![expect(clippy::print_stdout, reason = "a bench's data")]

use slipway_bench::figure::Figure;
use slipway_core::gate::simulation::{
    CELLS, Cell, Chance, End, Judge, Stream, bakes, canary, tally, watch,
};

/// Healthy bakes and worse ones of each cell.
const HEALTHY: u64 = 4_000;
const WORSE: u64 = 2_000;
/// What the other rule is.
const FIXED: &str = "fixed limit of twice the usual rate";

/// The highest share of healthy canaries that each rule aborted: ours, the literal one, a fixed limit.
#[derive(Default)]
struct Worst([f64; 3]);

impl Worst {
    fn see(&mut self, which: usize, aborted: f64) {
        if let Some(held) = self.0.get_mut(which) {
            *held = held.max(aborted);
        }
    }
}

fn main() {
    let mut worst = Worst::default();
    for cell in CELLS {
        one_cell(cell, &mut worst);
    }
    for (rps, rate) in [(5.0, 0.01), (20.0, 0.01), (20.0, 0.001), (100.0, 0.001)] {
        whole_canary(rps, rate, &mut worst);
    }
    for (burst, incident) in [(5.0, 1.0), (20.0, 1.0), (1.0, 5.0)] {
        burst_or_incident(burst, incident, &mut worst);
    }
    the_watch();
    figures(&worst);
}

fn one_cell(cell: Cell, worst: &mut Worst) {
    let (rps, weight, rate) = (cell.rps, cell.weight, cell.base_error);
    let healthy = Stream::plain(rps, rate, 1.0);
    let judges = [Judge::Sequential, Judge::LiteralEvery10, Judge::Fixed];
    let aborts = judges.map(|judge| bakes(judge, healthy, weight, HEALTHY).0);
    for (which, aborted) in aborts.into_iter().enumerate() {
        worst.see(which, aborted);
    }
    let caught = [2.0, 4.0, 10.0].map(|worse| {
        let stream = Stream::plain(rps, rate, worse);
        let (power, median, _) = bakes(Judge::Sequential, stream, weight, WORSE);
        serde_json::json!({ "worse": worse, "aborted": power, "median_s": median })
    });
    let line = serde_json::json!({
        "bench": "gate", "cell": { "rps": rps, "weight": weight, "base_error": rate },
        "healthy_abort": aborts[0], "literal_10s": aborts[1], "fixed_limit": aborts[2],
        "literal_at_end": bakes(Judge::LiteralAtEnd, healthy, weight, HEALTHY).0,
        "caught": caught,
    });
    println!("{line}");
}

fn whole_canary(rps: f64, rate: f64, worst: &mut Worst) {
    let run = |judge, worse| {
        let ends: Vec<End> = (0..HEALTHY / 4)
            .map(|seed| {
                canary(
                    judge,
                    Stream::plain(rps, rate, worse),
                    &mut Chance::new(seed),
                )
            })
            .collect();
        tally(&ends)
    };
    let (aborted, _, paused) = run(Judge::Sequential, 1.0);
    let (bad, _, held) = run(Judge::Sequential, 4.0);
    worst.see(0, aborted);
    let line = serde_json::json!({
        "bench": "gate", "canary": { "rps": rps, "base_error": rate },
        "healthy_abort": aborted, "healthy_pause": paused,
        "literal_10s": run(Judge::LiteralEvery10, 1.0).0,
        "four_times_worse_reaches_everything": (1.0 - bad - held).max(0.0),
    });
    println!("{line}");
}

fn burst_or_incident(burst: f64, incident: f64, worst: &mut Worst) {
    let stream = Stream {
        burst,
        incident,
        reads_phi: true,
        ..Stream::plain(100.0, 0.01, 1.0)
    };
    let blind = Stream {
        reads_phi: false,
        ..stream
    };
    let (aborted, _, _) = bakes(Judge::Sequential, stream, 0.10, HEALTHY);
    worst.see(0, aborted);
    let line = serde_json::json!({
        "bench": "gate", "burst": burst, "incident": incident, "healthy_abort": aborted,
        "without_dispersion": bakes(Judge::Sequential, blind, 0.10, HEALTHY).0,
    });
    println!("{line}");
}

fn the_watch() {
    let watched = |rps, rate| {
        let ends: Vec<End> = (0..WORSE)
            .map(|seed| watch(rps, rate, 300.0, &mut Chance::new(seed)))
            .collect();
        tally(&ends)
    };
    let (at_limit, _, _) = watched(100.0, 0.01);
    let (caught, median, _) = watched(100.0, 0.03);
    let line = serde_json::json!({
        "bench": "gate", "watch": { "limit": 0.01, "rps": 100 }, "at_limit": at_limit,
        "three_times": caught, "median_s": median,
    });
    println!("{line}");
}

fn figures(worst: &Worst) {
    let [ours, literal, fixed] = worst.0;
    let bad = Stream::plain(100.0, 0.01, 10.0);
    let (_, seen, _) = bakes(Judge::Sequential, bad, 0.10, WORSE);
    let (_, seen_fixed, _) = bakes(Judge::Fixed, bad, 0.10, WORSE);
    let figures = [
        (
            "healthy_abort_max",
            ours,
            "share",
            "literal rule every 10 s",
            literal,
        ),
        ("healthy_abort_max_fixed", ours, "share", FIXED, fixed),
        (
            "detect_10x_median",
            f64::from(seen),
            "s",
            FIXED,
            f64::from(seen_fixed),
        ),
    ];
    for (figure, value, unit, against, against_value) in figures {
        Figure {
            bench: "gate",
            figure,
            value,
            unit,
            against,
            against_value,
        }
        .print();
    }
}
