//! What a rollout may and may not do, rule by rule.

use crate::manifest::{ManifestFile, Manifests};
use std::time::Duration;

use proptest::prelude::*;

use super::world::{Fate, Faults, NEW, OLD, World, pinned, plan_of};
use super::*;
use crate::access::Judgement;
use crate::pipeline::{SmokeCheck, Strategy};
use crate::traffic::FULL_BP;

const LIMIT: Duration = Duration::from_secs(3_600);

fn stepped(steps: &[u32]) -> RolloutPlan {
    let mut plan = plan_of(Kind::Rollout);
    plan.strategy = Strategy::Canary;
    plan.steps = steps
        .iter()
        .map(|w| Step {
            weight_bp: *w,
            bake_ms: 1_000,
            approval: false,
        })
        .collect();
    plan
}

#[test]
fn hostile_h100_weights_that_do_not_rise_to_everything_are_refused() {
    assert_eq!(stepped(&[]).check_steps(), Err(PlanError::NoSteps));
    assert_eq!(
        stepped(&[10_100]).check_steps(),
        Err(PlanError::Weight(0, 10_100))
    );
    assert_eq!(
        stepped(&[0, 10_000]).check_steps(),
        Err(PlanError::Weight(0, 0))
    );
    assert_eq!(
        stepped(&[100, 100, 10_000]).check_steps(),
        Err(PlanError::NotRising(1))
    );
    assert_eq!(
        stepped(&[5_000, 1_000]).check_steps(),
        Err(PlanError::NotRising(1))
    );
    assert_eq!(
        stepped(&[100, 9_999]).check_steps(),
        Err(PlanError::NotAll(9_999))
    );
    assert_eq!(stepped(&[100, 1_000, 10_000]).check_steps(), Ok(()));
    let mut long = stepped(&[10_000]);
    long.steps[0].bake_ms = u64::MAX;
    assert!(long.check_steps().is_err());
    // A negative pause and a third of a percent do not even read.
    let json = |step: &str| serde_json::from_str::<Step>(step).is_err();
    assert!(json(r#"{"weight_bp":100,"bake_ms":-1}"#) && json(r#"{"weight_bp":33.3,"bake_ms":1}"#));
}

#[test]
fn hostile_j1_a_plan_is_refused_whole_before_any_effect() {
    assert_eq!(plan_of(Kind::Rollout).check(), Ok(()));
    let with = |change: fn(&mut RolloutPlan)| {
        let mut plan = plan_of(Kind::Rollout);
        change(&mut plan);
        plan.check()
    };
    assert_eq!(
        with(|p| p.steps.push(p.steps[0])),
        Err(PlanError::NotRising(1))
    );
    assert!(with(|p| p.new.replicas = 0).is_err());
    assert!(with(|p| p.new.replicas = 101).is_err());
    assert!(with(|p| p.new.port = 0).is_err());
    assert!(with(|p| p.new.health_path = "health".to_owned()).is_err());
    assert!(with(|p| p.new.health_path = "/a\r\nX: y".to_owned()).is_err());
    assert!(with(|p| p.timings.watch_ms = u64::MAX).is_err());
    assert!(
        with(|p| {
            p.new.environment.insert("A=B".to_owned(), String::new());
        })
        .is_err()
    );
    let container = with(|p| {
        p.smoke.push(SmokeCheck::Container {
            image: "x".to_owned(),
            commands: vec![],
            timeout_ms: 1,
        });
    });
    assert_eq!(container, Err(PlanError::ContainerSmoke(1)));
}

#[test]
fn deploy_digest_pinned() {
    for bad in [
        "shop:latest",
        "shop",
        "",
        "shop@sha256:abc",
        "shop@md5:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "-x@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "a b@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "shop@sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let mut plan = plan_of(Kind::Rollout);
        plan.new.image = bad.to_owned();
        assert_eq!(plan.check(), Err(PlanError::NotPinned(bad.to_owned())));
    }
    assert!(is_pinned(&pinned()) && is_pinned(&format!("sha256:{}", "0".repeat(64))));
    let mut world = World::with_stable(Kind::Rollout);
    world.run(&[], LIMIT);
    assert!(world.started_images.iter().all(|image| *image == pinned()));
    assert_eq!(world.started_images.len(), 2);
}

#[test]
fn the_plan_hash_moves_with_everything_that_is_launched() {
    let base = plan_of(Kind::Rollout);
    let hash = base.hash("target");
    assert_eq!(hash, base.clone().hash("target"));
    assert_ne!(hash, base.hash("other target"));
    // What describes the pods: an approval of one text is none of another, nor of none.
    let described = |text: &str| {
        let mut plan = base.clone();
        let path = "deploy/shop.yaml".to_owned();
        let text = text.to_owned();
        plan.new.pods = Some(Manifests {
            files: vec![ManifestFile { path, text }],
            container: String::new(),
        });
        plan.hash("target")
    };
    assert_eq!(described("a: 1"), described("a: 1"));
    assert_ne!(described("a: 1"), described("a: 2"));
    assert_ne!(described(""), hash);
    let changes: [fn(&mut RolloutPlan); 7] = [
        |p| p.new.image = p.new.image.replace('a', "b"),
        |p| {
            p.new.environment.insert("A".to_owned(), "1".to_owned());
        },
        |p| p.facts.commit_sha = "other".to_owned(),
        |p| p.facts.pipeline_hash = "other".to_owned(),
        |p| p.facts.environment_id = "other".to_owned(),
        |p| p.new.replicas = 9,
        |p| p.smoke.clear(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut plan = base.clone();
        change(&mut plan);
        assert_ne!(plan.hash("target"), hash, "change {index} went unseen");
    }
}

#[test]
fn an_approval_that_became_void_is_asked_for_again_and_holds_no_lock() {
    let mut world = World::with_stable(Kind::Rollout);
    world.approval = Judgement::Granted {
        by: vec!["bob".to_owned()],
    };
    world.take_over();
    let mut fate = Fate::default();
    while world.lock.is_none() {
        assert!(world.turn(&mut fate).is_ok());
    }
    world.plan_changed = true;
    assert!(world.turn(&mut fate).is_ok());
    assert_eq!(world.state.phase, Phase::AwaitApproval);
    assert!(world.lock.is_none() && !world.target.contains_key(NEW));

    world.plan_changed = false;
    world.approval = Judgement::Rejected {
        by: "bob".to_owned(),
    };
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Failed);
    assert_eq!(world.state.reason.as_deref(), Some("rejected by bob"));
}

#[test]
fn a_rollback_waits_for_nobody() {
    let mut world = World::with_stable(Kind::Rollback);
    world.approval = Judgement::Pending {
        missing: 1,
        void: vec![],
    };
    world.plan_changed = true;
    world.plan.timings.watch_ms = 0;
    world.plan.timings.min_ready_ms = 0;
    let started = world.now;
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Succeeded);
    assert_eq!(world.creations, 0, "a warm version was started again");
    assert!(world.now.since(started) < Duration::from_secs(1));
}

#[test]
fn a_rollback_that_fails_leaves_the_instances_it_did_not_make() {
    let mut world = World::with_stable(Kind::Rollback);
    world.faults = Faults {
        unhealthy: true,
        ..Faults::default()
    };
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Failed);
    assert!(world.target.contains_key(NEW));
    assert_eq!(world.weight_of(OLD), FULL_BP);
}

