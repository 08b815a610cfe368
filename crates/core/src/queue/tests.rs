//! Placement: examples and properties.

use proptest::prelude::*;

use std::collections::BTreeSet;

use super::*;
use super::{pass, reference, shard};
use crate::pipeline::Group;

fn id<T: std::str::FromStr>(n: u64) -> T {
    let text = format!("{n:026}");
    match text.parse() {
        Ok(id) => id,
        Err(_) => panic!("not an id: {text}"),
    }
}

fn agent(slots: u32) -> Agent {
    Agent {
        state: AgentState::Ready,
        connected: true,
        silent: Duration::ZERO,
        silent_max: Duration::from_secs(40),
        slots,
        labels: BTreeMap::new(),
        disk_free: 90.0,
        cpu_pressure: 0.0,
        memory_pressure: 0.0,
    }
}

fn stage(n: u64, repo: u64) -> Waiting {
    Waiting {
        stage: id(n),
        attempt: 0,
        build: id(n / 4),
        repo: id(repo),
        weight: 1,
        name: format!("s{}", n % 4),
        cache_key: String::new(),
        priority: 5,
        urgent: false,
        ready_at: Timestamp::from_millis(1_000),
        not_before: Timestamp::EPOCH,
        labels: BTreeMap::new(),
        group: None,
        build_group: None,
        build_begun: false,
        critical: Duration::from_secs(60),
        lost_by: BTreeSet::new(),
        near: None,
    }
}

fn held(stage: &Waiting, agent: &AgentId) -> Held {
    Held::of(stage, agent)
}

fn apply(queue: &mut Queue, plan: &Plan) {
    for a in &plan.assignments {
        queue.grant(a).unwrap();
    }
}

const NOW: Timestamp = Timestamp::from_millis(10_000);

fn fleet(slots: &[u32]) -> BTreeMap<AgentId, Agent> {
    (900..)
        .zip(slots)
        .map(|(n, slots)| (id(n), agent(*slots)))
        .collect()
}

#[test]
fn queue_fairness() {
    // One repository with 10 000 stages, another with one: it starts within N freed slots.
    let mut queue = Queue::new();
    (0..10_000).for_each(|n| queue.put(stage(n, 1)));
    let agents = fleet(&[2, 2]);
    let first = queue.plan(&agents, NOW);
    assert_eq!(first.assignments.len(), 4);
    apply(&mut queue, &first);
    let mut lone = stage(20_000, 2);
    lone.priority = 0;
    queue.put(lone.clone());
    queue.remove(&first.assignments[0].stage);
    let next = queue.plan(&agents, NOW);
    assert_eq!(next.assignments.len(), 1);
    assert_eq!(next.assignments[0].stage, lone.stage);
}

#[test]
fn urgent_goes_first_then_priority_then_the_longest_way_then_age() {
    let agents = fleet(&[1]);
    let order = |stages: Vec<Waiting>| {
        let mut queue = Queue::new();
        stages.into_iter().for_each(|s| queue.put(s));
        let mut order = Vec::new();
        while let Some(a) = queue.plan(&agents, NOW).assignments.into_iter().next() {
            queue.remove(&a.stage);
            order.push(a.stage);
        }
        order
    };
    let urgent = Waiting {
        urgent: true,
        priority: 0,
        ..stage(5, 1)
    };
    let high = Waiting {
        priority: 9,
        ..stage(4, 1)
    };
    let long = Waiting {
        critical: Duration::from_secs(600),
        ..stage(3, 1)
    };
    let old = stage(1, 1);
    let young = stage(2, 1);
    let expected: Vec<StageId> = [5, 4, 3, 1, 2].map(id).to_vec();
    assert_eq!(order(vec![young, old, long, high, urgent]), expected);
    // Ten minutes of waiting are worth one step of priority.
    let patient = Waiting {
        priority: 4,
        ready_at: Timestamp::EPOCH,
        ..stage(1, 1)
    };
    let later = AGING + Duration::from_millis(1);
    let fresh = Waiting {
        ready_at: Timestamp::EPOCH.after(later),
        ..stage(2, 1)
    };
    assert_eq!(order(vec![fresh, patient]), [1, 2].map(id).to_vec());
}

#[test]
fn a_stage_that_nobody_can_take_does_not_block_the_line_and_says_why() {
    let mut queue = Queue::new();
    let mut gpu = stage(1, 1);
    gpu.labels.insert("gpu".into(), "a100".into());
    queue.put(gpu.clone());
    queue.put(stage(2, 1));
    let agents = fleet(&[1]);
    let plan = queue.plan(&agents, NOW);
    assert_eq!(plan.assignments.len(), 1);
    assert_eq!(plan.assignments[0].stage, id(2));
    let why = queue.explain(&gpu.stage, &agents, NOW);
    assert_eq!(why.to_string(), "no agent with `gpu=a100`");
    assert_eq!(
        queue.explain(&gpu.stage, &BTreeMap::new(), NOW),
        Reason::NoAgents
    );
}

