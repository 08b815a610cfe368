//! The size of pools, case by case.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;

pub(super) const START: Timestamp = Timestamp::from_millis(1_795_571_220_000);

pub(super) fn agent(n: u32) -> AgentId {
    format!("01ARZ3NDEKTSV4RRFF{n:08}").parse().unwrap()
}

pub(super) fn settings(text: &str) -> PoolSettings {
    let mut all: serde_json::Value =
        serde_json::json!({"provider": {"kind": "process"}, "max": 100});
    let given: serde_json::Value = serde_json::from_str(text).unwrap();
    for (key, value) in given.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).unwrap()
}

pub(super) fn pool(text: &str) -> Pool {
    Pool {
        name: "linux".to_owned(),
        settings: settings(text),
        removed: false,
        machines: Vec::new(),
        boot: None,
        spent: Duration::ZERO,
        failures: 0,
        failed_at: START,
        error: String::new(),
        drains: Vec::new(),
    }
}

pub(super) fn machine(n: u32, state: MachineState, at: Timestamp) -> Machine {
    Machine {
        agent: agent(n),
        state,
        created: at,
        changed: at,
        known: state != MachineState::Starting,
        in_hand: false,
        presence: Presence::Connected,
        takes_work: true,
        slots: 1,
        busy: Vec::new(),
        last_busy: at,
    }
}

fn ready(count: u32) -> Vec<Ready> {
    vec![Ready {
        labels: BTreeMap::new(),
        count,
        expected: Duration::from_secs(60),
    }]
}

fn planned(pool: Pool, waiting: Vec<Ready>, now: Timestamp) -> Plan {
    let snapshot = Snapshot {
        pools: vec![pool],
        ready: waiting,
        elsewhere: Vec::new(),
    };
    let plan = plan(&snapshot, now);
    assert_eq!(check(&snapshot, now, &plan), vec![]);
    plan
}

fn started(plan: &Plan) -> u32 {
    let counts = plan.actions.iter().map(|a| match a {
        Action::Start { count, .. } => *count,
        _ => 0,
    });
    counts.sum()
}

fn drained(plan: &Plan) -> Vec<AgentId> {
    let drains = plan.actions.iter().filter_map(|a| match a {
        Action::Drain(agent) => Some(agent.clone()),
        _ => None,
    });
    drains.collect()
}