#[test]
fn the_first_deployment_says_that_there_is_nothing_to_go_back_to() {
    let mut world = World::empty(Kind::Rollout);
    world.faults.bad_percent = 50;
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Failed);
    let reason = world.state.reason.clone().unwrap_or_default();
    assert!(reason.contains("this was the first deployment"), "{reason}");
    assert_eq!(world.weight_of(NEW), FULL_BP);
    world.assert_traffic_is_safe();
}

#[test]
fn an_environment_behind_staging_is_entered_only_after_it() {
    let mut world = World::with_stable(Kind::Rollout);
    world.barred = Some("the digest did not succeed in staging".to_owned());
    world.awaited = true;
    world.run(&[], Duration::from_secs(60));
    assert_eq!(world.state.phase, Phase::Planned, "staging is under way");
    world.awaited = false;
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Failed);
    assert_eq!(world.creations, 0);
}

#[test]
fn a_frozen_environment_lets_nothing_start_and_every_rollback_through() {
    let mut world = World::with_stable(Kind::Rollout);
    world.frozen = Some("frozen for another 60 min: holidays".to_owned());
    world.run(&[], Duration::from_secs(60));
    assert_eq!(world.state.phase, Phase::WaitLock);
    assert!(world.lock.is_none() && world.creations == 0);
    world.frozen = None;
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Succeeded);
    let mut back = World::with_stable(Kind::Rollback);
    back.frozen = Some("frozen".to_owned());
    back.run(&[], LIMIT);
    assert_eq!(back.state.phase, Phase::Succeeded);
}

