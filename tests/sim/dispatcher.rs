//! The dispatcher's volatile half over `core::queue` and `core::lease::grantor`: made anew from the
//! store at each start, as `loops/scheduling` does it.

use std::collections::BTreeMap;
use std::time::Duration;

use slipway_core::build::{StageState, back_off_end};
use slipway_core::id::{AgentId, BuildId, StageId};
use slipway_core::lease::grantor::{Action, Attempt, Event, Grantor};
use slipway_core::lease::terms::Terms;
use slipway_core::queue::{Agent, AgentState, Assignment, Held, Queue, Waiting, check};
use slipway_core::time::Timestamp;

use crate::store::{Row, Store};
use crate::wire::{ToAgent, ToDispatcher};

/// Between two looks at everything.
const SWEEP: Duration = Duration::from_secs(5);

pub(crate) struct Dispatcher {
    queue: Queue,
    grantor: Grantor,
    agents: BTreeMap<AgentId, Agent>,
    heard: BTreeMap<AgentId, Timestamp>,
    swept: Timestamp,
    /// The newest stream of each agent, since the start.
    sessions: BTreeMap<AgentId, u32>,
}

/// The world ends the dispatcher at a border of a durable write.
pub(crate) struct Crashed;

/// What a handled event asks of the world.
pub(crate) struct Turn<'a> {
    pub(crate) store: &'a mut Store,
    /// Monotonic, and the wall clock, which jumps.
    pub(crate) now: Timestamp,
    pub(crate) wall: Timestamp,
    /// Whether the next durable border is the last; a number for jitter.
    pub(crate) crash: &'a mut dyn FnMut() -> bool,
    pub(crate) jitter: u64,
    /// To whom, on which stream.
    pub(crate) said: Vec<(AgentId, u32, ToAgent)>,
}

impl Turn<'_> {
    /// A border before and after each durable write.
    fn persist<T>(&mut self, write: impl FnOnce(&mut Store) -> T) -> Result<T, Crashed> {
        if (self.crash)() {
            return Err(Crashed);
        }
        let wrote = write(self.store);
        if (self.crash)() {
            return Err(Crashed);
        }
        Ok(wrote)
    }
}

impl Dispatcher {
    pub(crate) fn start(store: &Store, (now, wall): (Timestamp, Timestamp)) -> Self {
        let mut fresh = Self {
            queue: Queue::new(),
            grantor: Grantor::new(now, Terms::default()),
            agents: BTreeMap::new(),
            heard: BTreeMap::new(),
            swept: now,
            sessions: BTreeMap::new(),
        };
        for (id, row) in &store.rows {
            if matches!(row.state, StageState::Assigned | StageState::Running) {
                let adopted = Event::Adopted((id.clone(), row.attempt));
                fresh.grantor.handle(now, adopted);
            }
            fresh.index(id, row, wall);
        }
        fresh
    }

    fn index(&mut self, id: &StageId, row: &Row, wall: Timestamp) {
        match row.state {
            StageState::Ready => self.queue.put(waiting(id, row, wall)),
            StageState::Assigned | StageState::Running => {
                if let (Some(agent), None) = (&row.agent, self.queue.holder(id)) {
                    self.queue
                        .hold(id.clone(), Held::of(&waiting(id, row, wall), agent));
                }
            }
            _ => self.queue.remove(id),
        }
    }

    /// Makes the index say what the rows of a build say.
    pub(crate) fn refresh(
        &mut self,
        store: &Store,
        build: &BuildId,
        (now, wall): (Timestamp, Timestamp),
    ) {
        for (id, row) in store.rows.iter().filter(|(_, row)| row.build == *build) {
            let held = matches!(row.state, StageState::Assigned | StageState::Running);
            if let Some(was) = self.queue.holder(id).filter(|_| !held) {
                let repo = was.repo.clone();
                self.grantor.end_of(now, id);
                self.queue.spend(&repo, Duration::from_secs(10), now);
            }
            self.index(id, row, wall);
        }
    }

    fn refresh_stage(&mut self, store: &Store, stage: &StageId, now: (Timestamp, Timestamp)) {
        if let Some(build) = store.rows.get(stage).map(|row| row.build.clone()) {
            self.refresh(store, &build, now);
        }
    }

    /// The stream that a message counts for: `None` when it is of an older one, or of one that ended
    /// with the last process.
    fn stream(&self, from: &AgentId, message: &ToDispatcher) -> Option<u32> {
        let known = self.sessions.get(from).copied();
        match message {
            ToDispatcher::Hello(session, ..) => known
                .is_none_or(|known| *session >= known)
                .then_some(*session),
            _ => known,
        }
    }

