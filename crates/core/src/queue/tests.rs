//! Placement: examples and properties.

use proptest::prelude::*;

use super::*;
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
        name: format!("s{}", n % 4),
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
    Held {
        build: stage.build.clone(),
        repo: stage.repo.clone(),
        agent: agent.clone(),
        group: stage.group.as_ref().map(|g| g.name.clone()),
        build_group: stage.build_group.as_ref().map(|g| g.name.clone()),
    }
}

fn apply(queue: &mut Queue, plan: &Plan) {
    for a in &plan.assignments {
        let stage = queue.get(&a.stage).unwrap().clone();
        queue.hold(a.stage.clone(), held(&stage, &a.agent));
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

fn any_stage(n: u64) -> impl Strategy<Value = Waiting> {
    (
        1..4_u64,
        0..10_u8,
        any::<bool>(),
        0..3_u8,
        0..20_000_i64,
        0..4_u8,
    )
        .prop_map(
            move |(repo, priority, urgent, label, not_before, group)| Waiting {
                priority,
                urgent: urgent && priority > 7,
                labels: (0..label)
                    .map(|l| (format!("l{l}"), "x".to_owned()))
                    .collect(),
                not_before: Timestamp::from_millis(not_before),
                group: (group == 0).then(|| Group {
                    name: "g".into(),
                    limit: 2,
                }),
                ..stage(n, repo)
            },
        )
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
}
