//! Ready stages go to agents, and leases end: the driver of `core::queue` and `core::lease`.
//!
//! Holds the queue's index and all deadlines in memory, made anew from the store at start. Events
//! drive it; a sweep re-reads the store, a part every few seconds, and whatever it finds that no event
//! announced is counted (`slipway_sweep_rescues_total`), because that is a defect.

pub mod demand;
pub mod explain;
mod grant;
mod index;
mod recall;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::{AgentId, BuildId, StageId};
use slipway_core::lease::grantor::{Action, Attempt, Event, Grantor};
use slipway_core::queue::{Agent, AgentState, Queue, check};
use slipway_core::time::Timestamp;
use slipway_daemon::Shutdown;
use slipway_store::StoreError;

use crate::state::{App, Shared};
use crate::usecases::lose_attempt::lose_attempt;

/// The safety net.
const SWEEP: Duration = Duration::from_secs(5);
/// Longest queue whose plans a debug build checks: the check reads all of it, the plan does not.
const CHECKED_MAX: usize = 1_000;
/// Nudges handled between two plans.
const BATCH: usize = 256;

/// What the scheduler is told.
#[derive(Debug)]
pub enum Nudge {
    /// Stages of a build changed.
    BuildChanged(BuildId),
    /// An agent said hello.
    Connected {
        /// Which.
        agent: AgentId,
        /// The number of its stream.
        session: u64,
        /// What it can do.
        facts: Box<Agent>,
        /// What it holds, by its own word and ours.
        kept: Vec<Attempt>,
        /// What we thought it holds, and it does not.
        disowned: Vec<Attempt>,
    },
    /// An agent's stream ended.
    Gone(AgentId, u64),
    /// An agent renewed.
    Renewed {
        /// Which.
        agent: AgentId,
        /// The attempts it named.
        held: Vec<Attempt>,
        /// Free disk, processor pressure, memory pressure; percent.
        pressure: [f32; 3],
    },
    /// An agent took an assignment.
    Taken(AgentId, Attempt),
    /// An agent declined, and why.
    Declined(AgentId, Attempt, String),
    /// An agent is gone for good, with the attempts that it held.
    Removed(AgentId, Vec<Attempt>),
    /// An agent may or may not take work from now on.
    State(AgentId, AgentState),
    /// Somebody wants to know why stages wait.
    Explain(explain::Asker),
    /// The scaling loop wants to know how much there is to do.
    Demand(demand::Asker),
}

struct Scheduler {
    app: Arc<App>,
    queue: Queue,
    grantor: Grantor,
    agents: BTreeMap<AgentId, Agent>,
    sessions: BTreeMap<AgentId, u64>,
    heard: BTreeMap<AgentId, Timestamp>,
    /// When each held stage was given out, for fair share.
    since: BTreeMap<StageId, Timestamp>,
    /// Where a build's last stage was executed.
    near: BTreeMap<BuildId, AgentId>,
    rescues: u64,
    /// The last build that the sweep looked at; `None` = it begins anew.
    swept_to: Option<BuildId>,
    /// Builds with stages that are looked up before anybody executes them.
    to_recall: BTreeSet<BuildId>,
}

/// Runs until shutdown.
pub async fn run(app: Arc<App>, nudges: Shared<Nudge>, shutdown: Shutdown) {
    let mut nudges = nudges.lock().await;
    let mut scheduler = Scheduler::new(app);
    while let Err(error) = scheduler.load().await {
        scheduler
            .app
            .health
            .degraded("scheduler", error.to_string());
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
    }
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(BATCH);
    let mut wake = SWEEP;
    loop {
        batch.clear();
        let swept = tokio::select! {
            () = shutdown.cancelled() => return,
            got = nudges.recv_many(&mut batch, BATCH) => {
                if got == 0 {
                    return;
                }
                false
            }
            () = tokio::time::sleep(wake) => false,
            _ = sweep.tick() => true,
        };
        let outcome = scheduler.round(&mut batch, swept, &shutdown).await;
        wake = match outcome {
            Ok(wake) => {
                scheduler.app.health.recovered("scheduler");
                wake
            }
            Err(error) => {
                scheduler
                    .app
                    .health
                    .degraded("scheduler", error.to_string());
                SWEEP
            }
        };
    }
}

