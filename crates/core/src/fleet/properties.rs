//! Pools in a small world that goes its own way: stages come and end, machines boot or do not, agents
//! lose their streams, providers fail. Whatever happens, every plan is checked, and the world counts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{START, agent, pool};
use super::*;

struct World {
    pool: Pool,
    waiting: u32,
    next: u32,
    now: Timestamp,
}

#[derive(Clone, Debug)]
enum Step {
    /// Stages come.
    Come(u32),
    /// Time passes.
    Pass(u64),
    /// Every started machine's agent says hello.
    Boot,
    /// Stages begin on whatever is free.
    Assign,
    /// One agent's stages end.
    End(usize),
    /// One agent's stream breaks, or comes back.
    Toggle(usize),
    /// The provider fails.
    Fail,
    /// Everything that was asked of it is done.
    Provide,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u32..12).prop_map(Step::Come),
        (1_u64..400).prop_map(Step::Pass),
        Just(Step::Boot),
        Just(Step::Assign),
        (0_usize..8).prop_map(Step::End),
        (0_usize..8).prop_map(Step::Toggle),
        Just(Step::Fail),
        Just(Step::Provide),
    ]
}

impl World {
    fn act(&mut self, step: &Step) {
        let now = self.now;
        let nth = |machines: &mut Vec<Machine>, n: usize| {
            (!machines.is_empty()).then(|| n % machines.len())
        };
        match step {
            Step::Come(n) => self.waiting += n,
            Step::Pass(seconds) => self.now = now.after(Duration::from_secs(*seconds)),
            Step::Boot => {
                for m in &mut self.pool.machines {
                    if m.state == MachineState::Starting && m.known {
                        m.state = MachineState::Ready;
                        m.presence = Presence::Connected;
                        (m.changed, m.last_busy) = (now, now);
                    }
                }
            }
            Step::Assign => {
                for m in &mut self.pool.machines {
                    let takes = m.state == MachineState::Ready && m.presence == Presence::Connected;
                    while takes && self.waiting > 0 && (m.busy.len() as u32) < m.slots {
                        m.busy.push(Duration::from_secs(60));
                        m.last_busy = now;
                        self.waiting -= 1;
                    }
                }
            }
            Step::End(n) => {
                if let Some(n) = nth(&mut self.pool.machines, *n)
                    && !self.pool.machines[n].busy.is_empty()
                {
                    self.pool.machines[n].busy.clear();
                    self.pool.machines[n].last_busy = now;
                }
            }
            Step::Toggle(n) => {
                if let Some(n) = nth(&mut self.pool.machines, *n) {
                    let m = &mut self.pool.machines[n];
                    m.presence = match m.presence {
                        Presence::Connected => Presence::Away(now),
                        Presence::Away(_) => Presence::Connected,
                    };
                }
            }
            Step::Fail => {
                self.pool.failures += 1;
                self.pool.failed_at = now;
            }
            Step::Provide => {
                self.pool.failures = 0;
                self.pool
                    .machines
                    .retain(|m| m.state != MachineState::Stopping);
                for m in &mut self.pool.machines {
                    m.known = true;
                }
            }
        }
    }

    /// Plans, checks, and carries out what the store would.
    fn plan(&mut self) {
        let ready = vec![Ready {
            labels: BTreeMap::new(),
            count: self.waiting,
            expected: Duration::from_secs(60),
        }];
        let snapshot = Snapshot {
            pools: vec![self.pool.clone()],
            ready,
            elsewhere: Vec::new(),
        };
        let plan = plan(&snapshot, self.now);
        assert_eq!(
            check(&snapshot, self.now, &plan),
            vec![],
            "{:?}",
            plan.actions
        );
        assert!(plan.wake_at.is_none_or(|at| at > self.now), "it would spin");
        let busy_before = self.busy();
        for action in plan.actions {
            self.carry_out(action);
        }
        assert_eq!(self.busy(), busy_before, "what is executed goes on");
        let max = self.pool.settings.max as usize;
        assert!(self.pool.machines.len() <= max, "more machines than may be");
    }

    fn busy(&self) -> usize {
        let executing = self.pool.machines.iter();
        let executing = executing.filter(|m| m.state != MachineState::Stopping);
        executing.map(|m| m.busy.len()).sum()
    }

