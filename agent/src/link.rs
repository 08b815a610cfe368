//! The stream to the dispatcher: hello, leases, assignments, results. It drives
//! `core::lease::holder`, and is opened again, with full jitter, whenever it breaks. What is held goes
//! on meanwhile.

mod hello;
mod holdings;
mod lease;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::lease::grantor::Attempt as Name;
use slipway_core::lease::holder::{Event, Holder};
use slipway_core::lease::terms::{RENEW_RETRY, Terms};
use slipway_core::pipeline::StageSpec;
use slipway_daemon::{Rng, Shutdown};
use slipway_proto::DECODE_MAX;
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::agents_client::AgentsClient;
use slipway_proto::v1::dispatcher_message::Message as In;
use slipway_proto::v1::{self, AgentMessage};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::attempt::{self, Attempt, Shared, Stop};
use crate::clean_up::clean_up;
use crate::held::Kept;

/// Messages on their way to the wire.
const OUTGOING: usize = 256;
/// A result that was not answered is sent again after this.
const RESULT_RETRY: Duration = Duration::from_secs(5);
/// Reconnecting: uniform in 0 … 0.5 s × 2ⁿ, at most this.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Longest sleep of the loop.
const TICK: Duration = Duration::from_secs(1);

/// What the link is made of.
pub(crate) struct Link {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slots: u32,
    pub(crate) boot_id: String,
    pub(crate) data_dir: std::path::PathBuf,
    /// Whether its sandbox needs no proof.
    pub(crate) trusts_sandbox: bool,
    pub(crate) rng: Rng,
    /// From attempts, to the dispatcher.
    pub(crate) outbox: mpsc::Receiver<AgentMessage>,
    pub(crate) shutdown: Shutdown,
}

struct Live {
    stop: watch::Sender<Option<Stop>>,
    go: watch::Sender<bool>,
    /// How far it said it is: said again on a new stream, which the old one may have swallowed.
    said: Option<AgentMessage>,
}

/// An attempt that is over, with its result unless it was fenced.
type Ended = (AttemptKey, Option<v1::Result>);

/// What woke a session.
enum Woke {
    Heard(Option<v1::DispatcherMessage>),
    Say(AgentMessage),
    Ended(AttemptKey, Option<v1::Result>),
    Retry,
    Stop,
    Tick,
}

struct State {
    holder: Holder,
    live: BTreeMap<AttemptKey, Live>,
    results: BTreeMap<AttemptKey, v1::Result>,
    finished: mpsc::Sender<Ended>,
    /// Attempts under way, for whoever waits for a quiet moment.
    busy: watch::Sender<usize>,
    draining: bool,
    /// The highest of those who led.
    epoch: u64,
}

impl State {
    /// Remembers how far an attempt is.
    fn note(&mut self, message: &AgentMessage) {
        let attempt = match &message.message {
            Some(Out::Progress(progress)) => progress.attempt.clone(),
            Some(Out::Prepared(prepared)) => prepared.attempt.clone(),
            _ => None,
        };
        if let Ok(key) = AttemptKey::try_from(attempt)
            && let Some(live) = self.live.get_mut(&key)
        {
            live.said = Some(message.clone());
        }
    }
}

fn name(key: &AttemptKey) -> Name {
    (key.stage.clone(), key.attempt)
}