impl Scheduler {
    fn new(app: Arc<App>) -> Self {
        let grantor = Grantor::new(app.clock.ticks(), app.settings.terms);
        Self {
            app,
            queue: Queue::new(),
            grantor,
            agents: BTreeMap::new(),
            sessions: BTreeMap::new(),
            heard: BTreeMap::new(),
            since: BTreeMap::new(),
            near: BTreeMap::new(),
            rescues: 0,
            swept_to: None,
            to_recall: BTreeSet::new(),
        }
    }

    /// One round; how long to sleep afterwards.
    async fn round(
        &mut self,
        batch: &mut Vec<Nudge>,
        swept: bool,
        shutdown: &Shutdown,
    ) -> Result<Duration, StoreError> {
        let (mut changed, mut askers) = (Vec::new(), Vec::new());
        let mut scaling = None;
        for nudge in batch.drain(..) {
            match nudge {
                Nudge::BuildChanged(build) => changed.push(build),
                Nudge::Explain(asker) => askers.push(asker),
                Nudge::Demand(asker) => scaling = Some(asker),
                other => self.hear(other),
            }
        }
        changed.sort();
        changed.dedup();
        self.refresh_all(changed).await?;
        if swept {
            self.sweep().await?;
            self.app.logs.sweep().await;
        }
        self.recall().await?;
        self.judge_leases().await?;
        let wake_at = self.place(shutdown).await?;
        self.explain(askers);
        if let Some(asker) = scaling {
            self.tell_demand(asker);
        }
        Ok(self.sleep_time(wake_at))
    }

    fn hear(&mut self, nudge: Nudge) {
        let now = self.app.clock.ticks();
        match nudge {
            Nudge::BuildChanged(_) | Nudge::Explain(_) | Nudge::Demand(_) => {}
            Nudge::Connected {
                agent,
                session,
                facts,
                kept,
                disowned,
            } => {
                self.agents.insert(agent.clone(), *facts);
                self.sessions.insert(agent.clone(), session);
                self.heard.insert(agent, now);
                for attempt in kept {
                    self.grantor.handle(now, Event::Renewed(attempt));
                }
                for attempt in disowned {
                    self.grantor.handle(now, Event::Disowned(attempt));
                }
            }
            Nudge::Gone(agent, session) => {
                if self.sessions.get(&agent) == Some(&session)
                    && let Some(known) = self.agents.get_mut(&agent)
                {
                    known.connected = false;
                }
            }
            Nudge::Renewed {
                agent,
                held,
                pressure: [disk_free, cpu, memory],
            } => {
                if let Some(known) = self.agents.get_mut(&agent) {
                    known.disk_free = disk_free;
                    known.cpu_pressure = cpu;
                    known.memory_pressure = memory;
                }
                self.heard.insert(agent, now);
                for attempt in held {
                    self.grantor.handle(now, Event::Renewed(attempt));
                }
            }
            // What an agent says of another one's attempt counts for nothing.
            Nudge::Taken(agent, attempt) if self.is_holder(&agent, &attempt.0) => {
                self.grantor.handle(now, Event::Taken(attempt));
            }
            Nudge::Declined(agent, attempt, reason) if self.is_holder(&agent, &attempt.0) => {
                tracing::info!(stage = %attempt.0, reason, "an agent declined");
                self.pass_over(&attempt.0, &reason);
                self.grantor.handle(now, Event::Declined(attempt));
            }
            Nudge::Taken(agent, attempt) | Nudge::Declined(agent, attempt, _) => {
                tracing::debug!(agent = %agent, stage = %attempt.0, "an answer that is not its own");
            }
            Nudge::Removed(agent, disowned) => {
                self.forget(&agent);
                for attempt in disowned {
                    self.grantor.handle(now, Event::Disowned(attempt));
                }
            }
            Nudge::State(agent, state) => {
                if let Some(known) = self.agents.get_mut(&agent) {
                    known.state = state;
                }
            }
        }
    }

