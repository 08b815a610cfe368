//! The coordinator is killed before and after every intent, effect and write, twice.

use std::time::Duration;

use super::world::{Faults, NEW, OLD, World};
use super::*;
use crate::pipeline::Strategy;
use crate::traffic::{FULL_BP, Fence};

const LIMIT: Duration = Duration::from_secs(3_600);

type Scenario = (&'static str, fn() -> World, Phase, &'static str);

fn with(faults: Faults) -> World {
    let mut world = World::with_stable(Kind::Rollout);
    world.faults = faults;
    world
}

/// Three steps of a quarter of a minute.
pub(super) fn stepwise(strategy: Strategy, faults: Faults) -> World {
    let mut world = with(faults);
    world.plan.strategy = strategy;
    let weights: &[u32] = match strategy {
        Strategy::Canary => &[1_000, 5_000, 10_000],
        _ => &[5_000, 10_000],
    };
    world.plan.steps = weights
        .iter()
        .map(|weight| Step {
            weight_bp: *weight,
            bake_ms: 15_000,
            approval: false,
        })
        .collect();
    world
}

fn stepwise_scenarios() -> Vec<Scenario> {
    vec![
        (
            "canary, good",
            || stepwise(Strategy::Canary, Faults::default()),
            Phase::Succeeded,
            NEW,
        ),
        (
            "canary, bad",
            || {
                stepwise(
                    Strategy::Canary,
                    Faults {
                        bad_percent: 40,
                        ..Faults::default()
                    },
                )
            },
            Phase::RolledBack,
            OLD,
        ),
        (
            "rolling, good",
            || stepwise(Strategy::Rolling, Faults::default()),
            Phase::Succeeded,
            NEW,
        ),
        (
            "rolling, bad",
            || {
                stepwise(
                    Strategy::Rolling,
                    Faults {
                        bad_percent: 40,
                        ..Faults::default()
                    },
                )
            },
            Phase::RolledBack,
            OLD,
        ),
    ]
}

fn scenarios() -> Vec<Scenario> {
    vec![
        ("good", || with(Faults::default()), Phase::Succeeded, NEW),
        (
            "first",
            || World::empty(Kind::Rollout),
            Phase::Succeeded,
            NEW,
        ),
        (
            "rollback",
            || World::with_stable(Kind::Rollback),
            Phase::Succeeded,
            NEW,
        ),
        (
            "never healthy",
            || {
                with(Faults {
                    unhealthy: true,
                    ..Faults::default()
                })
            },
            Phase::Failed,
            OLD,
        ),
        (
            "smoke fails",
            || {
                with(Faults {
                    smoke_fails: true,
                    ..Faults::default()
                })
            },
            Phase::Failed,
            OLD,
        ),
        (
            "bad under traffic",
            || {
                with(Faults {
                    bad_percent: 40,
                    ..Faults::default()
                })
            },
            Phase::RolledBack,
            OLD,
        ),
        (
            "replies lost",
            || {
                with(Faults {
                    lose_replies: 3,
                    repeat: 2,
                    bad_percent: 40,
                    ..Faults::default()
                })
            },
            Phase::RolledBack,
            OLD,
        ),
    ]
}

fn assert_ended(world: &World, name: &str, kills: &[usize], phase: Phase, traffic: &str) {
    let at = format!("{name}, killed at {kills:?}: {:?}", world.history);
    assert_eq!(world.state.phase, phase, "{at}");
    assert_eq!(world.weight_of(traffic), FULL_BP, "{at}");
    assert!(world.lock.is_none(), "the lock was left behind: {at}");
    let new_lives = world.target.contains_key(NEW);
    assert_eq!(
        new_lives,
        phase == Phase::Succeeded,
        "left-over instances: {at}"
    );
}

#[test]
fn deploy_crash_matrix() {
    let mut runs = 0;
    for (name, make, phase, traffic) in stepwise_scenarios().into_iter().chain(scenarios()) {
        let mut golden = make();
        let points = golden.run(&[], LIMIT);
        assert_ended(&golden, name, &[], phase, traffic);
        assert!(points > 10, "{name}: only {points} points");
        for first in 1..=points {
            for second in 1..=points {
                let mut world = make();
                world.run(&[first, second], LIMIT);
                assert_ended(&world, name, &[first, second], phase, traffic);
                runs += 1;
            }
        }
    }
    assert!(runs > 3_000, "only {runs} runs");
}