    pub(crate) fn hear(
        &mut self,
        turn: &mut Turn<'_>,
        from: &AgentId,
        message: ToDispatcher,
    ) -> Result<(), Crashed> {
        let now = turn.now;
        let owns = |store: &Store, (stage, attempt): &Attempt| {
            store.rows.get(stage).is_some_and(|row| {
                let held = matches!(row.state, StageState::Assigned | StageState::Running);
                held && row.attempt == *attempt && row.agent.as_ref() == Some(from)
            })
        };
        let Some(session) = self.stream(from, &message) else {
            return Ok(());
        };
        match message {
            ToDispatcher::Hello(session, slots, named) => {
                let ours = turn.store.rows.iter();
                let ours: Vec<Attempt> = ours
                    .map(|(id, row)| (id.clone(), row.attempt))
                    .filter(|attempt| owns(turn.store, attempt))
                    .collect();
                for attempt in &ours {
                    self.grantor.handle(
                        now,
                        if named.contains(attempt) {
                            Event::Renewed(attempt.clone())
                        } else {
                            Event::Disowned(attempt.clone())
                        },
                    );
                }
                self.sessions.insert(from.clone(), session);
                self.agents.insert(from.clone(), facts(slots));
                self.heard.insert(from.clone(), now);
                turn.said
                    .push((from.clone(), session, ToAgent::Welcome(ours)));
            }
            ToDispatcher::Renew(named) => {
                self.heard.insert(from.clone(), now);
                let (held, gone): (Vec<Attempt>, Vec<Attempt>) = named
                    .into_iter()
                    .partition(|attempt| owns(turn.store, attempt));
                for attempt in held {
                    self.grantor.handle(now, Event::Renewed(attempt));
                }
                turn.said
                    .push((from.clone(), session, ToAgent::Renewed(gone)));
            }
            ToDispatcher::Taken(attempt) => {
                if owns(turn.store, &attempt) {
                    self.grantor.handle(now, Event::Taken(attempt));
                }
            }
            ToDispatcher::Prepared(attempt) => {
                if turn.persist(|store| store.run(&attempt.0, attempt.1, from))? {
                    turn.said
                        .push((from.clone(), session, ToAgent::Go(attempt)));
                }
            }
            ToDispatcher::Progress(attempt) => {
                turn.persist(|store| store.run(&attempt.0, attempt.1, from))?;
            }
            ToDispatcher::Result(attempt, state, digest) => {
                let wall = turn.wall;
                turn.persist(|store| store.accept(&attempt, from, (state, &digest), wall))?;
                self.refresh_stage(turn.store, &attempt.0, (now, wall));
                turn.said
                    .push((from.clone(), session, ToAgent::Ack(attempt)));
            }
        }
        Ok(())
    }

    pub(crate) fn tick(&mut self, turn: &mut Turn<'_>) -> Result<(), Crashed> {
        let (now, wall, jitter) = (turn.now, turn.wall, turn.jitter);
        self.grantor.handle(now, Event::Tick);
        while let Some(action) = self.grantor.poll(now) {
            let (Action::TakeBack((stage, _)) | Action::Expire((stage, _))) = action.clone();
            match action {
                Action::TakeBack((stage, attempt)) => {
                    if !turn.persist(|store| store.take_back(&stage, attempt))? {
                        // It executes already: its lease goes on.
                        self.grantor.handle(now, Event::Adopted((stage, attempt)));
                    }
                }
                Action::Expire((stage, attempt)) => {
                    turn.persist(|store| store.lose(&stage, attempt, wall, jitter))?;
                }
            }
            self.refresh_stage(turn.store, &stage, (now, wall));
        }
        // Rows that wait are read again: a back-off by a clock that was set back ends so.
        if now.since(self.swept) > SWEEP {
            self.swept = now;
            let ready = turn.store.rows.iter();
            for (id, row) in ready.filter(|(_, row)| row.state == StageState::Ready) {
                self.queue.put(waiting(id, row, wall));
            }
        }
        for (id, agent) in &mut self.agents {
            agent.silent = self
                .heard
                .get(id)
                .map_or(Duration::MAX, |at| now.since(*at));
        }
        let plan = self.queue.plan(&self.agents, wall);
        for flaw in check(&self.queue, &self.agents, wall, &plan) {
            turn.store.checker.flaws.push(format!("a plan: {flaw:?}"));
        }
        for assignment in plan.assignments {
            self.give_out(turn, &assignment)?;
        }
        Ok(())
    }

    fn give_out(&mut self, turn: &mut Turn<'_>, a: &Assignment) -> Result<(), Crashed> {
        let good = turn.persist(|store| store.assign(&a.stage, a.attempt, &a.agent))?;
        if !good {
            self.refresh_stage(turn.store, &a.stage, (turn.now, turn.wall));
            return Ok(());
        }
        self.queue.grant(a);
        let attempt = (a.stage.clone(), a.attempt + 1);
        self.grantor
            .handle(turn.now, Event::Granted(attempt.clone()));
        let once = turn.store.rows.get(&a.stage).is_some_and(|row| row.once);
        let session = self.sessions.get(&a.agent).copied().unwrap_or(0);
        let assign = ToAgent::Assign(attempt, once);
        turn.said.push((a.agent.clone(), session, assign));
        Ok(())
    }
}

fn waiting(id: &StageId, row: &Row, wall: Timestamp) -> Waiting {
    Waiting {
        stage: id.clone(),
        attempt: row.attempt,
        build: row.build.clone(),
        repo: crate::world::id(row.repo),
        weight: 1,
        name: row.name.clone(),
        cache_key: String::new(),
        priority: 5,
        urgent: false,
        ready_at: row.ready_at,
        not_before: back_off_end(row.not_before, wall),
        labels: BTreeMap::new(),
        group: row.group.clone(),
        build_group: None,
        build_begun: false,
        critical: Duration::from_secs(60),
        lost_by: row.lost_by.clone(),
        near: None,
    }
}

fn facts(slots: u32) -> Agent {
    Agent {
        state: AgentState::Ready,
        connected: true,
        silent: Duration::ZERO,
        silent_max: Terms::default().silent,
        slots,
        labels: BTreeMap::new(),
        disk_free: 90.0,
        cpu_pressure: 0.0,
        memory_pressure: 0.0,
    }
}