    fn carry_out(&mut self, action: Action) {
        let now = self.now;
        let of = |machines: &mut Vec<Machine>, agent: &AgentId| {
            machines.iter().position(|m| m.agent == *agent).unwrap()
        };
        match action {
            Action::Start { count, .. } => {
                for _ in 0..count {
                    self.next += 1;
                    let mut m = super::tests::machine(self.next, MachineState::Starting, now);
                    m.presence = Presence::Away(now);
                    m.slots = self.pool.settings.slots;
                    self.pool.machines.push(m);
                }
            }
            Action::Launch(agent) => {
                let at = of(&mut self.pool.machines, &agent);
                self.pool.machines[at].known = true;
            }
            Action::Drain(agent) => {
                let at = of(&mut self.pool.machines, &agent);
                let m = &mut self.pool.machines[at];
                assert!(
                    now.since(m.last_busy) >= self.pool.settings.idle(),
                    "it flaps"
                );
                (m.state, m.changed) = (MachineState::Draining, now);
                self.pool.drains.push(now);
            }
            Action::Retire(agent, _) => {
                let at = of(&mut self.pool.machines, &agent);
                assert!(self.pool.machines[at].busy.is_empty());
                self.pool.machines[at].state = MachineState::Stopping;
            }
            Action::Stop(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn no_plan_is_wrong_whatever_happens(
        (min, more, slots, reserve) in (0_u32..4, 0_u32..20, 1_u32..4, 0_u32..3),
        boot in proptest::option::of(0_u64..200),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let max = min + more;
        let reserve = reserve.min(max * slots);
        let text = format!(r#"{{"min": {min}, "max": {max}, "slots": {slots}, "reserve": {reserve}}}"#);
        let mut world = World { pool: pool(&text), waiting: 0, next: 0, now: START };
        world.pool.boot = boot.map(Duration::from_secs);
        for step in &steps {
            world.act(step);
            world.plan();
        }
    }

    #[test]
    fn a_pool_comes_to_rest_at_its_minimum_and_every_stage_gets_its_agent(
        min in 0_u32..4, burst in 1_u32..60,
    ) {
        let mut world = World {
            pool: pool(&format!(r#"{{"min": {min}, "max": 20}}"#)),
            waiting: burst,
            next: 0,
            now: START,
        };
        for _ in 0..200 {
            world.plan();
            world.act(&Step::Provide);
            world.act(&Step::Boot);
            for n in 0..20 {
                world.act(&Step::End(n));
            }
            world.act(&Step::Assign);
            world.act(&Step::Pass(30));
        }
        prop_assert_eq!(world.waiting, 0);
        let left = world.pool.machines.iter().filter(|m| m.state == MachineState::Ready);
        prop_assert_eq!(left.count() as u32, min);
    }

    #[test]
    fn a_listing_that_failed_or_is_partial_stops_nothing(
        known in proptest::collection::btree_set(0_u32..20, 0..10),
        seen in proptest::collection::btree_set(0_u32..20, 0..10),
        present in proptest::collection::btree_set(0_u32..20, 0..10),
        complete in any::<bool>(),
        before in proptest::collection::btree_set(0_u32..20, 0..20),
    ) {
        let listing = Listing {
            machines: seen
                .iter()
                .map(|n| Listed { agent: Some(agent(*n)), machine: n.to_string(), running: true })
                .collect(),
            complete,
        };
        let records: Vec<Record> = known
            .iter()
            .map(|n| Record { agent: agent(*n), machine: None, asked: true, stopping: false })
            .collect();
        let present: BTreeSet<AgentId> = present.into_iter().map(agent).collect();
        let mut suspects: BTreeSet<String> = before.iter().map(|n| format!("machine {n}")).collect();
        suspects.extend(before.iter().map(|n| format!("agent {}", agent(*n))));
        let verdict = judge(&listing, &records, &present, &suspects);
        for stopped in &verdict.stop {
            let who = stopped.agent.clone().unwrap();
            prop_assert!(complete && !present.contains(&who));
            prop_assert!(!records.iter().any(|r| r.agent == who), "it is ours");
            let key = format!("machine {}", stopped.machine);
            prop_assert!(suspects.contains(&key), "seen for the first time");
        }
        for missing in &verdict.missing {
            prop_assert!(complete && !present.contains(missing));
            let key = format!("agent {missing}");
            prop_assert!(suspects.contains(&key), "missing for the first time");
        }
    }
}