    fn is_holder(&self, agent: &AgentId, stage: &StageId) -> bool {
        self.queue
            .holder(stage)
            .is_some_and(|held| held.agent == *agent)
    }

    /// Whoever declined is given nothing until its next renewal, which says how it is: it would only
    /// decline again, as fast as it is asked.
    fn pass_over(&mut self, stage: &StageId, reason: &str) {
        let Some(agent) = self.queue.holder(stage).map(|held| held.agent.clone()) else {
            return;
        };
        match self.agents.get_mut(&agent) {
            Some(known) if reason == "disk" => known.disk_free = 0.0,
            _ => {
                self.heard.remove(&agent);
            }
        }
    }

    async fn judge_leases(&mut self) -> Result<(), StoreError> {
        let now = self.app.clock.ticks();
        self.grantor.handle(now, Event::Tick);
        while let Some(action) = self.grantor.poll(now) {
            let (Action::TakeBack(attempt) | Action::Expire(attempt)) = action.clone();
            let done = match action {
                Action::TakeBack(attempt) => self.take_back(attempt).await,
                Action::Expire(attempt) => self.expire(attempt).await,
            };
            if let Err(error) = done {
                // The lease has left the grantor: without this nobody would ever end the attempt.
                self.grantor.handle(now, Event::Adopted(attempt));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn take_back(&mut self, (stage, attempt): Attempt) -> Result<(), StoreError> {
        let number = i64::from(attempt);
        if self.app.db.take_back(&stage, number).await? {
            tracing::info!(stage = %stage, attempt, "taken back: declined, or nobody answered");
        } else {
            // It executes already, and only the word of that is late: its lease goes on.
            let now = self.app.clock.ticks();
            self.grantor
                .handle(now, Event::Adopted((stage.clone(), attempt)));
        }
        self.refresh_stage(&stage).await
    }

    async fn expire(&mut self, (stage, attempt): Attempt) -> Result<(), StoreError> {
        let number = i64::from(attempt);
        let lost = lose_attempt(&self.app, &stage, number, "agent_lost").await?;
        // Not by a nudge: this loop would wait for itself where they are many.
        self.refresh_stage(&stage).await?;
        if let Some(change) = lost.change {
            self.app.show_change(&change);
        }
        if let Some(agent) = lost.quarantined {
            self.hear(Nudge::State(agent, AgentState::Quarantined));
        }
        Ok(())
    }

    async fn refresh_stage(&mut self, stage: &StageId) -> Result<(), StoreError> {
        if let Some(row) = self.app.db.stage(stage).await?
            && let Ok(build) = row.build_id.parse()
        {
            self.refresh(&build).await?;
        }
        Ok(())
    }

    /// Plans and gives out; when to look again although nothing happens.
    async fn place(&mut self, shutdown: &Shutdown) -> Result<Option<Timestamp>, StoreError> {
        let ticks = self.app.clock.ticks();
        for (id, agent) in &mut self.agents {
            agent.silent = self
                .heard
                .get(id)
                .map_or(Duration::MAX, |at| ticks.since(*at));
        }
        let now = self.app.clock.now();
        let plan = self.queue.plan(&self.agents, now);
        debug_assert!(
            self.queue.len() > CHECKED_MAX
                || check(&self.queue, &self.agents, now, &plan).is_empty(),
            "{:?}",
            check(&self.queue, &self.agents, now, &plan)
        );
        if !plan.assignments.is_empty() {
            self.give_out(plan.assignments, shutdown).await?;
        }
        Ok(plan.wake_at)
    }

    fn sleep_time(&self, wake_at: Option<Timestamp>) -> Duration {
        let lease = self
            .grantor
            .deadline()
            .map(|at| at.since(self.app.clock.ticks()));
        let back_off = wake_at.map(|at| at.since(self.app.clock.now()));
        [lease, back_off]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(SWEEP)
            .clamp(Duration::from_millis(1), SWEEP)
    }
}
