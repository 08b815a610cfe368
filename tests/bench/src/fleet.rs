//! Bare agents: real gRPC streams that take every assignment and end it at once. They measure what
//! the dispatcher does, without containers.

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
use slipway_proto::v1::{self, AgentMessage};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Between two renewals of a bare agent.
const RENEW: Duration = Duration::from_secs(15);

/// An assignment that arrived: when, by the shared clock.
pub type Arrived = Duration;

/// Starts `count` agents of `slots` slots each; `arrived` hears of every assignment.
///
/// # Errors
/// When one cannot join.
pub async fn start(
    up: &Embedded,
    count: usize,
    slots: u32,
    clock: &Clock,
    arrived: mpsc::Sender<Arrived>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let rng = Rng::system();
    let join = token::mint(Kind::Join, &rng);
    let hash = token::hash(Kind::Join, &join).context("a fresh token is a token")?;
    let now = clock.now();
    let uses = u32::try_from(count)?;
    up.db
        .insert_join_token(&hash, "{}", uses, now.after(Duration::from_secs(600)), now)
        .await?;
    let (address, token) = (
        format!("https://{}", up.grpc),
        JoinToken::new(&join, &up.authority.fingerprint()),
    );
    for number in 0..count {
        let joined = join::join(&address, &token, &format!("bare-{number}")).await?;
        let channel = Own::new(joined).channel(&address, PeerRole::Dispatcher)?;
        let (clock, arrived) = (clock.clone(), arrived.clone());
        let (ready, connected) = tokio::sync::oneshot::channel();
        shutdown.spawn("bare agent", async move {
            if let Err(error) = agent(channel, number, slots, &clock, &arrived, ready).await {
                tracing::debug!("a bare agent ended: {error:#}");
            }
        });
        connected.await.context("a bare agent did not connect")?;
    }
    Ok(())
}

fn said(message: Out) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

async fn agent(
    channel: Channel,
    number: usize,
    slots: u32,
    clock: &Clock,
    arrived: &mpsc::Sender<Arrived>,
    ready: tokio::sync::oneshot::Sender<()>,
) -> anyhow::Result<()> {
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
    let mut messages = client
        .link(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let mut ready = Some(ready);
    let mut renew = tokio::time::interval(RENEW);
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            _ = renew.tick() => {
                outgoing.send(said(Out::Renew(v1::Renew::default()))).await?;
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
            Some(In::Assign(assign)) => {
                let _nobody_measures = arrived.try_send(clock.monotonic());
                let attempt = assign.attempt;
                outgoing
                    .send(said(Out::Taken(v1::Taken {
                        attempt: attempt.clone(),
                    })))
                    .await?;
                let result = v1::Result {
                    attempt,
                    ending: v1::Ending::Exited.into(),
                    ..v1::Result::default()
                };
                outgoing.send(said(Out::Result(result))).await?;
            }
            Some(_) => {}
        }
    }
}
