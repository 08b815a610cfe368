//! The coordinator dies at every border of durable work, and is started again: before and after every
//! intent, every effect and every change of phase, of every strategy, forward and back.
//!
//! `SLIPWAY_MATRIX=all` takes every border, which takes the better part of an hour. Otherwise a sample is
//! taken: for every kind of effect one of its borders. `SLIPWAY_SEED` repeats a sample.

mod direct;
mod frozen;
mod service;

use std::collections::BTreeSet;

use service::{Service, Way};
use slipway_daemon::{Clock, Rng};
use slipway_tests::require;

const STRATEGIES: [&str; 3] = ["blue-green", "canary", "rolling"];

#[expect(clippy::disallowed_methods, reason = "asked for on the command line")]
fn asked(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The borders that a rollout reached, in their order.
fn borders(service: &Service) -> Vec<String> {
    let text = std::fs::read_to_string(service.borders()).unwrap_or_default();
    let mut once = BTreeSet::new();
    let mut names = Vec::new();
    for line in text.lines() {
        // Old versions go in a scenario of their own.
        if !line.contains("retire_old") && once.insert(line.to_owned()) {
            names.push(line.to_owned());
        }
    }
    names
}

/// Where each kind of effect is sampled: the kinds together are all that there are.
fn sampled(strategy: &str, way: Way) -> &'static [&'static str] {
    match (strategy, way) {
        ("blue-green", Way::Forward) => &["ensure_new", "route", "seal"],
        ("blue-green", Way::Retired) => &["retire_old"],
        ("canary", Way::Aborted) => &["drain_new", "retire_new"],
        ("rolling", Way::Aborted) => &["park_stable", "ensure_stable"],
        _ => &[],
    }
}

fn every_border() -> bool {
    asked("SLIPWAY_MATRIX").as_deref() == Some("all")
}

/// Of each of these kinds of effect one border.
fn sample(kinds: &[&str], all: &[String], rng: &Rng) -> Vec<String> {
    let of_effect = |name: &&String, kind: &str| {
        let of_kind = name.contains(&format!(" {kind}#"));
        of_kind && !name.contains(" verified ") && !name.contains(" phase ")
    };
    let pick = |kind: &&str| {
        let mine: Vec<&String> = all.iter().filter(|name| of_effect(name, kind)).collect();
        let count = u64::try_from(mine.len()).expect("few");
        assert!(count > 0, "no {kind} in {all:?}");
        let at = usize::try_from(rng.number() % count).expect("few");
        mine[at].clone()
    };
    kinds.iter().map(pick).collect()
}

fn rng() -> Rng {
    match asked("SLIPWAY_SEED") {
        Some(seed) => Rng::seeded(seed.parse().expect("a number")),
        None => Rng::system(),
    }
}

/// What a matrix came to.
#[derive(Default)]
struct Figures {
    cells: u32,
    crashes: u32,
    unreached: Vec<String>,
}

impl Figures {
    #[expect(clippy::print_stderr, reason = "a whole matrix takes long")]
    fn count(&mut self, crashed: bool, cell: String) {
        eprintln!(
            "{cell}: {}",
            if crashed {
                "died and ended"
            } else {
                "not reached"
            }
        );
        self.cells += 1;
        if crashed {
            self.crashes += 1;
        } else {
            self.unreached.push(cell);
        }
    }
}

/// One cell: the rollout ends as if nobody had died.
async fn cell(service: &mut Service, way: Way, strategy: &str, at: Option<&str>) -> bool {
    let stable = service.serving().await;
    let was = service.word().await;
    let other = if was == "one" { "two" } else { "one" };
    let done = service.carry_out(way, strategy, other, at).await;
    let what = format!("{strategy} {way:?} at {at:?}: {:#?}", done.row);
    let (status, version, word) = match way {
        Way::Aborted => ("rolled_back", stable, was),
        Way::RolledBack => ("completed", stable, was),
        Way::Forward | Way::Retired => ("completed", done.row.target_version.clone(), other.into()),
    };
    assert_eq!(done.row.status, status, "{what}");
    assert_eq!(service.serving().await, version, "{what}");
    assert_eq!(service.word().await, word, "{what}");
    let left = service.leftovers().await;
    assert!(left.is_empty(), "{left:?} is left by {what}");
    done.crashed
}

/// Every chosen border of one strategy and way.
async fn matrix(service: &mut Service, way: Way, strategy: &str, figures: &mut Figures) {
    let kinds = sampled(strategy, way);
    if kinds.is_empty() && !every_border() {
        return;
    }
    let _none = std::fs::remove_file(service.borders());
    cell(service, way, strategy, None).await;
    let all = borders(service);
    let chosen = match every_border() {
        true => all,
        false => sample(kinds, &all, &rng()),
    };
    for at in chosen {
        let crashed = cell(service, way, strategy, Some(&at)).await;
        figures.count(crashed, format!("{strategy} {way:?}: {at}"));
    }
}

/// Old versions go while the coordinator dies.
async fn retirement(service: &mut Service, figures: &mut Figures) {
    let borders = [
        "before intent",
        "after intent",
        "after effect",
        "after applied",
    ];
    let all = borders.map(|border| format!("{border} retire_old#1"));
    let chosen = match every_border() {
        true => all.to_vec(),
        false => sample(sampled("blue-green", Way::Retired), &all, &rng()),
    };
    for at in chosen {
        cell(service, Way::Retired, "blue-green", None).await;
        let crashed = service.retire_old(Some(&at)).await;
        figures.count(crashed, at);
    }
}

async fn strategy(strategy: &'static str) -> Figures {
    let mut service = Service::start(strategy).await;
    let mut figures = Figures::default();
    for way in [Way::Forward, Way::Aborted, Way::RolledBack] {
        matrix(&mut service, way, strategy, &mut figures).await;
    }
    if strategy == "blue-green" {
        retirement(&mut service, &mut figures).await;
    }
    let (answered, failures) = service.clients_saw().await;
    assert!(answered > 100, "only {answered} requests");
    let first = failures.first();
    assert_eq!(failures.len(), 0, "of {answered}: {first:?}");
    figures
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "the figures of a whole matrix")]
async fn deploy_crash_matrix_over_real_processes() {
    if require("docker").is_none() {
        return;
    }
    let clock = Clock::system();
    let begun = clock.monotonic();
    let mut under_way = tokio::task::JoinSet::new();
    for name in STRATEGIES {
        under_way.spawn(strategy(name));
    }
    let mut sum = Figures::default();
    while let Some(done) = under_way.join_next().await {
        let one = done.expect("every cell ends as it must");
        sum.cells += one.cells;
        sum.crashes += one.crashes;
        sum.unreached.extend(one.unreached);
    }
    let took = clock.monotonic() - begun;
    eprintln!("{} cells, {} deaths, {took:?}", sum.cells, sum.crashes);
    // Which looks are needed depends on time: a few borders of the first run are not reached again.
    let few = sum.cells / 10 + 1;
    let unreached = sum.unreached.len();
    assert!(
        unreached <= usize::try_from(few).expect("few"),
        "{:?}",
        sum.unreached
    );
}