#[test]
fn a_concurrency_group_is_never_overfull_and_is_named_as_the_reason() {
    let mut queue = Queue::new();
    for n in 1..=3 {
        let group = Some(Group {
            name: "deploy".into(),
            limit: 1,
        });
        queue.put(Waiting {
            group,
            ..stage(n, 1)
        });
    }
    let agents = fleet(&[4]);
    let plan = queue.plan(&agents, NOW);
    assert_eq!(plan.assignments.len(), 1);
    apply(&mut queue, &plan);
    assert!(queue.plan(&agents, NOW).assignments.is_empty());
    assert_eq!(
        queue.explain(&id(2), &agents, NOW),
        Reason::Group("deploy".into())
    );
}

#[test]
fn a_group_is_a_repositorys_own_and_is_shown_as_it_was_written() {
    let written = Group {
        name: "production: eu".to_owned(),
        limit: 1,
    };
    let [one, two] = ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAW"]
        .map(|id| written.of(&id.parse().unwrap()));
    assert_ne!(one, two);
    assert_eq!(
        Reason::Group(one.name).to_string(),
        "concurrency group `production: eu` is full"
    );
    let private = "matrix/01ARZ3NDEKTSV4RRFFQ69G5FAV/test";
    assert_eq!(Group::written(private), private);
}

#[test]
fn a_build_keeps_its_group_between_two_of_its_stages() {
    let group = || {
        Some(Group {
            name: "main".into(),
            limit: 1,
        })
    };
    let mut queue = Queue::new();
    let begun = Waiting {
        build_group: group(),
        build_begun: true,
        build: id(50),
        ..stage(9, 1)
    };
    let other = Waiting {
        build_group: group(),
        build: id(51),
        ..stage(1, 1)
    };
    queue.put(begun);
    queue.put(other);
    let plan = queue.plan(&fleet(&[4]), NOW);
    assert_eq!(plan.assignments.len(), 1);
    assert_eq!(plan.assignments[0].stage, id(9));
}

#[test]
fn a_back_off_is_kept_and_woken_up_for() {
    let mut queue = Queue::new();
    let until = Timestamp::from_millis(15_000);
    queue.put(Waiting {
        not_before: until,
        ..stage(1, 1)
    });
    let agents = fleet(&[1]);
    let plan = queue.plan(&agents, NOW);
    assert_eq!((plan.assignments.len(), plan.wake_at), (0, Some(until)));
    assert_eq!(queue.explain(&id(1), &agents, NOW), Reason::BackOff(5_000));
    assert_eq!(queue.plan(&agents, until).assignments.len(), 1);
}

#[test]
fn the_agent_that_lost_a_stage_does_not_get_it_again_while_there_is_another() {
    let mut agents = fleet(&[1, 1]);
    let ids: Vec<AgentId> = agents.keys().cloned().collect();
    let mut queue = Queue::new();
    queue.put(Waiting {
        lost_by: BTreeSet::from([ids[0].clone()]),
        ..stage(1, 1)
    });
    assert_eq!(queue.plan(&agents, NOW).assignments[0].agent, ids[1]);
    // Busy is not gone: it waits for the other one.
    let other = stage(9, 1);
    queue.hold(other.stage.clone(), held(&other, &ids[1]));
    assert!(queue.plan(&agents, NOW).assignments.is_empty());
    // Alone in the fleet it must try again itself.
    agents.remove(&ids[1]);
    assert_eq!(queue.plan(&agents, NOW).assignments[0].agent, ids[0]);
}

#[test]
fn a_successor_goes_where_its_input_is() {
    let agents = fleet(&[2, 2, 2, 2]);
    for near in agents.keys() {
        let mut queue = Queue::new();
        queue.put(Waiting {
            near: Some(near.clone()),
            ..stage(1, 1)
        });
        assert_eq!(&queue.plan(&agents, NOW).assignments[0].agent, near);
    }
}

/// Frees slots one after the other; the order in which stages were given out.
fn drain(queue: &mut Queue, agents: &BTreeMap<AgentId, Agent>) -> Vec<Assignment> {
    let mut given = Vec::new();
    while !queue.is_empty() {
        let plan = queue.plan(agents, NOW);
        assert!(!plan.assignments.is_empty());
        apply(queue, &plan);
        given.extend(plan.assignments);
        let first = queue.held().next().map(|(id, _)| id.clone()).unwrap();
        queue.remove(&first);
    }
    given
}