impl Link {
    /// Runs until shutdown and until everything held has been answered for.
    pub(crate) async fn run(mut self, kept: Vec<Kept>, adopted: Vec<AttemptKey>) {
        let now = self.shared.clock.ticks();
        let (finished, mut endings) = mpsc::channel(OUTGOING);
        // Until the dispatcher names its own.
        let terms = Terms::default();
        let mut state = State {
            holder: Holder::new(now, terms.lease, terms.renew, RENEW_RETRY),
            live: BTreeMap::new(),
            results: BTreeMap::new(),
            finished,
            busy: watch::Sender::new(0),
            draining: false,
            epoch: 0,
        };
        for held in kept {
            if let Some(result) = held.result {
                self.hold(&mut state, &held.key, held.assign.at_most_once);
                state.results.insert(held.key, result);
            } else if adopted.contains(&held.key) {
                self.start(&mut state, held.assign, true);
            } else {
                self.shared.held.remove(&held.key);
            }
        }
        let mut failures = 0_u32;
        loop {
            let outcome = self.session(&mut state, &mut endings).await;
            state
                .holder
                .handle(self.shared.clock.ticks(), Event::Disconnected);
            match outcome {
                Ok(true) => return,
                Ok(false) => failures = 0,
                Err(error) => {
                    failures += 1;
                    self.shared.dispatchers.next();
                    tracing::info!(error = format!("{error:#}"), "no stream to the dispatcher");
                }
            }
            if self.shutdown.has_begun() && state.live.is_empty() && state.results.is_empty() {
                return;
            }
            let limit = Duration::from_millis(500)
                .saturating_mul(1 << failures.min(6))
                .min(BACK_OFF_MAX);
            let wait = self.rng.jitter(limit);
            self.wait_offline(&mut state, &mut endings, wait).await;
        }
    }

