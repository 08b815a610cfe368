//! Gates on simulated streams: how many healthy canaries each rule aborts, and how soon it sees a bad
//! one. Ours beside the literal rule and a fixed limit, on the same streams with the same seeds.

#![expect(clippy::print_stdout, reason = "a bench's data")]

use slipway_bench::figure::Figure;
use slipway_core::gate::simulation::{Chance, End, Judge, Stream, bake, canary, tally, watch};

/// Healthy bakes and worse ones of each cell.
const HEALTHY: u64 = 4_000;
const WORSE: u64 = 2_000;
/// Requests per second, weight, base error.
const CELLS: [(f64, f64, f64); 8] = [
    (20.0, 0.01, 0.01),
    (20.0, 0.10, 0.01),
    (100.0, 0.01, 0.01),
    (100.0, 0.10, 0.01),
    (100.0, 0.50, 0.001),
    (100.0, 0.50, 0.01),
    (1_000.0, 0.01, 0.001),
    (1_000.0, 0.10, 0.01),
];

fn bakes(judge: Judge, stream: Stream, weight: f64, count: u64) -> (f64, u32, f64) {
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

fn main() {
    let mut worst = [0.0_f64; 3];
    let judges = [Judge::Sequential, Judge::LiteralEvery10, Judge::Fixed];
    for (rps, weight, rate) in CELLS {
        let mut healthy = Vec::new();
        for (held, judge) in worst.iter_mut().zip(judges) {
            let (aborted, _, _) = bakes(judge, Stream::plain(rps, rate, 1.0), weight, HEALTHY);
            *held = held.max(aborted);
            healthy.push(aborted);
        }
        let at_end = bakes(
            Judge::LiteralAtEnd,
            Stream::plain(rps, rate, 1.0),
            weight,
            HEALTHY,
        )
        .0;
        let caught = [2.0, 4.0, 10.0].map(|worse| {
            let (power, median, _) = bakes(
                Judge::Sequential,
                Stream::plain(rps, rate, worse),
                weight,
                WORSE,
            );
            serde_json::json!({ "worse": worse, "aborted": power, "median_s": median })
        });
        let line = serde_json::json!({
            "bench": "gate", "cell": { "rps": rps, "weight": weight, "base_error": rate },
            "healthy_abort": healthy[0], "literal_10s": healthy[1], "literal_at_end": at_end,
            "fixed_limit": healthy[2], "caught": caught,
        });
        println!("{line}");
    }
    for (rps, rate) in [(5.0, 0.01), (20.0, 0.01), (20.0, 0.001), (100.0, 0.001)] {
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
        let (worse, _, held) = run(Judge::Sequential, 4.0);
        worst[0] = worst[0].max(aborted);
        let line = serde_json::json!({
            "bench": "gate", "canary": { "rps": rps, "base_error": rate },
            "healthy_abort": aborted, "healthy_pause": paused,
            "literal_10s": run(Judge::LiteralEvery10, 1.0).0,
            "four_times_worse_reaches_everything": 1.0 - worse - held,
        });
        println!("{line}");
    }
    for (burst, incident) in [(5.0, 1.0), (20.0, 1.0), (1.0, 5.0)] {
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
        worst[0] = worst[0].max(aborted);
        let line = serde_json::json!({
            "bench": "gate", "burst": burst, "incident": incident, "healthy_abort": aborted,
            "without_dispersion": bakes(Judge::Sequential, blind, 0.10, HEALTHY).0,
        });
        println!("{line}");
    }
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
    Figure {
        bench: "gate",
        figure: "healthy_abort_max",
        value: worst[0],
        unit: "share",
        against: "literal rule every 10 s",
        against_value: worst[1],
    }
    .print();
    Figure {
        bench: "gate",
        figure: "healthy_abort_max_fixed",
        value: worst[0],
        unit: "share",
        against: "fixed limit of twice the usual rate",
        against_value: worst[2],
    }
    .print();
    let bad = Stream::plain(100.0, 0.01, 10.0);
    let (_, ours, _) = bakes(Judge::Sequential, bad, 0.10, WORSE);
    let (_, fixed, _) = bakes(Judge::Fixed, bad, 0.10, WORSE);
    Figure {
        bench: "gate",
        figure: "detect_10x_median",
        value: f64::from(ours),
        unit: "s",
        against: "fixed limit of twice the usual rate",
        against_value: f64::from(fixed),
    }
    .print();
}
