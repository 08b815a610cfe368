//! The world around the machines: one virtual time line, a network that loses, delays, doubles,
//! reorders and parts, processes that die at any durable border, freeze and come back, a wall clock
//! that jumps. Everything that happens follows from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slipway_core::build::{Need, StageState};
use slipway_core::id::{AgentId, BuildId, StageId};
use slipway_core::pipeline::Group;
use slipway_core::time::Timestamp;

use crate::agent::{Agent, Deed};
use crate::dispatcher::{Dispatcher, Turn};
use crate::rng::Rng;
use crate::store::{Fence, Row, Store};
use crate::wire::{ToAgent, ToDispatcher};

/// Between two looks of the loops.
const DISPATCHER_TICK: u64 = 500;
const AGENT_TICK: u64 = 1_000;
/// Builds arrive, and faults happen, for so long; in milliseconds.
const TROUBLE: u64 = 600_000;
/// With a healthy core everything ends within this afterwards: three lost leases with their
/// back-offs, a grace, and the work itself.
const PATIENCE: u64 = 2_400_000;

/// What is asked of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Faults without end: nothing wrong ever happens.
    Safety,
    /// A healthy core, all other faults permanent: everything ends.
    Liveness,
}

pub(crate) fn id<T: std::str::FromStr>(n: u64) -> T {
    match format!("{n:026}").parse() {
        Ok(id) => id,
        Err(_) => panic!("26 digits are an id"),
    }
}

#[derive(Clone, Debug)]
enum Event {
    DispatcherTick,
    AgentTick(usize),
    ToDispatcher(usize, ToDispatcher),
    /// On this stream.
    ToAgent(usize, u32, ToAgent),
    StartDispatcher,
    StartAgent(usize),
    Submit,
    Nemesis,
}

/// How bad it is, by the seed.
struct Trouble {
    lost: u64,
    doubled: u64,
    delay: u64,
    crash: u64,
}

pub(crate) struct World {
    mode: Mode,
    rng: Rng,
    now: u64,
    /// What the wall clock is off by.
    skew: i64,
    next: u64,
    events: BTreeMap<(u64, u64), Event>,
    store: Store,
    dispatcher: Option<Dispatcher>,
    frozen_until: u64,
    agents: Vec<Agent>,
    /// Agents whose words do not arrive, and agents who hear nothing.
    mute: BTreeSet<usize>,
    deaf: BTreeSet<usize>,
    trouble: Trouble,
    /// Only these are healthy, once trouble is over in liveness mode.
    core: Option<usize>,
    builds: u64,
    trace: u64,
    pub(crate) happened: BTreeMap<&'static str, u64>,
}

/// What came of a seed.
pub(crate) struct Verdict {
    pub(crate) trace: u64,
    pub(crate) stages: usize,
    pub(crate) flaws: Vec<String>,
    pub(crate) happened: BTreeMap<&'static str, u64>,
}

impl World {
    pub(crate) fn new(seed: u64, mode: Mode, fence: Fence) -> Self {
        let mut rng = Rng::new(seed);
        let agents = if rng.chance(50) {
            100
        } else {
            5 + rng.below(12)
        };
        let trouble = Trouble {
            lost: rng.below(150),
            doubled: rng.below(80),
            delay: 20 + rng.below(4_000),
            crash: rng.below(8),
        };
        let mut world = Self {
            mode,
            now: 1_000_000,
            skew: 0,
            next: 0,
            events: BTreeMap::new(),
            store: Store::new(fence),
            dispatcher: None,
            frozen_until: 0,
            agents: Vec::new(),
            mute: BTreeSet::new(),
            deaf: BTreeSet::new(),
            trouble,
            core: None,
            builds: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            happened: BTreeMap::new(),
            rng,
        };
        for number in 0..usize::try_from(agents).unwrap_or(5) {
            let slots = 1 + u32::try_from(world.rng.below(3)).unwrap_or(0);
            world.agents.push(Agent::new(world.ticks(), slots));
            let after = world.rng.below(AGENT_TICK);
            world.later(after, Event::AgentTick(number));
        }
        world.later(0, Event::StartDispatcher);
        world.later(0, Event::DispatcherTick);
        world.later(0, Event::Submit);
        world.later(1_000, Event::Nemesis);
        world
    }

