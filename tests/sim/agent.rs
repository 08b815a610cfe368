//! An agent with a fake executor, over `core::lease::holder`.

use std::collections::BTreeMap;
use std::time::Duration;

use slipway_core::build::StageState;
use slipway_core::lease::grantor::Attempt;
use slipway_core::lease::holder::{Action, Event, Holder};
use slipway_core::lease::terms::{RENEW_RETRY, Terms};
use slipway_core::time::Timestamp;

use crate::wire::{ToAgent, ToDispatcher};

/// How long an agent that hears nothing waits before it says hello again.
const DEAF: Duration = Duration::from_secs(20);
/// Between two tries to be heard with a result, or with being prepared.
const AGAIN: Duration = Duration::from_secs(5);

/// An attempt here.
#[derive(Clone, Debug)]
enum Work {
    /// Waits for the word to go: at most once.
    Prepared,
    /// Ends at this instant.
    Executing(Timestamp),
    /// On disk until it is answered.
    Finished(StageState, String),
}

pub(crate) struct Agent {
    /// On disk: survives a crash.
    work: BTreeMap<Attempt, Work>,
    holder: Holder,
    connected: bool,
    heard: Timestamp,
    hello: Timestamp,
    told: Timestamp,
    /// The process is there.
    pub(crate) alive: bool,
    /// The number of its stream: what was said on an older one does not arrive any more.
    pub(crate) session: u32,
    /// It does nothing until then.
    pub(crate) paused_until: Timestamp,
    pub(crate) slots: u32,
}

/// What it does, besides speaking.
pub(crate) enum Deed {
    Say(ToDispatcher),
    /// The commands begin: their time and end are the world's to choose.
    Execute(Attempt),
}

impl Agent {
    pub(crate) fn new(now: Timestamp, slots: u32) -> Self {
        Self {
            work: BTreeMap::new(),
            holder: holder(now),
            connected: false,
            heard: now,
            hello: Timestamp::EPOCH,
            told: now,
            alive: true,
            session: 0,
            paused_until: Timestamp::EPOCH,
            slots,
        }
    }

    /// The process is killed: what executes dies with it, what is on disk stays.
    pub(crate) fn crash(&mut self) {
        self.alive = false;
        self.connected = false;
        self.work
            .retain(|_, work| matches!(work, Work::Finished(..)));
    }

    pub(crate) fn start(&mut self, now: Timestamp) {
        self.alive = true;
        self.session += 1;
        self.connected = false;
        self.holder = holder(now);
        self.heard = now;
        self.hello = Timestamp::EPOCH;
    }

    /// The world has chosen how long an execution takes.
    pub(crate) fn executes(&mut self, attempt: &Attempt, until: Timestamp) {
        if let Some(work) = self.work.get_mut(attempt) {
            *work = Work::Executing(until);
        }
    }

    fn drop_work(&mut self, now: Timestamp, attempt: &Attempt) {
        self.work.remove(attempt);
        self.holder.handle(now, Event::Released(attempt.clone()));
    }

    pub(crate) fn tick(&mut self, now: Timestamp, digest: u64) -> Vec<Deed> {
        let mut deeds = Vec::new();
        // Fencing comes before speaking.
        self.holder.handle(now, Event::Tick);
        while let Some(action) = self.holder.poll(now) {
            match action {
                Action::Fence(attempt) => {
                    if !matches!(self.work.get(&attempt), Some(Work::Finished(..))) {
                        self.drop_work(now, &attempt);
                    }
                }
                Action::Renew => {
                    let held = self.holder.held().cloned().collect();
                    deeds.push(Deed::Say(ToDispatcher::Renew(held)));
                    self.holder.handle(now, Event::RenewSent);
                }
            }
        }
        for (attempt, work) in &mut self.work {
            if let Work::Executing(until) = work
                && *until <= now
            {
                let state = if digest.is_multiple_of(8) {
                    StageState::Failed
                } else {
                    StageState::Succeeded
                };
                *work = Work::Finished(state, format!("{}/{}/{digest}", attempt.0, attempt.1));
            }
        }
        if self.connected && now.since(self.heard) > DEAF {
            self.connected = false;
            self.holder.handle(now, Event::Disconnected);
        }
        if !self.connected && now.since(self.hello) > AGAIN {
            self.hello = now;
            self.session += 1;
            let held = self.work.keys().cloned().collect();
            deeds.push(Deed::Say(ToDispatcher::Hello(
                self.session,
                self.slots,
                held,
            )));
        }
        if self.connected && now.since(self.told) > AGAIN {
            self.told = now;
            for (attempt, work) in &self.work {
                deeds.extend(say(attempt, work).map(Deed::Say));
            }
        }
        deeds
    }

    pub(crate) fn hear(&mut self, now: Timestamp, message: ToAgent) -> Vec<Deed> {
        // A stream begins with its welcome, and is welcomed once.
        if self.connected == matches!(message, ToAgent::Welcome(_)) {
            return Vec::new();
        }
        self.heard = now;
        let mut deeds = Vec::new();
        match message {
            ToAgent::Welcome(kept) => {
                self.connected = true;
                self.holder.handle(now, Event::Connected);
                let unknown: Vec<Attempt> = self
                    .work
                    .iter()
                    .filter(|(attempt, work)| {
                        !kept.contains(attempt) && !matches!(work, Work::Finished(..))
                    })
                    .map(|(attempt, _)| attempt.clone())
                    .collect();
                for attempt in unknown {
                    self.drop_work(now, &attempt);
                }
            }
            ToAgent::Assign(attempt, once) => {
                deeds.push(Deed::Say(ToDispatcher::Taken(attempt.clone())));
                if self.work.contains_key(&attempt) {
                    return deeds;
                }
                self.work.insert(attempt.clone(), Work::Prepared);
                let held = Event::Held {
                    attempt: attempt.clone(),
                    repeatable: !once,
                };
                self.holder.handle(now, held);
                deeds.push(if once {
                    Deed::Say(ToDispatcher::Prepared(attempt))
                } else {
                    Deed::Execute(attempt)
                });
            }
            ToAgent::Go(attempt) => {
                if matches!(self.work.get(&attempt), Some(Work::Prepared)) {
                    deeds.push(Deed::Execute(attempt));
                }
            }
            ToAgent::Renewed(gone) => {
                self.holder.handle(now, Event::RenewAnswered);
                for attempt in gone {
                    if !matches!(self.work.get(&attempt), Some(Work::Finished(..))) {
                        self.drop_work(now, &attempt);
                    }
                }
            }
            ToAgent::Ack(attempt) => self.drop_work(now, &attempt),
        }
        deeds
    }
}

fn holder(now: Timestamp) -> Holder {
    let terms = Terms::default();
    Holder::new(now, terms.lease, terms.renew, RENEW_RETRY)
}

fn say(attempt: &Attempt, work: &Work) -> Option<ToDispatcher> {
    match work {
        Work::Prepared => Some(ToDispatcher::Prepared(attempt.clone())),
        Work::Executing(_) => Some(ToDispatcher::Progress(attempt.clone())),
        Work::Finished(state, digest) => Some(ToDispatcher::Result(
            attempt.clone(),
            *state,
            digest.clone(),
        )),
    }
}
