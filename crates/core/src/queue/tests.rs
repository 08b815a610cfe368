//! Placement: examples.

use std::collections::BTreeSet;

use super::*;
use super::{pass, shard};
use crate::pipeline::Group;

pub(super) fn id<T: std::str::FromStr>(n: u64) -> T {
    let text = format!("{n:026}");
    match text.parse() {
        Ok(id) => id,
        Err(_) => panic!("not an id: {text}"),
    }
}

pub(super) fn agent(slots: u32) -> Agent {
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

pub(super) fn stage(n: u64, repo: u64) -> Waiting {
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

pub(super) fn apply(queue: &mut Queue, plan: &Plan) {
    for a in &plan.assignments {
        queue.grant(a).unwrap();
    }
}

pub(super) const NOW: Timestamp = Timestamp::from_millis(10_000);

pub(super) fn fleet(slots: &[u32]) -> BTreeMap<AgentId, Agent> {
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
    // One that says nothing any more is as good as gone.
    let mut silent = agents.clone();
    silent.get_mut(&ids[1]).unwrap().silent = Duration::from_secs(41);
    assert_eq!(queue.plan(&silent, NOW).assignments[0].agent, ids[0]);
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
