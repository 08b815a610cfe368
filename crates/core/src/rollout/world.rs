//! A world for tests: a store that survives crashes, a router that fences, a target that lives and
//! dies, and a coordinator that can be killed before and after everything it does.

mod target;

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::access::Judgement;
use crate::gate::{Counts, Reading, Tick};
use crate::pipeline::{SmokeCheck, Strategy};
use crate::time::Timestamp;
use crate::traffic::{
    FULL_BP, Fence, FenceAnswer, Instance, Seen, Share, TrafficTable, judge as judge_fence,
};

pub(super) const NEW: &str = "01NEW";
pub(super) const OLD: &str = "01OLD";
pub(super) const ME: &str = "deployment-1";

/// The coordinator was killed.
#[derive(Debug)]
pub(super) struct Killed;

/// Counts the points where a coordinator can be killed, and kills it at the chosen one.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) passed: usize,
    pub(super) kill_at: Option<usize>,
}

impl Fate {
    fn point(&mut self) -> Result<(), Killed> {
        self.passed += 1;
        if self.kill_at == Some(self.passed) {
            Err(Killed)
        } else {
            Ok(())
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Router {
    pub(super) seen: Option<Seen>,
    pub(super) table: Option<TrafficTable>,
    pub(super) counters: BTreeMap<String, Counts>,
    pub(super) tripped: Option<String>,
    pub(super) leased: bool,
    pub(super) readable: bool,
    pub(super) commits: u32,
    pub(super) refused: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Instances of the new version never become healthy.
    pub(super) unhealthy: bool,
    /// The smoke check fails.
    pub(super) smoke_fails: bool,
    /// Share of the new version's requests that fail, percent.
    pub(super) bad_percent: u64,
    /// Every effect is done this often.
    pub(super) repeat: u32,
    /// The first replies are lost: the effect happened, nobody heard.
    pub(super) lose_replies: u32,
    /// Each durable write takes this long.
    pub(super) write_ms: u64,
    /// Each effect takes this long.
    pub(super) effect_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            unhealthy: false,
            smoke_fails: false,
            bad_percent: 0,
            repeat: 1,
            lose_replies: 0,
            write_ms: 2,
            effect_ms: 5,
        }
    }
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) plan: RolloutPlan,
    pub(super) state: State,
    pub(super) wish: Option<Wish>,
    pub(super) token: u64,
    pub(super) lock: Option<Held>,
    pub(super) sequence: (u64, u64),
    pub(super) good: Option<String>,
    pub(super) approval: Judgement,
    pub(super) plan_changed: bool,
    pub(super) barred: Option<String>,
    pub(super) frozen: Option<String>,
    pub(super) awaited: bool,
    pub(super) router: Router,
    /// Version → instances, with whether each is running.
    pub(super) target: BTreeMap<String, Vec<(String, bool)>>,
    pub(super) faults: Faults,
    pub(super) history: Vec<Phase>,
    pub(super) creations: u32,
    pub(super) started_images: Vec<String>,
    /// Durable: what was counted at the step that is looked at.
    pub(super) window: (u32, Option<Reading>, Vec<Tick>),
    /// Volatile: since when the living coordinator saw every instance healthy.
    healthy_since: Option<Timestamp>,
}

pub(super) fn pinned() -> String {
    format!("registry.example/shop@sha256:{}", "a".repeat(64))
}

pub(super) fn plan_of(kind: Kind) -> RolloutPlan {
    RolloutPlan {
        kind,
        strategy: Strategy::BlueGreen,
        service: "shop".to_owned(),
        environment: "production".to_owned(),
        new: VersionSpec {
            version_id: NEW.to_owned(),
            image: pinned(),
            port: 8080,
            replicas: 2,
            health_path: "/health".to_owned(),
            environment: BTreeMap::new(),
            memory_bytes: 0,
            cpu_millis: 0,
            pods: None,
        },
        steps: vec![Step {
            weight_bp: FULL_BP,
            bake_ms: 0,
            approval: false,
        }],
        smoke: vec![SmokeCheck::Http {
            path: "/".to_owned(),
            expect: 200,
            contains: None,
            within_ms: 1_000,
        }],
        approval: None,
        after: vec![],
        initiators: ["alice".to_owned()].into(),
        timings: Timings {
            min_ready_ms: 1_000,
            watch_ms: 20_000,
            ..Timings::default()
        },
        gates: crate::gate::GateRules::default(),
        stickiness: crate::traffic::Stickiness::Auto,
        facts: Facts::default(),
        section: String::new(),
        first: false,
    }
}