    fn ticks(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.now).unwrap_or(i64::MAX))
    }

    fn wall(&self) -> Timestamp {
        let now = i64::try_from(self.now).unwrap_or(i64::MAX);
        Timestamp::from_millis(1_700_000_000_000 + now + self.skew)
    }

    fn later(&mut self, after: u64, event: Event) {
        self.next += 1;
        self.events.insert((self.now + after, self.next), event);
    }

    fn note(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    /// Lives until its end, and says what was wrong.
    pub(crate) fn run(mut self) -> Verdict {
        let start = self.now;
        let trouble_ends = start + TROUBLE;
        let end = trouble_ends
            + if self.mode == Mode::Safety {
                TROUBLE
            } else {
                PATIENCE
            };
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                break;
            }
            self.now = at;
            if self.mode == Mode::Liveness && at >= trouble_ends {
                if self.core.is_none() {
                    self.calm();
                }
                if self.store.checker.open().is_empty() {
                    break;
                }
            }
            self.record(&event);
            self.happen(event, trouble_ends);
            if !self.store.checker.flaws.is_empty() {
                break;
            }
        }
        let mut flaws = std::mem::take(&mut self.store.checker.flaws);
        if self.mode == Mode::Liveness {
            let open = self.store.checker.open();
            flaws.extend(open.iter().take(5).map(|stage| {
                let row = self.store.rows.get(*stage);
                format!("{stage} is lost or stuck: {row:?}")
            }));
        }
        Verdict {
            trace: self.trace,
            stages: self.store.checker.count(),
            flaws,
            happened: self.happened,
        }
    }

    fn record(&mut self, event: &Event) {
        for byte in format!("{}{event:?}", self.now).bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// From here on half of the agents and the dispatcher are healthy; the others are gone for ever.
    fn calm(&mut self) {
        let core = self.agents.len().div_ceil(2);
        self.core = Some(core);
        self.trouble = Trouble {
            lost: 0,
            doubled: 0,
            delay: 20,
            crash: 0,
        };
        self.mute = (core..self.agents.len()).collect();
        self.deaf = self.mute.clone();
        self.frozen_until = 0;
        for number in 0..core {
            let now = self.ticks();
            if let Some(agent) = self.agents.get_mut(number) {
                agent.paused_until = Timestamp::EPOCH;
                if !agent.alive {
                    agent.start(now);
                }
            }
        }
    }

    fn happen(&mut self, event: Event, trouble_ends: u64) {
        match event {
            Event::DispatcherTick => {
                self.later(DISPATCHER_TICK, Event::DispatcherTick);
                if self.frozen_until <= self.now {
                    self.turn(None);
                }
            }
            Event::AgentTick(number) => {
                self.later(AGENT_TICK, Event::AgentTick(number));
                let (now, digest) = (self.ticks(), self.rng.number());
                let agent = self.agents.get_mut(number);
                let agent = agent.filter(|agent| agent.alive && agent.paused_until <= now);
                let deeds = agent.map(|agent| agent.tick(now, digest));
                self.deeds(number, deeds.unwrap_or_default());
            }
            Event::ToDispatcher(number, message) => {
                if self.frozen_until > self.now {
                    let after = self.frozen_until - self.now;
                    return self.later(after, Event::ToDispatcher(number, message));
                }
                self.turn(Some((number, message)));
            }
            Event::ToAgent(number, session, message) => {
                let now = self.ticks();
                let agent = self.agents.get_mut(number);
                let Some(agent) = agent.filter(|a| a.alive && a.session == session) else {
                    return;
                };
                if agent.paused_until > now {
                    let after = agent.paused_until.since(now).as_millis();
                    let after = u64::try_from(after).unwrap_or(0) + 1;
                    return self.later(after, Event::ToAgent(number, session, message));
                }
                let deeds = agent.hear(now, message);
                self.deeds(number, deeds);
            }
            Event::StartDispatcher => {
                self.dispatcher = Some(Dispatcher::start(&self.store, (self.ticks(), self.wall())));
            }
            Event::StartAgent(number) => {
                let now = self.ticks();
                if let Some(agent) = self.agents.get_mut(number).filter(|agent| !agent.alive) {
                    agent.start(now);
                }
            }
            Event::Submit => {
                if self.now < trouble_ends {
                    self.submit();
                    let after = 2_000 + self.rng.below(40_000);
                    self.later(after, Event::Submit);
                }
            }
            Event::Nemesis => {
                if self.core.is_none() {
                    self.nemesis();
                    let after = 500 + self.rng.below(20_000);
                    self.later(after, Event::Nemesis);
                }
            }
        }
    }

    fn deeds(&mut self, number: usize, deeds: Vec<Deed>) {
        for deed in deeds {
            match deed {
                Deed::Say(message) => {
                    if !self.mute.contains(&number) {
                        self.send(Event::ToDispatcher(number, message));
                    }
                }
                Deed::Execute(attempt) => {
                    self.note("executions");
                    self.store.checker.executed(&attempt.0);
                    let takes = Duration::from_millis(200 + self.rng.below(30_000));
                    let until = self.ticks().after(takes);
                    if let Some(agent) = self.agents.get_mut(number) {
                        agent.executes(&attempt, until);
                    }
                }
            }
        }
    }

    fn send(&mut self, event: Event) {
        // To the dispatcher an agent's older streams are still read; to an agent there is one stream,
        // and a stream doubles nothing.
        let both = matches!(event, Event::ToDispatcher(..));
        if both && self.rng.chance(self.trouble.doubled) {
            self.note("doubled");
            let after = 1 + self.rng.below(self.trouble.delay * 10);
            self.later(after, event.clone());
        }
        if self.rng.chance(self.trouble.lost) {
            return self.note("lost");
        }
        let after = 1 + self.rng.below(self.trouble.delay);
        self.later(after, event);
    }

    fn turn(&mut self, message: Option<(usize, ToDispatcher)>) {
        let (now, wall, jitter) = (self.ticks(), self.wall(), self.rng.number());
        let Some(dispatcher) = &mut self.dispatcher else {
            return;
        };
        let (rng, odds) = (&mut self.rng, self.trouble.crash);
        let mut crash = || rng.chance(odds);
        let mut turn = Turn {
            store: &mut self.store,
            now,
            wall,
            crash: &mut crash,
            jitter,
            said: Vec::new(),
        };
        let outcome = match message {
            Some((number, message)) => {
                let from = agent_id(number);
                dispatcher.hear(&mut turn, &from, message)
            }
            None => dispatcher.tick(&mut turn),
        };
        let said = std::mem::take(&mut turn.said);
        if outcome.is_err() {
            self.note("dispatcher crashes");
            self.dispatcher = None;
            let after = 100 + self.rng.below(90_000);
            self.later(after, Event::StartDispatcher);
        }
        for (to, session, message) in said {
            let number = usize::try_from(number_of(&to)).unwrap_or(0);
            if !self.deaf.contains(&number) {
                self.send(Event::ToAgent(number, session, message));
            }
        }
    }

    fn submit(&mut self) {
        self.builds += 1;
        let (build, repo): (BuildId, u64) = (id(self.builds), 800 + self.rng.below(3));
        let count = 1 + self.rng.below(5);
        let mut rows: Vec<(StageId, Row)> = Vec::new();
        for n in 0..count {
            let needs = (0..n).filter(|_| self.rng.chance(400));
            let needs: Vec<Need> = needs
                .map(|need| Need {
                    stage: format!("s{need}"),
                    optional: false,
                })
                .collect();
            let group = self.rng.chance(150).then(|| Group {
                name: format!("g{repo}"),
                limit: 1,
            });
            let row = Row {
                build: build.clone(),
                repo,
                name: format!("s{n}"),
                needs,
                group,
                once: self.rng.chance(150),
                state: StageState::Waiting,
                attempt: 0,
                agent: None,
                ready_at: self.wall(),
                not_before: Timestamp::EPOCH,
                losses: 0,
                lost_by: BTreeSet::new(),
                result: None,
            };
            rows.push((id(10_000 + self.builds * 10 + n), row));
        }
        let wall = self.wall();
        self.store.create(rows, wall);
        let now = self.ticks();
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.refresh(&self.store, &build, (now, wall));
        }
    }

    fn nemesis(&mut self) {
        let number = usize::try_from(self.rng.below(self.agents.len() as u64)).unwrap_or(0);
        let now = self.ticks();
        let long = Duration::from_millis(self.rng.below(300_000));
        match self.rng.below(9) {
            0 => {
                self.note("agent crashes");
                if let Some(agent) = self.agents.get_mut(number) {
                    agent.crash();
                }
                let after = 1_000 + self.rng.below(200_000);
                self.later(after, Event::StartAgent(number));
            }
            1 => {
                self.note("agent pauses");
                if let Some(agent) = self.agents.get_mut(number) {
                    agent.paused_until = now.after(long);
                }
            }
            2 => {
                self.note("partitions");
                self.mute.insert(number);
                self.deaf.insert(number);
            }
            3 => {
                self.note("one-way partitions");
                self.mute.insert(number);
            }
            4 => {
                self.note("one-way partitions");
                self.deaf.insert(number);
            }
            5 => {
                self.mute.clear();
                self.deaf.clear();
            }
            6 => {
                self.note("dispatcher pauses");
                self.frozen_until = self.now + self.rng.below(100_000);
            }
            7 => {
                self.note("clock jumps");
                // An hour either way, or ten years.
                self.skew = match self.rng.below(4) {
                    0 => 3_600_000,
                    1 => -3_600_000,
                    2 => 315_576_000_000,
                    _ => 0,
                };
            }
            _ => {
                self.mute.remove(&number);
                self.deaf.remove(&number);
            }
        }
    }
}

fn agent_id(number: usize) -> AgentId {
    id(900 + number as u64)
}

fn number_of(agent: &AgentId) -> u64 {
    agent.as_str().parse::<u64>().map_or(0, |n| n - 900)
}