    /// Attempts end while there is no stream, too.
    async fn wait_offline(
        &mut self,
        state: &mut State,
        endings: &mut mpsc::Receiver<Ended>,
        wait: Duration,
    ) {
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                ended = endings.recv() => if let Some((key, result)) = ended {
                    self.ended(state, key, result);
                },
                // Nobody hears it now; the next stream will.
                Some(message) = self.outbox.recv() => state.note(&message),
                // Waiting is not standing still.
                () = tokio::time::sleep(TICK) => {
                    state.holder.handle(self.shared.clock.ticks(), Event::Tick);
                }
            }
        }
    }

    fn hold(&self, state: &mut State, key: &AttemptKey, at_most_once: bool) {
        let event = Event::Held {
            attempt: name(key),
            repeatable: !at_most_once,
        };
        state.holder.handle(self.shared.clock.ticks(), event);
    }

    /// One stream, until it breaks. `true` when the agent is done for good.
    async fn session(
        &mut self,
        state: &mut State,
        endings: &mut mpsc::Receiver<Ended>,
    ) -> anyhow::Result<bool> {
        self.fence(state, endings).await;
        let (outgoing, receiver) = mpsc::channel(OUTGOING);
        let engine = self.shared.engine.borrow().returns;
        let hello = self.hello(state).await;
        outgoing.send(said(Out::Hello(hello))).await?;
        let request = ReceiverStream::new(receiver);
        let mut client = AgentsClient::new(self.shared.dispatchers.control())
            .max_decoding_message_size(DECODE_MAX);
        let linked = self.awake(&mut state.holder, client.link(request)).await;
        let mut messages = linked?.into_inner();
        let mut retry = tokio::time::interval(RESULT_RETRY);
        let mut told = holdings::Told::default();
        loop {
            self.fence(state, endings).await;
            self.renew(state, &outgoing).await?;
            told.tell(&self.shared.holdings, &outgoing).await?;
            let sleep = self.sleep_time(state);
            if state.draining && state.live.is_empty() && state.results.is_empty() {
                return Ok(true);
            }
            if self.shared.engine.borrow().returns != engine {
                // What this host can do is said again: the engine that is back may be another one.
                return Ok(false);
            }
            let woke = tokio::select! {
                message = messages.next() => Woke::Heard(message.transpose()?),
                Some(message) = self.outbox.recv() => Woke::Say(message),
                Some((key, result)) = endings.recv() => Woke::Ended(key, result),
                _ = retry.tick() => Woke::Retry,
                () = self.shutdown.cancelled(), if !state.draining => Woke::Stop,
                () = tokio::time::sleep(sleep) => Woke::Tick,
            };
            // It may have slept longer than it meant to.
            self.fence(state, endings).await;
            match woke {
                Woke::Heard(None) => return Ok(false),
                Woke::Heard(Some(heard)) => {
                    if let Some(message) = heard.message {
                        self.heard(state, message, &outgoing).await?;
                    }
                }
                Woke::Say(message) => {
                    state.note(&message);
                    outgoing.send(message).await?;
                }
                Woke::Ended(key, result) => {
                    self.ended(state, key.clone(), result);
                    if let Some(result) = state.results.get(&key) {
                        outgoing.send(said(Out::Result(result.clone()))).await?;
                    }
                }
                Woke::Retry => {
                    for result in state.results.values() {
                        outgoing.send(said(Out::Result(result.clone()))).await?;
                    }
                }
                Woke::Stop => {
                    state.draining = true;
                    let draining = v1::Draining {
                        reason: "the agent was asked to stop".to_owned(),
                        deadline_ms: None,
                    };
                    // Renewals go on until the last result is accepted.
                    outgoing.send(said(Out::Draining(draining))).await?;
                }
                Woke::Tick => {}
            }
        }
    }

    async fn heard(
        &self,
        state: &mut State,
        message: In,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> anyhow::Result<()> {
        let now = self.shared.clock.ticks();
        match message {
            In::Redirect(redirect) => self.shared.dispatchers.go_to(&redirect.address),
            In::Welcome(welcome) => {
                // One that was frozen while another took over does not know it yet.
                anyhow::ensure!(welcome.epoch >= state.epoch, "it does not lead any more");
                state.epoch = welcome.epoch;
                let lease = Duration::from_millis(welcome.lease_ms);
                let renew = Duration::from_millis(welcome.renew_ms);
                if !lease.is_zero() && !renew.is_zero() {
                    state.holder.terms(lease, renew);
                }
                state.holder.handle(now, Event::Connected);
                tracing::info!("connected to the dispatcher");
                for verdict in welcome.verdicts {
                    self.judged(state, &verdict, outgoing).await?;
                }
            }
            In::Assign(assign) => self.assigned(state, assign, outgoing).await?,
            In::Go(go) => {
                if let Ok(key) = AttemptKey::try_from(go.attempt)
                    && let Some(live) = state.live.get(&key)
                {
                    live.go.send_replace(true);
                }
            }
            In::Renewed(renewed) => {
                state.holder.handle(now, Event::RenewAnswered);
                for answer in renewed.attempts {
                    let Ok(key) = AttemptKey::try_from(answer.attempt) else {
                        continue;
                    };
                    if !answer.current && !state.results.contains_key(&key) {
                        self.stop(state, &key, Stop::Fenced);
                    } else if answer.cancel {
                        let grace = Duration::from_millis(answer.grace_ms);
                        self.stop(state, &key, Stop::Cancelled(grace));
                    }
                }
            }
            In::Cancel(cancel) => {
                if let Ok(key) = AttemptKey::try_from(cancel.attempt) {
                    let grace = Duration::from_millis(cancel.grace_ms);
                    self.stop(state, &key, Stop::Cancelled(grace));
                }
            }
            In::ResultAck(ack) => self.answered(state, ack),
            In::Drain(drain) => {
                tracing::info!(reason = drain.reason, "draining");
                state.draining = true;
            }
            In::Restarting(_) => tracing::info!("the dispatcher restarts"),
        }
        Ok(())
    }

    async fn judged(
        &self,
        state: &mut State,
        verdict: &v1::HeldVerdict,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> anyhow::Result<()> {
        let Ok(key) = AttemptKey::try_from(verdict.attempt.clone()) else {
            return Ok(());
        };
        match verdict.verdict() {
            v1::Verdict::Keep => {
                if let Some(said) = state.live.get(&key).and_then(|live| live.said.clone()) {
                    outgoing.send(said).await?;
                }
            }
            v1::Verdict::SendResult => {
                if let Some(result) = state.results.get(&key) {
                    outgoing.send(said(Out::Result(result.clone()))).await?;
                }
            }
            v1::Verdict::Kill | v1::Verdict::Unspecified => {
                if state.results.remove(&key).is_some() {
                    self.forget(state, &key, false);
                } else {
                    self.stop(state, &key, Stop::Fenced);
                }
            }
        }
        Ok(())
    }

    async fn assigned(
        &self,
        state: &mut State,
        assign: v1::Assign,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> anyhow::Result<()> {
        let Ok(key) = AttemptKey::try_from(assign.attempt.clone()) else {
            return Ok(());
        };
        let declined = |reason: &str| {
            said(Out::Declined(v1::Declined {
                attempt: assign.attempt.clone(),
                reason: reason.to_owned(),
            }))
        };
        if state.live.contains_key(&key) || state.results.contains_key(&key) {
            return Ok(());
        }
        if self.shared.engine.borrow().away {
            outgoing.send(declined("sandbox")).await?;
            return Ok(());
        }
        if state.draining || state.live.len() >= self.slots as usize {
            outgoing.send(declined("busy")).await?;
            return Ok(());
        }
        // On disk before anything exists: after a crash the inventory is complete.
        if let Err(error) = self.shared.held.save_assign(&key, &assign) {
            tracing::error!(%error, "an assignment cannot be kept");
            outgoing.send(declined("disk")).await?;
            return Ok(());
        }
        let taken = v1::Taken {
            attempt: assign.attempt.clone(),
        };
        outgoing.send(said(Out::Taken(taken))).await?;
        self.start(state, assign, false);
        Ok(())
    }

    fn start(&self, state: &mut State, assign: v1::Assign, adopted: bool) {
        let Ok(key) = AttemptKey::try_from(assign.attempt.clone()) else {
            return;
        };
        let spec: StageSpec = match serde_json::from_str(&assign.spec_json) {
            Ok(spec) => spec,
            Err(error) => {
                tracing::error!(%error, stage = %key.stage, "the stage cannot be read");
                return;
            }
        };
        self.hold(state, &key, assign.at_most_once);
        let (stop, stopped) = watch::channel(None);
        let (go, going) = watch::channel(false);
        let said = None;
        state.live.insert(key.clone(), Live { stop, go, said });
        state.busy.send_replace(state.live.len());
        let attempt = Attempt {
            key: key.clone(),
            assign,
            spec,
            stop: stopped,
            go: going,
        };
        let (shared, finished) = (Arc::clone(&self.shared), state.finished.clone());
        self.shutdown.child().spawn("attempt", async move {
            let result = attempt::run(&shared, attempt, adopted).await;
            if let Some(result) = &result
                && let Err(error) = shared.held.save_result(&key, result)
            {
                tracing::error!(%error, stage = %key.stage, "a result cannot be kept");
            }
            let _stopping = finished.send((key, result)).await;
        });
    }

    fn ended(&self, state: &mut State, key: AttemptKey, result: Option<v1::Result>) {
        state.live.remove(&key);
        state.busy.send_replace(state.live.len());
        match result {
            Some(result) => {
                state.results.insert(key.clone(), result);
            }
            None => self.forget(state, &key, false),
        }
        clean_up(&self.shared, state.busy.subscribe(), key);
    }

    fn answered(&self, state: &mut State, ack: v1::ResultAck) {
        let acceptance = ack.acceptance();
        let Ok(key) = AttemptKey::try_from(ack.attempt) else {
            return;
        };
        if acceptance == v1::Acceptance::Invalid {
            tracing::error!(stage = %key.stage, detail = ack.detail, "a result was refused");
        }
        if state.results.remove(&key).is_some() {
            self.forget(state, &key, ack.passed);
        }
    }

    /// `keep`: what its tools left in the cache is worth something.
    fn forget(&self, state: &mut State, key: &AttemptKey, keep: bool) {
        if self.shared.held.door(key).is_some() {
            let (shared, key) = (Arc::clone(&self.shared), key.clone());
            self.shared.shutdown.spawn("settle door", async move {
                attempt::settle_door(&shared, &key, keep).await;
            });
        }
        state
            .holder
            .handle(self.shared.clock.ticks(), Event::Released(name(key)));
        self.shared.held.remove(key);
    }
}

fn said(message: Out) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}