fn canary(steps: &[u32]) -> World {
    let mut world = World::with_stable(Kind::Rollout);
    world.plan = RolloutPlan {
        smoke: vec![],
        ..stepped(steps)
    };
    world.plan.timings.watch_ms = 20_000;
    for step in &mut world.plan.steps {
        step.bake_ms = 20_000;
    }
    world
}

fn until(world: &mut World, phase: Phase) {
    world.take_over();
    let mut fate = Fate::default();
    for _ in 0..10_000 {
        if world.state.phase == phase {
            return;
        }
        assert!(world.turn(&mut fate).is_ok());
    }
    panic!("never {phase}: {:?}", world.history);
}

#[test]
fn a_version_that_the_router_took_out_goes_back_and_is_given_no_weight_again() {
    let mut world = canary(&[1_000, 10_000]);
    until(&mut world, Phase::Bake);
    world.router.tripped = Some("20 of 20 requests failed".to_owned());
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::RolledBack);
    let reason = world.state.reason.clone().unwrap_or_default();
    assert!(reason.contains("20 of 20"), "{reason}");
}

#[test]
fn a_canary_that_cannot_be_seen_holds_then_pauses_then_goes_back() {
    let mut world = canary(&[5_000, 10_000]);
    until(&mut world, Phase::Bake);
    world.router.readable = false;
    let mut fate = Fate::default();
    let began = world.now;
    while world.now.since(began) < Duration::from_secs(50) {
        assert!(world.turn(&mut fate).is_ok());
    }
    assert_eq!(
        (world.state.phase, world.weight_of(NEW)),
        (Phase::Bake, 5_000),
        "held"
    );
    // Counters come back: it goes on, and nothing was promoted meanwhile.
    world.router.readable = true;
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Succeeded);
}

#[test]
fn a_promotion_in_full_skips_the_steps_and_never_what_is_bad() {
    let mut world = canary(&[1_000, 5_000, 10_000]);
    until(&mut world, Phase::Bake);
    world.wish = Some(Wish::Promote { full: true });
    until(&mut world, Phase::Watch);
    assert_eq!(world.weight_of(NEW), FULL_BP);
    assert!(!world.history.contains(&Phase::Paused));
    let mut world = canary(&[1_000, 10_000]);
    until(&mut world, Phase::Bake);
    world.router.readable = false;
    world.wish = Some(Wish::Promote { full: true });
    let mut fate = Fate::default();
    for _ in 0..20 {
        assert!(world.turn(&mut fate).is_ok());
    }
    assert_eq!(world.weight_of(NEW), 1_000, "promoted blind");
}

