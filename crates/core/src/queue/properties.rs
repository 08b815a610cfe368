//! Placement: properties, and the comparison with the order read naively.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{NOW, agent, apply, id, stage};
use super::*;
use super::{pass, reference, shard};
use crate::pipeline::Group;

fn any_agent() -> impl Strategy<Value = Agent> {
    (0..4_u32, 0..5_u8, any::<bool>(), 0..3_u8).prop_map(|(slots, state, connected, label)| Agent {
        state: match state {
            0 => AgentState::Draining,
            1 => AgentState::Quarantined,
            _ => AgentState::Ready,
        },
        connected: connected || state > 3,
        cpu_pressure: if state == 2 { 90.0 } else { 1.0 },
        labels: (0..label)
            .map(|l| (format!("l{l}"), "x".to_owned()))
            .collect(),
        ..agent(slots)
    })
}

prop_compose! {
    fn any_stage(n: u64)(
        (repo, priority, urgent, label) in (1..4_u64, 0..10_u8, any::<bool>(), 0..3_u8),
        (not_before, ready) in (0..20_000_i64, 0..4_i64),
        (group, build_group, begun) in (0..4_u8, 0..4_u8, any::<bool>()),
        (lost, near, build, weight) in (0..6_u64, 0..6_u64, 0..8_u64, 1..3_u32),
    ) -> Waiting {
        Waiting {
            priority: 4 + priority % 2,
            urgent: urgent && priority > 7,
            build: id(500 + build),
            weight: if repo == 1 { weight } else { 1 },
            labels: (0..label).map(|l| (format!("l{l}"), "x".to_owned())).collect(),
            not_before: Timestamp::from_millis(if not_before < 12_000 { 0 } else { not_before }),
            ready_at: Timestamp::from_millis(1_000 * ready),
            group: (group == 0).then(|| Group { name: "g".into(), limit: 2 }),
            build_group: (build_group == 0).then(|| Group {
                name: format!("b{}", repo % 2),
                limit: 1,
            }),
            build_begun: begun && build == 0,
            lost_by: (lost < 2).then(|| id(900 + lost)).into_iter().collect(),
            near: (near < 2).then(|| id(900 + near)),
            name: format!("s{}", n % 7),
            ..stage(n, repo)
        }
    }
}

proptest! {
    #[test]
    fn plans_have_no_flaw_are_repeatable_and_leave_nothing_to_do(
        agents in proptest::collection::vec(any_agent(), 0..6),
        stages in (0..40_u64).prop_flat_map(|count| (0..count).map(any_stage).collect::<Vec<_>>()),
    ) {
        let agents: BTreeMap<AgentId, Agent> = (900..).map(id).zip(agents).collect();
        let mut queue = Queue::new();
        stages.into_iter().for_each(|s| queue.put(s));
        let plan = queue.plan(&agents, NOW);
        prop_assert_eq!(check(&queue, &agents, NOW, &plan), vec![]);
        prop_assert_eq!(&plan, &queue.plan(&agents, NOW), "same input, same plan");
        apply(&mut queue, &plan);
        prop_assert!(queue.plan(&agents, NOW).assignments.is_empty(), "planning again yields nothing");
    }

    #[test]
    fn no_stage_waits_for_ever_while_slots_are_freed(
        stages in (1..60_u64).prop_flat_map(|count| (0..count).map(any_stage).collect::<Vec<_>>()),
    ) {
        // A build that has begun holds its group for ever here.
        let stages = stages.into_iter().map(|s| Waiting { build_begun: false, ..s });
        let agents: BTreeMap<AgentId, Agent> = [(id(900), Agent {
            labels: (0..3).map(|l| (format!("l{l}"), "x".to_owned())).collect(),
            ..agent(1)
        })].into();
        let mut queue = Queue::new();
        let count = stages.len();
        stages.into_iter().for_each(|s| queue.put(s));
        let later = Timestamp::from_millis(20_000);
        for _ in 0..count {
            let plan = queue.plan(&agents, later);
            prop_assert_eq!(plan.assignments.len(), 1);
            queue.remove(&plan.assignments[0].stage);
        }
        prop_assert!(queue.is_empty());
    }

    #[test]
    fn the_plan_is_the_stated_order_read_naively(
        agents in proptest::collection::vec(any_agent(), 0..6),
        stages in (0..50_u64).prop_flat_map(|count| (0..count).map(any_stage).collect::<Vec<_>>()),
        spent in proptest::collection::vec((1..4_u64, 0..200_u64, -2_000_000..0_i64), 0..5),
        ends in proptest::collection::vec((any::<prop::sample::Index>(), 0..3_u8), 0..12),
    ) {
        let agents: BTreeMap<AgentId, Agent> = (900..).map(id).zip(agents).collect();
        let mut queue = Queue::new();
        for (repo, seconds, ago) in spent {
            let at = Timestamp::from_millis(10_000 + ago);
            queue.spend(&id(repo), Duration::from_secs(seconds), at);
        }
        stages.into_iter().for_each(|s| queue.put(s));
        let mut clock = NOW;
        let mut over: BTreeMap<StageId, u8> = BTreeMap::new();
        for (pick, step) in ends {
            let expected = reference::plan(&queue, &agents, clock);
            let plan = queue.plan(&agents, clock);
            prop_assert_eq!(&plan.assignments, &expected);
            prop_assert_eq!(check(&queue, &agents, clock, &plan), vec![]);
            for stage in plan.assignments.iter().flat_map(|a| &a.over) {
                *over.entry(stage.clone()).or_default() += 1;
            }
            apply(&mut queue, &plan);
            // Something ends or comes back, and the clock goes on, or back.
            let held: Vec<(StageId, Held)> =
                queue.held().map(|(id, h)| (id.clone(), h.clone())).collect();
            if !held.is_empty() {
                let (ended, was) = pick.get(&held);
                queue.spend(&was.repo, Duration::from_secs(u64::from(step) * 7), clock);
                match step {
                    0 => queue.remove(ended),
                    1 => queue.put(Waiting {
                        lost_by: BTreeSet::from([was.agent.clone()]),
                        not_before: clock.after(Duration::from_secs(3)),
                        ..stage(1_000, 2)
                    }),
                    _ => {
                        queue.remove(ended);
                        queue.put(Waiting { build: was.build.clone(), ..stage(1_001, 3) });
                    }
                }
            }
            clock = if step == 2 {
                clock.before(Duration::from_secs(2)).max(Timestamp::EPOCH)
            } else {
                clock.after(Duration::from_secs(4))
            };
        }
        prop_assert!(over.values().all(|count| *count <= pass::BYPASS_MAX));
    }

    #[test]
    fn a_joining_or_leaving_agent_moves_only_its_own_share_of_the_keys(
        keys in proptest::collection::vec(any::<u64>(), 1..200),
        slots in proptest::collection::vec(1..9_u32, 2..20),
        gone in any::<prop::sample::Index>(),
    ) {
        let agents: Vec<(u64, u64, u32)> = slots
            .iter()
            .enumerate()
            .map(|(n, slots)| (n as u64, shard::seed(&id(900 + n as u64)), *slots))
            .collect();
        let gone = gone.index(agents.len()) as u64;
        for key in keys {
            let before = shard::homes(key, agents.iter().copied());
            let after = shard::homes(key, agents.iter().copied().filter(|a| a.0 != gone));
            if before.contains(&Some(gone)) {
                let stays = before.iter().flatten().filter(|home| **home != gone);
                prop_assert!(stays.clone().all(|home| after.contains(&Some(*home))));
            } else {
                prop_assert_eq!(before, after, "a key moved that was not its");
            }
        }
    }
}