#[test]
fn deploy_crash_matrix_with_an_abort_at_every_point() {
    let mut golden = with(Faults::default());
    let points = golden.run(&[], LIMIT);
    for at in 1..points {
        for kill in [1, 2, 3, 4, 5, 7, 9, 12] {
            let mut world = with(Faults::default());
            world.take_over();
            // Killed at the point; the wish comes in, and the next owner reads it.
            let mut fate = world::Fate {
                passed: 0,
                kill_at: Some(at),
            };
            while world.turn(&mut fate).is_ok() && !world.state.phase.is_terminal() {}
            let before = world.state.phase;
            world.wish = Some(Wish::Abort {
                reason: "changed my mind".to_owned(),
            });
            world.run(&[kill], LIMIT);
            let end = world.state.phase;
            let expected = if before == Phase::Succeeded {
                Phase::Succeeded
            } else if world.state.traffic_touched {
                Phase::RolledBack
            } else {
                Phase::Failed
            };
            assert_eq!(
                end, expected,
                "abort at {at} in {before}: {:?}",
                world.history
            );
            let traffic = if end == Phase::Succeeded { NEW } else { OLD };
            assert_eq!(world.weight_of(traffic), FULL_BP);
        }
    }
}

#[test]
fn deploy_step_idempotent() {
    for repeat in 1..=3 {
        for lose_replies in 0..=6 {
            for bad_percent in [0, 40] {
                let faults = Faults {
                    repeat,
                    lose_replies,
                    bad_percent,
                    ..Faults::default()
                };
                let mut world = with(faults);
                world.run(&[], LIMIT);
                let at = format!("repeat {repeat}, lost {lose_replies}, bad {bad_percent}");
                let end = if bad_percent > 0 {
                    Phase::RolledBack
                } else {
                    Phase::Succeeded
                };
                assert_eq!(world.state.phase, end, "{at}");
                assert_eq!(world.creations, 2, "{at}: instances were created twice");
                assert_eq!(world.router.refused, 0, "{at}: a repetition was refused");
                // There and back, or there and for good.
                assert_eq!(world.router.commits, 2, "{at}");
            }
        }
    }
}

#[test]
fn deploy_env_lock_fencing() {
    // An old coordinator wakes up inside its effect after a new one took over.
    let mut world = with(Faults {
        bad_percent: 40,
        ..Faults::default()
    });
    world.take_over();
    let mut fate = world::Fate::default();
    while !matches!(
        world.state.step,
        Some(StepState {
            effect: Effect::Route { .. },
            ..
        })
    ) {
        assert!(world.turn(&mut fate).is_ok());
    }
    let step = world.state.step.clone().expect("an intent to route");
    let stale = Fence {
        token: step.token,
        generation: step.generation,
    };
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::RolledBack);
    assert!(!world.effect(Effect::Route { new_bp: 0 }, stale));
    assert!(!world.effect(
        Effect::Route { new_bp: 0 },
        Fence {
            generation: u64::MAX,
            ..stale
        }
    ));
    assert_eq!(world.weight_of(OLD), FULL_BP);

    // And the planner itself stops as soon as the lock is not its own.
    let mut world = with(Faults::default());
    world.take_over();
    while world.state.phase != Phase::Warm {
        assert!(world.turn(&mut fate).is_ok());
    }
    world.lock = Some(Held {
        holder: "deployment-2".to_owned(),
        token: 99,
        expires_at: world.now.after(LOCK_TTL),
    });
    assert_eq!(world.decision().next, Next::Stop);
}

#[test]
fn deploy_unknown_outcome_readback() {
    // The router commits and never answers: the read-back decides, and nothing is done twice.
    let mut world = with(Faults {
        lose_replies: u32::MAX,
        ..Faults::default()
    });
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Succeeded);
    assert_eq!((world.router.commits, world.creations), (2, 2));

    // It cannot be read either: no step is taken for done, and the rollout ends.
    let mut world = with(Faults::default());
    world.router.readable = false;
    world.run(&[], Duration::from_secs(1_200));
    assert_eq!(world.state.phase, Phase::Held, "{:?}", world.history);
    assert_eq!(world.weight_of(OLD), FULL_BP);
    assert!(world.lock.is_some(), "HELD keeps the lock");
    // Once it can be read again, the way back is proven and ends.
    world.router.readable = true;
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::RolledBack);
}

#[test]
fn rollback_bluegreen_30s() {
    // 200 repetitions over slow stores, slow routers and every moment of WATCH.
    let mut slowest = Duration::ZERO;
    for round in 0..200_u64 {
        let mut world = with(Faults {
            write_ms: 1 + round * 7 % 500,
            effect_ms: 1 + round * 13 % 2_000,
            ..Faults::default()
        });
        world.take_over();
        let mut fate = world::Fate::default();
        while world.state.phase != Phase::Watch {
            assert!(world.turn(&mut fate).is_ok());
        }
        world.pass(Duration::from_millis(round * 90));
        let asked = world.now;
        world.wish = Some(Wish::Abort {
            reason: "bad".to_owned(),
        });
        while world.weight_of(OLD) != FULL_BP {
            assert!(world.turn(&mut fate).is_ok());
        }
        slowest = slowest.max(world.now.since(asked));
        world.run(&[], LIMIT);
        assert_eq!(world.state.phase, Phase::RolledBack);
    }
    assert!(
        slowest < Duration::from_secs(30),
        "slowest way back: {slowest:?}"
    );
}