#[test]
fn a_freed_slot_prefers_a_stage_it_is_home_to_and_passes_none_over_more_than_three_times() {
    let agents = fleet(&[1; 8]);
    let mut queue = Queue::new();
    for n in 0..400 {
        queue.put(Waiting {
            name: format!("s{n}"),
            ..stage(n, 1)
        });
    }
    let mut over: BTreeMap<StageId, u8> = BTreeMap::new();
    let mut home = 0;
    let all: BTreeMap<StageId, Waiting> = queue
        .waiting()
        .map(|w| (w.stage.clone(), w.clone()))
        .collect();
    let given = drain(&mut queue, &agents);
    for a in &given {
        a.over
            .iter()
            .for_each(|s| *over.entry(s.clone()).or_default() += 1);
        let residents = agents
            .iter()
            .map(|(id, agent)| (id, shard::seed(id), agent.slots));
        let homes = shard::homes(shard::key(&all[&a.stage]), residents);
        home += usize::from(homes.contains(&Some(&a.agent)));
    }
    assert_eq!(given.len(), 400);
    assert!(
        over.values().any(|count| *count > 0),
        "nothing was preferred"
    );
    assert!(
        over.values().all(|count| *count <= pass::BYPASS_MAX),
        "{over:?}"
    );
    // Without a preference it would be a quarter.
    assert!(home > 200, "{home} of 400 were executed at home");
}

#[test]
fn an_exact_label_stands_before_a_wildcard() {
    let mut agents = fleet(&[1, 1, 1]);
    let ids: Vec<AgentId> = agents.keys().cloned().collect();
    for (id, value) in ids.iter().zip(["*", "eu", "*"]) {
        agents
            .get_mut(id)
            .unwrap()
            .labels
            .insert("zone".into(), value.into());
    }
    let mut queue = Queue::new();
    let labels = BTreeMap::from([("zone".to_owned(), "eu".to_owned())]);
    // Of a name that the exact one is no home to, so that locality does not decide.
    let waiting = (0..100_u64)
        .map(|n| Waiting {
            name: format!("s{n}"),
            labels: labels.clone(),
            ..stage(1, 1)
        })
        .find(|w| {
            let residents = agents
                .iter()
                .map(|(id, agent)| (id, shard::seed(id), agent.slots));
            shard::homes(shard::key(w), residents).contains(&Some(&ids[1]))
        })
        .unwrap();
    queue.put(waiting);
    assert_eq!(queue.plan(&agents, NOW).assignments[0].agent, ids[1]);
    queue.put(Waiting {
        labels: BTreeMap::from([("zone".to_owned(), "us".to_owned())]),
        ..stage(1, 1)
    });
    assert_ne!(queue.plan(&agents, NOW).assignments[0].agent, ids[1]);
}

#[test]
fn one_stage_is_explained_at_length() {
    let mut queue = Queue::new();
    let group = Some(Group {
        name: "deploy".into(),
        limit: 1,
    });
    for n in 1..=3 {
        let group = group.clone();
        queue.put(Waiting {
            group,
            ..stage(n, 1)
        });
    }
    let agents = fleet(&[4]);
    let plan = queue.plan(&agents, NOW);
    apply(&mut queue, &plan);
    let told = queue.explain_fully(&id(3), &agents, NOW).unwrap();
    assert_eq!(
        (told.reason, told.ahead),
        (Reason::Group("deploy".into()), 1)
    );
    let agent = agents.keys().next().unwrap().clone();
    let holders = vec![Holder::Stage(id(1), agent.clone())];
    assert_eq!(
        told.group,
        Some(FullGroup {
            name: "deploy".into(),
            limit: 1,
            holders
        })
    );
    let mut demanding = stage(9, 1);
    demanding.labels.insert("gpu".into(), "a100".into());
    queue.put(demanding);
    let told = queue.explain_fully(&id(9), &agents, NOW).unwrap();
    let lacks = Unfit::Label("gpu".into(), "a100".into());
    assert_eq!(told.nearest, [(agent, lacks)]);
    assert_eq!(queue.explain_fully(&id(77), &agents, NOW), None);
}

#[test]
fn a_weight_counts_from_the_first_stage_on() {
    // Three slots of the heavy repository weigh as much as one of the other.
    let mut queue = Queue::new();
    for n in 0..40 {
        let weight = if n < 20 { 3 } else { 1 };
        queue.put(Waiting {
            weight,
            ..stage(n, 1 + n / 20)
        });
    }
    let plan = queue.plan(&fleet(&[8]), NOW);
    let heavy = plan.assignments.iter().filter(|a| a.stage < id(20));
    assert_eq!(heavy.count(), 6);
}

#[test]
fn who_used_more_has_used_more_after_any_time() {
    let mut queue = Queue::new();
    for n in 1..=2 {
        queue.put(stage(n, n));
    }
    queue.spend(&id(1), Duration::from_secs(61), NOW);
    queue.spend(&id(2), Duration::from_secs(60), NOW);
    for hours in [0_u64, 1, 24, 24 * 365 * 50] {
        let later = NOW.after(Duration::from_secs(hours * 3_600));
        assert_eq!(queue.plan(&fleet(&[1]), later).assignments[0].stage, id(2));
    }
}

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