#[test]
fn the_size_is_what_waits_and_runs_and_is_kept_for_the_slots_of_an_agent() {
    for (text, waiting, wanted) in [
        (r#"{"slots": 2}"#, 7, 4),
        (r#"{"slots": 2, "reserve": 2}"#, 7, 5),
        (r#"{"min": 3}"#, 0, 3),
        (r#"{"max": 5}"#, 50, 5),
        (r#"{"max": 0}"#, 50, 0),
    ] {
        let plan = planned(pool(text), ready(waiting), START);
        assert_eq!(started(&plan), wanted, "{text} {waiting}");
        assert_eq!(plan.report[0].desired, wanted);
    }
    let plan = planned(pool(r#"{"max": 5}"#), ready(50), START);
    assert_eq!(plan.report[0].unmet, 45);
}

#[test]
fn booting_machines_are_capacity_until_their_deadline() {
    let mut booting = pool("{}");
    booting.machines = vec![
        machine(1, MachineState::Starting, START),
        machine(2, MachineState::Starting, START),
    ];
    for m in &mut booting.machines {
        m.known = true;
    }
    let soon = START.after(Duration::from_secs(5));
    let plan = planned(booting.clone(), ready(2), soon);
    assert_eq!(plan.actions, vec![]);
    assert_eq!(plan.wake_at, Some(START.after(Duration::from_secs(600))));
    let late = START.after(Duration::from_secs(600));
    let plan = planned(booting, ready(2), late);
    assert_eq!(started(&plan), 2);
    let gone = Action::Retire(agent(1), Why::BootDeadline);
    assert!(plan.actions.contains(&gone), "{:?}", plan.actions);
}

#[test]
fn a_stage_that_a_present_slot_takes_sooner_than_an_agent_boots_starts_nothing() {
    let mut slow = pool("{}");
    slow.boot = Some(Duration::from_secs(120));
    let mut busy = machine(1, MachineState::Ready, START);
    busy.busy = vec![Duration::from_secs(30)];
    slow.machines = vec![busy];
    // At 30 s, 90 s: before a new agent could be there. The third would begin at 150 s.
    let plan = planned(slow.clone(), ready(2), START);
    assert_eq!((started(&plan), plan.report[0].absorbed), (0, 2));
    let plan = planned(slow.clone(), ready(3), START);
    assert_eq!(started(&plan), 1);
    slow.boot = Some(Duration::from_secs(5));
    assert_eq!(started(&planned(slow, ready(2), START)), 2);
}

#[test]
fn an_agent_of_no_pool_takes_stages_too() {
    let snapshot = Snapshot {
        pools: vec![pool("{}")],
        ready: ready(3),
        elsewhere: vec![Elsewhere {
            labels: BTreeMap::new(),
            slots: 2,
            busy: Vec::new(),
        }],
    };
    assert_eq!(started(&plan(&snapshot, START)), 1);
}

#[test]
fn a_stage_starts_an_agent_in_one_pool_of_its_kind() {
    let mut gpu = pool(r#"{"labels": {"gpu": "yes"}, "max": 2}"#);
    gpu.name = "gpu".to_owned();
    let mut spare = pool(r#"{"labels": {"gpu": "yes"}}"#);
    spare.name = "spare".to_owned();
    let wanted = |text: &str| Ready {
        labels: serde_json::from_str(text).unwrap(),
        count: 3,
        expected: Duration::from_secs(1),
    };
    let snapshot = Snapshot {
        pools: vec![pool("{}"), gpu, spare],
        ready: vec![wanted(r#"{"gpu": "yes"}"#), wanted(r#"{"pool": "linux"}"#)],
        elsewhere: Vec::new(),
    };
    let plan = plan(&snapshot, START);
    let sizes: Vec<u32> = plan.report.iter().map(|r| r.desired).collect();
    assert_eq!(
        sizes,
        [3, 2, 1],
        "the second takes what the first has no room for"
    );
}

#[test]
fn the_longest_idle_go_first_and_never_more_than_half_within_a_period() {
    let now = START.after(Duration::from_secs(700));
    let mut idle = pool(r#"{"min": 1}"#);
    for n in 1..=9 {
        let mut m = machine(n, MachineState::Ready, START);
        m.last_busy = START.after(Duration::from_secs(u64::from(10 - n)));
        idle.machines.push(m);
    }
    let plan = planned(idle.clone(), Vec::new(), now);
    assert_eq!(drained(&plan), [9, 8, 7, 6, 5].map(agent));
    idle.machines.truncate(4);
    idle.drains = vec![now; 5];
    let again = planned(idle.clone(), Vec::new(), now.after(Duration::from_secs(59)));
    assert_eq!(drained(&again), []);
    let after = planned(idle, Vec::new(), now.after(Duration::from_secs(61)));
    assert_eq!(drained(&after).len(), 2);
}

#[test]
fn what_is_not_idle_for_long_enough_stays() {
    let mut one = pool(r#"{"idle_seconds": 30}"#);
    one.machines = vec![machine(1, MachineState::Ready, START)];
    let plan = planned(
        one.clone(),
        Vec::new(),
        START.after(Duration::from_secs(29)),
    );
    assert_eq!(plan.actions, vec![]);
    assert_eq!(plan.wake_at, Some(START.after(Duration::from_secs(30))));
    let plan = planned(one, Vec::new(), START.after(Duration::from_secs(30)));
    assert_eq!(drained(&plan), [agent(1)]);
}

#[test]
fn the_minimum_follows_the_schedule() {
    let text = r#"{"min": 1, "schedule": [{"cron": "0 8 * * *", "min": 4}, {"cron": "0 18 * * *", "min": 0}]}"#;
    // 01:47: the line of yesterday evening holds.
    let plan = planned(pool(text), Vec::new(), START);
    assert_eq!(plan.report[0].desired, 0);
    assert_eq!(
        plan.wake_at,
        Some(Timestamp::from_millis(1_795_593_600_000))
    );
    let morning = START.after(Duration::from_secs(7 * 3_600));
    assert_eq!(
        planned(pool(text), Vec::new(), morning).report[0].desired,
        4
    );
}

#[test]
fn when_the_days_hours_are_spent_nothing_new_is_started() {
    let mut capped = pool(r#"{"max_agent_hours": 2}"#);
    capped.spent = Duration::from_secs(7_200);
    let plan = planned(capped, ready(5), START);
    assert_eq!(plan.actions, vec![]);
    assert_eq!(
        plan.report[0].degraded,
        Some(Degraded::CostCap { hours: 2 })
    );
    let words = plan.report[0].sentences().join("\n");
    assert!(words.contains("pool_degraded(cost_cap)"), "{words}");
}

#[test]
fn a_failing_provider_is_asked_again_later_and_later_but_always() {
    let mut failing = pool("{}");
    for (failures, seconds) in [(1, 5), (2, 10), (3, 20), (7, 300), (1_000_000, 300)] {
        failing.failures = failures;
        failing.error = "no capacity in this zone".to_owned();
        let until = START.after(Duration::from_secs(seconds));
        let early = planned(
            failing.clone(),
            ready(1),
            until.before(Duration::from_millis(1)),
        );
        assert_eq!((started(&early), early.wake_at), (0, Some(until)));
        assert!(early.report[0].sentences().join("").contains("no capacity"));
        assert_eq!(started(&planned(failing.clone(), ready(1), until)), 1);
    }
}

#[test]
fn what_is_written_down_is_started_again_and_not_twice() {
    let mut known = pool("{}");
    known.machines = vec![machine(1, MachineState::Starting, START)];
    let plan = planned(known.clone(), ready(1), START);
    assert_eq!(plan.actions, [Action::Launch(agent(1))]);
    known.machines[0].in_hand = true;
    assert_eq!(planned(known.clone(), ready(1), START).actions, []);
    known.machines[0].in_hand = false;
    let plan = planned(known, Vec::new(), START);
    assert_eq!(plan.actions, [Action::Retire(agent(1), Why::NotNeeded)]);
}

#[test]
fn a_drained_agent_that_holds_nothing_is_retired_and_a_busy_one_is_not() {
    let mut leaving = pool("{}");
    let mut m = machine(1, MachineState::Draining, START);
    m.busy = vec![Duration::from_secs(1)];
    leaving.machines = vec![m];
    let late = START.after(Duration::from_secs(86_400));
    assert_eq!(planned(leaving.clone(), Vec::new(), late).actions, []);
    leaving.machines[0].busy.clear();
    assert_eq!(planned(leaving.clone(), Vec::new(), START).actions, []);
    let left = Action::Retire(agent(1), Why::Drained);
    let mut gone = leaving.clone();
    gone.machines[0].presence = Presence::Away(START);
    for (pool, at) in [(leaving, START.after(LEAVE)), (gone, START)] {
        assert_eq!(
            planned(pool, Vec::new(), at).actions[..],
            [left.clone()][..]
        );
    }
}

#[test]
fn a_removed_pool_empties_without_waiting_for_idleness() {
    let mut removed = pool(r#"{"min": 2}"#);
    removed.removed = true;
    let mut busy = machine(1, MachineState::Ready, START);
    busy.busy = vec![Duration::from_secs(9)];
    removed.machines = vec![busy, machine(2, MachineState::Ready, START)];
    let plan = planned(removed, ready(5), START);
    assert_eq!(plan.actions, [Action::Drain(agent(2))]);
}

#[test]
fn only_settings_that_can_be_are_taken() {
    for (text, field) in [
        (r#"{"max": 101}"#, "max"),
        (r#"{"min": 5, "max": 4}"#, "min"),
        (r#"{"slots": 0}"#, "slots"),
        (r#"{"reserve": 101}"#, "reserve"),
        (r#"{"idle_seconds": 0}"#, "idle_seconds"),
        (r#"{"boot_seconds": 1}"#, "boot_seconds"),
        (r#"{"labels": {"pool": "x"}}"#, "labels"),
        (r#"{"labels": {"!no": "x"}}"#, "labels"),
        (r#"{"schedule": [{"cron": "often", "min": 1}]}"#, "schedule"),
        (
            r#"{"schedule": [{"cron": "0 8 * * *", "min": 101}]}"#,
            "schedule",
        ),
        (
            r#"{"provider": {"kind": "exec", "program": ""}}"#,
            "provider.program",
        ),
    ] {
        assert_eq!(settings(text).check().unwrap_err().field, field, "{text}");
    }
    assert_eq!(settings("{}").check(), Ok(()));
    for bad in ["", "-a", "A", "a/b", &"a".repeat(41)] {
        assert!(!is_pool_name(bad), "{bad}");
    }
    assert!(is_pool_name("linux-arm64"));
}

fn listed(n: u32) -> Listed {
    Listed {
        agent: Some(agent(n)),
        machine: format!("vm-{n}"),
        running: true,
    }
}

fn record(n: u32) -> Record {
    Record {
        agent: agent(n),
        machine: Some(format!("vm-{n}")),
        asked: true,
        stopping: false,
    }
}

#[test]
fn an_orphan_is_stopped_when_two_complete_listings_agree() {
    let listing = |complete| Listing {
        machines: vec![listed(1), listed(2)],
        complete,
    };
    let (records, nobody) = ([record(1)], BTreeSet::new());
    let first = judge(&listing(true), &records, &nobody, &BTreeSet::new());
    assert_eq!(first.stop, []);
    let partial = judge(&listing(false), &records, &nobody, &first.suspects);
    assert_eq!(
        partial,
        Verdict {
            suspects: first.suspects.clone(),
            ..Verdict::default()
        }
    );
    let second = judge(&listing(true), &records, &nobody, &partial.suspects);
    assert_eq!(second.stop, [listed(2)]);
    // An agent that has a stream or holds something is not judged by a listing.
    let busy = BTreeSet::from([agent(2)]);
    let second = judge(&listing(true), &records, &busy, &first.suspects);
    assert_eq!(second.stop, []);
}

#[test]
fn a_machine_that_is_missing_twice_is_gone_and_a_nameless_one_is_adopted() {
    let empty = Listing {
        machines: Vec::new(),
        complete: true,
    };
    let (records, nobody) = ([record(1)], BTreeSet::new());
    let first = judge(&empty, &records, &nobody, &BTreeSet::new());
    assert_eq!(first.missing, []);
    let second = judge(&empty, &records, &nobody, &first.suspects);
    assert_eq!(second.missing, [agent(1)]);
    let connected = BTreeSet::from([agent(1)]);
    assert_eq!(
        judge(&empty, &records, &connected, &first.suspects).missing,
        []
    );
    let mut nameless = record(1);
    nameless.machine = None;
    let listing = Listing {
        machines: vec![listed(1)],
        complete: true,
    };
    let verdict = judge(&listing, &[nameless], &nobody, &BTreeSet::new());
    assert_eq!(verdict.adopt, [(agent(1), "vm-1".to_owned())]);
}

#[test]
fn what_waits_for_a_group_or_a_back_off_asks_for_no_agent() {
    use crate::pipeline::Group;
    use crate::queue::{Held, Waiting};
    let id = |n: u32| format!("01ARZ3NDEKTSV4RRFF{n:08}");
    let group = |name: &str, limit| {
        Some(Group {
            name: name.to_owned(),
            limit,
        })
    };
    let stage = |n: u32, build: u32| Waiting {
        stage: id(n).parse().unwrap(),
        attempt: 0,
        build: id(build).parse().unwrap(),
        repo: id(1).parse().unwrap(),
        name: "test".to_owned(),
        priority: 5,
        urgent: false,
        ready_at: START,
        not_before: START,
        labels: BTreeMap::new(),
        group: None,
        build_group: None,
        build_begun: false,
        critical: Duration::ZERO,
        lost_by: BTreeSet::new(),
        cache_key: String::new(),
        weight: 1,
        near: None,
    };
    let mut later = stage(10, 100);
    later.not_before = START.after(Duration::from_secs(1));
    let mut waiting = vec![later, stage(11, 100)];
    for n in 20..25 {
        let mut grouped = stage(n, 100);
        grouped.group = group("device", 3);
        waiting.push(grouped);
    }
    for n in 30..36 {
        let mut laned = stage(n, 200 + n % 3);
        laned.build_group = group("deploy", 2);
        waiting.push(laned);
    }
    let held = Held {
        build: id(999).parse().unwrap(),
        repo: id(1).parse().unwrap(),
        agent: agent(1),
        group: Some("device".to_owned()),
        build_group: Some("deploy".to_owned()),
    };
    let counted =
        |held: &[Held], now| -> u32 { demand(waiting.iter(), held.iter(), now).values().sum() };
    // One plain, three of the device's group, two builds of two stages.
    assert_eq!(counted(&[], START), 1 + 3 + 4);
    assert_eq!(counted(std::slice::from_ref(&held), START), 1 + 2 + 2);
    let over = START.after(Duration::from_secs(1));
    assert_eq!(counted(&[held], over), 2 + 2 + 2);
}