fn instances(version: &str, n: u32) -> Vec<(String, bool)> {
    (1..=n)
        .map(|i| (format!("slipway-{version}-{i}"), true))
        .collect()
}

impl World {
    /// Stable has all traffic; a new version is planned.
    pub(super) fn with_stable(kind: Kind) -> Self {
        let mut world = Self::empty(kind);
        world.target.insert(OLD.to_owned(), instances(OLD, 2));
        if kind == Kind::Rollback {
            world.target.insert(NEW.to_owned(), instances(NEW, 2));
        }
        world.good = Some(OLD.to_owned());
        let table = world.table(&[(OLD, FULL_BP)]);
        let fence = Fence {
            token: 1,
            generation: 1,
        };
        world.router.seen = Some(Seen {
            fence,
            hash: table.hash(),
        });
        world.router.table = Some(table);
        world.sequence = (1, 1);
        world
    }

    /// Nothing was ever deployed.
    pub(super) fn empty(kind: Kind) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        Self {
            now,
            plan: plan_of(kind),
            state: State::planned(now),
            wish: None,
            token: 0,
            lock: None,
            sequence: (0, 0),
            good: None,
            approval: Judgement::NotNeeded,
            plan_changed: false,
            barred: None,
            frozen: None,
            awaited: false,
            router: Router {
                seen: None,
                table: None,
                counters: BTreeMap::new(),
                tripped: None,
                leased: false,
                readable: true,
                commits: 0,
                refused: 0,
            },
            target: BTreeMap::new(),
            faults: Faults::default(),
            history: vec![Phase::Planned],
            creations: 0,
            started_images: vec![],
            window: (0, None, vec![]),
            healthy_since: None,
        }
    }

    fn table(&self, weights: &[(&str, u32)]) -> TrafficTable {
        let share = |(version, weight_bp): &(&str, u32)| Share {
            version: (*version).to_owned(),
            weight_bp: *weight_bp,
            instances: self
                .target
                .get(*version)
                .into_iter()
                .flatten()
                .filter(|(_, running)| *running)
                .map(|(id, _)| Instance {
                    id: id.clone(),
                    address: "10.0.0.1:8080".to_owned(),
                })
                .collect(),
        };
        TrafficTable {
            service: "shop".to_owned(),
            hosts: vec![],
            listen: "127.0.0.1:8081".to_owned(),
            versions: weights.iter().map(share).collect(),
            upstream_timeout_ms: 1_000,
            canary: String::new(),
            stickiness: crate::traffic::Stickiness::None,
            lease: None,
        }
    }

    /// Time passes, and requests with it: one per 10 ms.
    pub(super) fn pass(&mut self, by: Duration) {
        self.now = self.now.after(by);
        let Some(table) = &self.router.table else {
            return;
        };
        let requests = u64::try_from(by.as_millis()).unwrap_or(0) / 10;
        for share in &table.versions {
            let mine = requests * u64::from(share.weight_bp) / u64::from(FULL_BP);
            let bad = if share.version == NEW {
                mine * self.faults.bad_percent / 100
            } else {
                0
            };
            let counters = self
                .router
                .counters
                .entry(share.version.clone())
                .or_default();
            counters.total += mine;
            counters.bad += bad;
        }
    }

    /// A new coordinator takes over: the token first.
    pub(super) fn take_over(&mut self) {
        self.healthy_since = None;
        self.sequence.0 += 1;
        self.token = self.sequence.0;
        if let Some(lock) = &mut self.lock {
            lock.token = self.token;
            lock.expires_at = self.now.after(LOCK_TTL);
        }
    }

    fn write(&mut self, fate: &mut Fate, state: State) -> Result<(), Killed> {
        fate.point()?;
        self.pass(Duration::from_millis(self.faults.write_ms));
        if state.phase != self.state.phase {
            self.history.push(state.phase);
        }
        self.state = state;
        fate.point()
    }

    pub(super) fn decision(&mut self) -> Plan {
        // The heartbeat loop of the real coordinator.
        if let Some(lock) = &mut self.lock {
            lock.expires_at = self.now.after(LOCK_TTL);
        }
        let snapshot = Snapshot {
            plan: self.plan.clone(),
            state: self.state.clone(),
            token: self.token,
            wish: self.wish.clone(),
            lock: match &self.lock {
                Some(lock) if lock.holder == ME => LockView::Mine {
                    expires_at: lock.expires_at,
                },
                _ => LockView::NotMine,
            },
            approval: self.approval.clone(),
            plan_changed: self.plan_changed,
            barred: self.barred.clone(),
            frozen: self.frozen.clone(),
            awaited: self.awaited,
            good_version: self.good.clone(),
            observed: self.observe(),
        };
        plan(&snapshot, self.now)
    }

    /// One turn of the coordinator's loop.
    pub(super) fn turn(&mut self, fate: &mut Fate) -> Result<(), Killed> {
        let plan = self.decision();
        match plan.next {
            Next::Wait => {
                let wait = plan.wake_at.since(self.now).max(Duration::from_millis(1));
                self.pass(wait);
                Ok(())
            }
            Next::Stop => Err(Killed),
            Next::AskLock => {
                fate.point()?;
                self.sequence.0 += 1;
                self.token = self.sequence.0;
                let expires_at = self.now.after(LOCK_TTL);
                self.lock = Some(Held {
                    holder: ME.to_owned(),
                    token: self.token,
                    expires_at,
                });
                fate.point()
            }
            Next::Enter(transition) => self.enter(fate, &transition),
            Next::Verified(Some(transition)) => self.enter(fate, &transition),
            Next::Verified(None) => {
                let state = self.state.verified(self.now);
                self.write(fate, state)
            }
            Next::Intend(effect) => {
                self.sequence.1 += 1;
                let state = self
                    .state
                    .intended(effect, self.token, self.sequence.1, self.now);
                self.write(fate, state)
            }
            Next::Call(effect) => {
                fate.point()?;
                self.pass(Duration::from_millis(self.faults.effect_ms));
                let step = self.state.step.clone().expect("a call follows an intent");
                assert_eq!(
                    step.token, self.token,
                    "an effect under another owner's token"
                );
                let fence = Fence {
                    token: step.token,
                    generation: step.generation,
                };
                let mut accepted = true;
                for _ in 0..self.faults.repeat {
                    accepted = self.effect(effect, fence);
                }
                fate.point()?;
                if !accepted {
                    return Err(Killed);
                }
                if self.faults.lose_replies > 0 {
                    self.faults.lose_replies -= 1;
                    self.pass(Duration::from_secs(1));
                    return Ok(());
                }
                let state = self.state.applied(self.now);
                self.write(fate, state)
            }
        }
    }

    fn enter(&mut self, fate: &mut Fate, transition: &Transition) -> Result<(), Killed> {
        let pause_ms = self.plan.timings.pause_ms;
        let state = self.state.entered(transition, self.now, pause_ms);
        fate.point()?;
        // One transaction: the state, the lock, the wish, and what is good from now on.
        self.pass(Duration::from_millis(self.faults.write_ms));
        if state.phase != self.state.phase {
            self.history.push(state.phase);
        }
        self.state = state;
        if transition.release_lock {
            self.lock = None;
        }
        if transition.wish_done {
            self.wish = None;
        }
        if transition.phase == Phase::Succeeded {
            self.good = Some(NEW.to_owned());
        }
        fate.point()
    }

    /// What must hold at every instant.
    pub(super) fn assert_traffic_is_safe(&self) {
        let Some(table) = &self.router.table else {
            return;
        };
        table
            .check()
            .expect("weights sum to 10 000 and have instances");
        for share in table.versions.iter().filter(|share| share.weight_bp > 0) {
            let live = self.target.get(&share.version).map_or(0, |list| {
                list.iter().filter(|(_, running)| *running).count()
            });
            assert!(
                live > 0,
                "traffic points at {} and nothing lives there",
                share.version
            );
        }
    }

    /// Turns until the rollout ended or `limit` passed; restarts the coordinator when it is killed.
    /// Answers how many points a killer had.
    pub(super) fn run(&mut self, kills: &[usize], limit: Duration) -> usize {
        let end = self.now.after(limit);
        let mut kills = kills.iter().copied();
        let mut points = 0;
        loop {
            self.take_over();
            let mut fate = Fate {
                passed: 0,
                kill_at: kills.next(),
            };
            let ended = loop {
                if self.state.phase.is_terminal() || self.now > end {
                    break true;
                }
                let turned = self.turn(&mut fate);
                self.assert_traffic_is_safe();
                if turned.is_err() {
                    // Down for a while, then the next owner's lease lets it in.
                    self.pass(Duration::from_secs(15));
                    break false;
                }
            };
            points += fate.passed;
            if ended {
                return points;
            }
        }
    }

    pub(super) fn weight_of(&self, version: &str) -> u32 {
        self.router
            .table
            .as_ref()
            .map_or(0, |table| table.weight_of(version))
    }
}
