//! Bare agents: real gRPC streams that take every assignment and end it at once, or after a while.
//! They measure what the dispatcher does, without containers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use slipway_cli::embedded::Embedded;
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::{JoinToken, Own, join};
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::agents_client::AgentsClient;
use slipway_proto::v1::dispatcher_message::Message as In;
use slipway_proto::v1::{self, AgentMessage, DispatcherMessage};
use slipway_store::Db;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Between two renewals of a bare agent.
const RENEW: Duration = Duration::from_secs(15);

/// An assignment that arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// When, by the shared clock.
    pub at: Duration,
    /// Of which commit.
    pub commit: String,
    /// Of which repository.
    pub repo: String,
}

/// What agents have in common.
#[derive(Clone)]
pub struct Fleet {
    /// The dispatcher.
    pub grpc: SocketAddr,
    /// Slots of each agent.
    pub slots: u32,
    /// How long each attempt takes.
    pub takes: Duration,
    /// Tells the time of arrivals.
    pub clock: Clock,
    /// Hears of every assignment.
    pub arrived: mpsc::Sender<Arrived>,
    /// Results that were accepted, and with that are durable.
    pub accepted: Arc<AtomicU64>,
}

impl Fleet {
    /// Starts `count` agents.
    ///
    /// # Errors
    /// When one cannot join.
    pub async fn start(
        &self,
        up: &Embedded,
        count: usize,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let join = join_token(&up.db, &self.clock, count).await?;
        let join: Arc<str> = JoinToken::new(&join, &up.authority.fingerprint())
            .text()
            .into();
        for number in 0..count {
            let (fleet, join) = (self.clone(), Arc::clone(&join));
            let (ready, connected) = tokio::sync::oneshot::channel();
            shutdown.spawn("bare agent", async move {
                if let Err(error) = fleet.agent(&join, number, ready).await {
                    tracing::debug!("a bare agent ended: {error:#}");
                }
            });
            connected.await.context("a bare agent did not connect")?;
        }
        Ok(())
    }

    async fn agent(
        &self,
        join: &str,
        number: usize,
        ready: tokio::sync::oneshot::Sender<()>,
    ) -> anyhow::Result<()> {
        let (outgoing, mut messages) = open(self.grpc, join, number, self.slots).await?;
        let mut ready = Some(ready);
        let mut renew = tokio::time::interval(RENEW);
        let mut held: Vec<v1::AttemptRef> = Vec::new();
        let (end, mut ended) = mpsc::channel::<v1::AttemptRef>(256);
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                Some(attempt) = ended.recv() => {
                    held.retain(|one| *one != attempt);
                    outgoing.send(exited(attempt)).await?;
                    continue;
                }
                _ = renew.tick() => {
                    let renew = v1::Renew { held: held.clone(), ..v1::Renew::default() };
                    outgoing.send(said(Out::Renew(renew))).await?;
                    continue;
                }
            };
            match message.transpose()?.and_then(|m| m.message) {
                None => return Ok(()),
                Some(In::Welcome(_)) => {
                    if let Some(ready) = ready.take() {
                        let _nobody_waits = ready.send(());
                    }
                }
                Some(In::ResultAck(_)) => {
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                }
                Some(In::Assign(assign)) => {
                    let commit = assign.source.map(|s| s.commit_sha);
                    let _nobody_measures = self.arrived.try_send(Arrived {
                        at: self.clock.monotonic(),
                        commit: commit.unwrap_or_default(),
                        repo: assign.repo_id,
                    });
                    let attempt = assign.attempt.context("an assignment of nothing")?;
                    let taken = v1::Taken {
                        attempt: Some(attempt.clone()),
                    };
                    outgoing.send(said(Out::Taken(taken))).await?;
                    if self.takes.is_zero() {
                        outgoing.send(exited(attempt)).await?;
                        continue;
                    }
                    held.push(attempt.clone());
                    let (end, takes) = (end.clone(), self.takes);
                    slipway_daemon::spawn("fake execution", async move {
                        tokio::time::sleep(takes).await;
                        let _agent_is_gone = end.send(attempt).await;
                    });
                }
                Some(_) => {}
            }
        }
    }
}

async fn join_token(db: &Db, clock: &Clock, count: usize) -> anyhow::Result<String> {
    let join = token::mint(Kind::Join, &Rng::system());
    let hash = token::hash(Kind::Join, &join).context("a fresh token is a token")?;
    let (now, uses) = (clock.now(), u32::try_from(count)?);
    let until = now.after(Duration::from_secs(600));
    db.insert_join_token(&hash, "{}", uses, until, now).await?;
    Ok(join)
}

/// Joins and opens a stream: all that a bare agent knows about connecting and proving who it is.
async fn open(
    grpc: SocketAddr,
    join: &str,
    number: usize,
    slots: u32,
) -> anyhow::Result<(mpsc::Sender<AgentMessage>, Streaming<DispatcherMessage>)> {
    let (address, token) = (format!("https://{grpc}"), JoinToken::read(join)?);
    let joined = join::join(&address, &token, &format!("bare-{number}")).await?;
    let channel = Own::new(joined).channel(&address, PeerRole::Dispatcher)?;
    let mut client = AgentsClient::new(channel);
    let (outgoing, receiver) = mpsc::channel(256);
    let hello = v1::Hello {
        version: 1,
        boot_id: format!("bare-{number}"),
        slots,
        facts: Some(v1::Facts::default()),
        ..v1::Hello::default()
    };
    outgoing.send(said(Out::Hello(hello))).await?;
    let messages = client
        .link(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    Ok((outgoing, messages))
}

fn said(message: Out) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

fn exited(attempt: v1::AttemptRef) -> AgentMessage {
    said(Out::Result(v1::Result {
        attempt: Some(attempt),
        ending: v1::Ending::Exited.into(),
        ..v1::Result::default()
    }))
}