#[test]
fn stable_that_died_is_started_again_before_it_gets_traffic_back() {
    let mut world = World::with_stable(Kind::Rollout);
    world.take_over();
    let mut fate = Fate::default();
    while world.state.phase != Phase::Watch {
        assert!(world.turn(&mut fate).is_ok());
    }
    world.target.remove(OLD);
    world.faults.bad_percent = 50;
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::RolledBack, "{:?}", world.history);
    assert_eq!(world.weight_of(OLD), FULL_BP);
}

#[test]
fn a_pause_keeps_the_watch_and_ends_by_itself() {
    let mut world = World::with_stable(Kind::Rollout);
    world.take_over();
    let mut fate = Fate::default();
    while world.state.phase != Phase::Watch {
        assert!(world.turn(&mut fate).is_ok());
    }
    world.wish = Some(Wish::Pause {
        reason: "look".to_owned(),
    });
    assert!(world.turn(&mut fate).is_ok());
    assert_eq!(world.state.phase, Phase::Paused);
    for _ in 0..20 {
        assert!(world.turn(&mut fate).is_ok());
    }
    assert_eq!(world.state.phase, Phase::Paused);
    world.wish = Some(Wish::Resume);
    assert!(world.turn(&mut fate).is_ok());
    assert_eq!(world.state.phase, Phase::Watch);
    assert!(
        world.now.since(world.state.entered_at) < Duration::from_secs(2),
        "pause counted"
    );
    world.run(&[], LIMIT);
    assert_eq!(world.state.phase, Phase::Succeeded);
}

#[test]
fn a_route_that_became_somebody_elses_waits_for_a_person_and_goes_back_without_one() {
    for (wish, then, ends) in [
        (Wish::Resume, Phase::Shift, Phase::Succeeded),
        (
            Wish::Abort {
                reason: "theirs".to_owned(),
            },
            Phase::ShiftBack,
            Phase::RolledBack,
        ),
    ] {
        let mut world = World::with_stable(Kind::Rollout);
        world.take_over();
        let mut fate = Fate::default();
        while !world.state.traffic_touched {
            assert!(world.turn(&mut fate).is_ok());
        }
        assert_eq!(world.state.phase, Phase::Shift);
        let mut pause = Transition::to(Phase::Paused, world.state.step_idx).because("theirs");
        pause.pause = PauseWhy::Foreign;
        world.state = world.state.entered(&pause, world.now, 3_600_000);
        // The weights are not those of the step, and that alone moves nothing.
        for _ in 0..20 {
            assert!(world.turn(&mut fate).is_ok());
            assert_eq!(world.state.phase, Phase::Paused);
        }
        world.wish = Some(wish);
        assert!(world.turn(&mut fate).is_ok());
        assert_eq!(world.state.phase, then);
        world.run(&[], LIMIT);
        assert_eq!(world.state.phase, ends);
    }
}

proptest! {
    #[test]
    fn traffic_weight_invariant(
        kills in proptest::collection::vec(1_usize..30, 0..6),
        bad_percent in 0_u64..60,
        lose_replies in 0_u32..5,
        abort_after in proptest::option::of(0_usize..60),
        rolling_back in any::<bool>(),
    ) {
        let kind = if rolling_back { Kind::Rollback } else { Kind::Rollout };
        let mut world = World::with_stable(kind);
        world.faults = Faults { bad_percent, lose_replies, ..Faults::default() };
        world.take_over();
        let mut fate = Fate::default();
        if let Some(turns) = abort_after {
            for _ in 0..turns {
                if world.turn(&mut fate).is_err() { break; }
                world.assert_traffic_is_safe();
            }
            world.wish = Some(Wish::Abort { reason: "x".to_owned() });
        }
        // `run` asserts after every turn that weights sum to 10 000 and point at live versions.
        world.run(&kills, LIMIT);
        prop_assert!(world.state.phase.is_terminal(), "{:?}", world.history);
        prop_assert_eq!(world.weight_of(OLD) + world.weight_of(NEW), FULL_BP);
    }
}
