//! How long a way back may take, and what it may need.

use std::time::Duration;

use super::crash_tests::stepwise;
use super::world::{Fate, Faults, OLD, World};
use super::*;
use crate::access::Judgement;
use crate::pipeline::Strategy;
use crate::traffic::FULL_BP;

/// From the wish until stable has all traffic, at the given weight of the new version.
fn way_back(mut world: World, weight_bp: u32) -> Duration {
    world.take_over();
    let mut fate = Fate::default();
    let looking = |world: &World| {
        matches!(world.state.phase, Phase::Bake | Phase::Watch)
            && world.weight_of(super::world::NEW) == weight_bp
    };
    for _ in 0..10_000 {
        if looking(&world) {
            break;
        }
        assert!(world.turn(&mut fate).is_ok());
    }
    assert!(looking(&world), "never at {weight_bp}: {:?}", world.history);
    let asked = world.now;
    world.wish = Some(Wish::Abort {
        reason: "bad".to_owned(),
    });
    while world.weight_of(OLD) != FULL_BP {
        assert!(world.turn(&mut fate).is_ok());
        world.assert_traffic_is_safe();
    }
    let took = world.now.since(asked);
    world.run(&[], Duration::from_secs(3_600));
    assert_eq!(world.state.phase, Phase::RolledBack);
    took
}

#[test]
fn rollback_any_2min() {
    // Slow stores and slow targets: half a second a write, five seconds an effect.
    let slow = Faults {
        write_ms: 500,
        effect_ms: 5_000,
        ..Faults::default()
    };
    let steps = |strategy, weights: &[u32]| {
        let mut world = stepwise(strategy, slow);
        world.plan.steps = weights
            .iter()
            .map(|weight_bp| Step {
                weight_bp: *weight_bp,
                bake_ms: 60_000,
                approval: false,
            })
            .collect();
        world.plan.timings.watch_ms = 60_000;
        world
    };
    let canary = [100, 1_000, 5_000, FULL_BP];
    let rolling = [5_000, FULL_BP];
    let cases = [
        (Strategy::Canary, &canary[..]),
        (Strategy::Rolling, &rolling[..]),
        (Strategy::BlueGreen, &[FULL_BP][..]),
    ];
    for (strategy, weights) in cases {
        for weight in weights {
            let took = way_back(steps(strategy, weights), *weight);
            let limit = Duration::from_secs(120);
            assert!(took < limit, "{strategy:?} at {weight} bp took {took:?}");
        }
    }
}

#[test]
fn rollback_no_dependencies() {
    // Nobody approves, the place is frozen, and the environment before it never succeeded.
    let mut world = World::with_stable(Kind::Rollback);
    world.approval = Judgement::Pending {
        missing: 1,
        void: vec![],
    };
    world.frozen = Some("frozen".to_owned());
    world.barred = Some("staging has not succeeded".to_owned());
    world.plan_changed = true;
    world.run(&[], Duration::from_secs(120));
    assert_eq!(world.state.phase, Phase::Succeeded, "{:?}", world.history);
    assert_eq!(world.creations, 0, "warm instances were made again");
    assert!(world.started_images.is_empty(), "an image was asked for");
}
