//! The agents' service: the control stream, artifacts.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use slipway_core::id::AgentId;
use slipway_core::lease::grantor::Attempt;
use slipway_core::queue::AgentState;
use slipway_proto::CONTROL_MESSAGE_MAX;
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1::agent_message::Message as In;
use slipway_proto::v1::dispatcher_message::Message as Out;
use slipway_proto::v1::{self, agents_server::Agents};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::artifacts;
use super::hello::{greet, millis};
use super::leader;
use crate::api::auth::{self, PeerAgent};
use crate::link::{OUTBOX, Outgoing};
use crate::loops::scheduling::Nudge;
use crate::state::{App, Lead};
use crate::usecases::accept_result::{accept_result, record};

/// Versions of the agents' conversation that are understood.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

/// The service.
pub struct AgentsService {
    app: Arc<App>,
}

impl AgentsService {
    /// Over the shared parts.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

type Outgoings = Pin<Box<dyn Stream<Item = Outgoing> + Send>>;

#[tonic::async_trait]
impl Agents for AgentsService {
    type LinkStream = Outgoings;

    async fn link(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Outgoings>, Status> {
        let agent = auth::agent(&self.app, &request).await?;
        let epoch = match leader::found(&self.app).await {
            Lead::Own(epoch) => epoch,
            Lead::Other(address) => return Ok(Response::new(leader::redirect(address))),
            Lead::Nobody => return Err(leader::nobody()),
        };
        let mut messages = request.into_inner();
        let first = messages.next().await.transpose()?;
        let Some(In::Hello(hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument(
                "the first message must be `hello`",
            ));
        };
        understands(&hello)?;
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let session = begin(&self.app, &agent, &hello, epoch, sender.clone()).await?;
        let app = Arc::clone(&self.app);
        slipway_daemon::spawn("agent stream", async move {
            converse(&app, &agent.id, &mut messages, &sender).await;
            if app.link.close(&agent.id, session) {
                app.tracker.gone(&agent.id);
                tracing::info!(agent = %agent.id, "the agent's stream ended");
            }
            let _stopping = app.nudge.send(Nudge::Gone(agent.id, session)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<v1::ArtifactChunk>>,
    ) -> Result<Response<v1::PutArtifactResponse>, Status> {
        let agent = auth::agent(&self.app, &request).await?;
        leader::is_here(&self.app).await?;
        let key = artifacts::put(&self.app, &agent.id, request.into_inner()).await?;
        Ok(Response::new(v1::PutArtifactResponse {
            object_key: key.as_str().to_owned(),
        }))
    }
}

/// Whether both speak the same conversation. What is added to it later is optional on both sides; only
/// what an older side would misunderstand raises the number.
fn understands(hello: &v1::Hello) -> Result<(), Status> {
    if VERSIONS.contains(&hello.version) {
        return Ok(());
    }
    let which = if hello.version > *VERSIONS.end() {
        "update the dispatcher"
    } else {
        "update the agent"
    };
    Err(Status::failed_precondition(format!(
        "unknown_version: the agent speaks version {} of the conversation, and this dispatcher {} to \
         {}; {which}",
        hello.version,
        VERSIONS.start(),
        VERSIONS.end(),
    )))
}

/// Welcomes the agent and opens its session.
async fn begin(
    app: &Arc<App>,
    agent: &PeerAgent,
    hello: &v1::Hello,
    epoch: i64,
    sender: mpsc::Sender<Outgoing>,
) -> Result<u64, Status> {
    let boot: String = hello.boot_id.chars().take(64).collect();
    let facts = facts_json(hello);
    let now = app.clock.now();
    let greeting = greet(app, agent, hello, epoch)
        .await
        .map_err(|e| auth::unavailable(&e))?;
    app.db
        .agent_hello(&agent.id, &boot, greeting.facts.slots, &facts, now)
        .await
        .map_err(|e| auth::unavailable(&e))?;
    // The stream will say what is there now.
    app.tracker.gone(&agent.id);
    let session = app.link.open(&agent.id, sender);
    app.link.send(&agent.id, Out::Welcome(greeting.welcome));
    let nudge = Nudge::Connected {
        agent: agent.id.clone(),
        session,
        facts: Box::new(greeting.facts),
        kept: greeting.kept,
        disowned: greeting.disowned,
    };
    app.nudge
        .send(nudge)
        .await
        .map_err(|_| Status::unavailable("the dispatcher is stopping"))?;
    tracing::info!(agent = %agent.id, name = agent.row.name, "an agent connected");
    Ok(session)
}

fn facts_json(hello: &v1::Hello) -> String {
    let facts = hello.facts.clone().unwrap_or_default();
    let cut = |text: String| text.chars().take(100).collect::<String>();
    serde_json::json!({
        "version": hello.version, "cpus": facts.cpus, "memory_bytes": facts.memory_bytes,
        "disk_free_bytes": facts.disk_free_bytes, "disk_total_bytes": facts.disk_total_bytes,
        "architecture": cut(facts.architecture), "engine_version": cut(facts.engine_version),
        "buildkit": facts.buildkit, "reproducible_images": facts.reproducible_images,
        "strict_proven": facts.strict_proven,
    })
    .to_string()
}

async fn converse(
    app: &Arc<App>,
    agent: &AgentId,
    messages: &mut Streaming<v1::AgentMessage>,
    sender: &mpsc::Sender<Outgoing>,
) {
    while let Some(message) = messages.next().await {
        let message = match message {
            Ok(message) => message,
            Err(status) => {
                tracing::debug!(%status, agent = %agent, "the agent's stream broke");
                return;
            }
        };
        if prost::Message::encoded_len(&message) > CONTROL_MESSAGE_MAX * 16 {
            let too_large = Status::resource_exhausted("a control message is at most 1 MiB");
            let _closing = sender.send(Err(too_large)).await;
            return;
        }
        let Some(message) = message.message else {
            continue;
        };
        if let Err(status) = heard(app, agent, message).await {
            let _closing = sender.send(Err(status)).await;
            return;
        }
    }
}

pub(super) fn attempt(wire: Option<v1::AttemptRef>) -> Result<Attempt, Status> {
    AttemptKey::try_from(wire)
        .map(|key| (key.stage, key.attempt))
        .map_err(|e| Status::invalid_argument(e.to_string()))
}

/// Whether the agent owns the attempt: nothing it says about another one counts.
pub(super) async fn owns(
    app: &App,
    agent: &AgentId,
    (stage, number): &Attempt,
) -> Result<bool, Status> {
    let row = app
        .db
        .stage(stage)
        .await
        .map_err(|e| auth::unavailable(&e))?;
    let held = row.as_ref().and_then(record);
    Ok(held.is_some_and(|record| record.is_held(*number, agent.as_str())))
}

async fn nudge(app: &App, nudge: Nudge) -> Result<(), Status> {
    let sent = app.nudge.send(nudge).await;
    sent.map_err(|_| Status::unavailable("the dispatcher is stopping"))
}

async fn heard(app: &Arc<App>, agent: &AgentId, message: In) -> Result<(), Status> {
    match message {
        In::Hello(_) => Err(Status::invalid_argument("`hello` is said once")),
        In::Renew(renew) => renewed(app, agent, renew).await,
        In::Taken(taken) => {
            let name = attempt(taken.attempt)?;
            nudge(app, Nudge::Taken(agent.clone(), name)).await
        }
        In::Declined(declined) => {
            let name = attempt(declined.attempt)?;
            let reason: String = declined.reason.chars().take(40).collect();
            nudge(app, Nudge::Declined(agent.clone(), name, reason)).await
        }
        In::Prepared(prepared) => {
            let name = attempt(prepared.attempt.clone())?;
            // Durable first: without the row no command of an at-most-once stage is executed.
            if run(app, agent, &name).await? {
                app.link.send(
                    agent,
                    Out::Go(v1::Go {
                        attempt: prepared.attempt,
                    }),
                );
            }
            Ok(())
        }
        In::Progress(progress) => {
            let name = attempt(progress.attempt.clone())?;
            // Its last word may be all that came through.
            if matches!(progress.phase(), v1::Phase::Running | v1::Phase::Collecting) {
                run(app, agent, &name).await?;
            }
            Ok(())
        }
        In::Result(result) => {
            // In a task of its own: a commit must not hold up the next message.
            let (app, agent) = (Arc::clone(app), agent.clone());
            slipway_daemon::spawn("accept result", async move {
                match accept_result(&app, &agent, result).await {
                    Ok(ack) => {
                        app.link.send(&agent, Out::ResultAck(ack));
                    }
                    // Unanswered: the agent keeps it and sends it again.
                    Err(error) => tracing::warn!(%error, agent = %agent, "a result is not durable"),
                }
            });
            Ok(())
        }
        In::Holds(holds) => {
            app.tracker.heard(agent, holds);
            Ok(())
        }
        In::Draining(draining) => {
            let reason: String = draining.reason.chars().take(100).collect();
            tracing::info!(agent = %agent, reason, "an agent is draining");
            nudge(app, Nudge::State(agent.clone(), AgentState::Draining)).await
        }
    }
}

async fn run(app: &App, agent: &AgentId, (stage, number): &Attempt) -> Result<bool, Status> {
    let now = app.clock.now();
    let good = app
        .db
        .mark_running(stage, i64::from(*number), agent, now)
        .await
        .map_err(|e| auth::unavailable(&e))?;
    if good
        && let Ok(Some(row)) = app.db.stage(stage).await
        && let Ok(build) = row.build_id.parse()
    {
        let _nobody_watches = app.changes.send(build);
    }
    Ok(good)
}

async fn renewed(app: &App, agent: &AgentId, renew: v1::Renew) -> Result<(), Status> {
    let ours = app
        .db
        .held_by_agent(agent)
        .await
        .map_err(|e| auth::unavailable(&e))?;
    let mut answers = Vec::new();
    let mut held = Vec::new();
    for wire in renew.held.into_iter().take(1_024) {
        let Ok(name) = attempt(Some(wire.clone())) else {
            continue;
        };
        let row = ours
            .iter()
            .find(|r| r.stage_id == name.0.as_str() && r.attempt == i64::from(name.1));
        answers.push(v1::RenewedAttempt {
            attempt: Some(wire),
            lease_left_ms: millis(app.settings.terms.lease),
            cancel: row.is_some_and(|r| r.cancel_ms.is_some()),
            grace_ms: 10_000,
            current: row.is_some(),
        });
        if row.is_some() {
            held.push(name);
        }
    }
    app.link
        .send(agent, Out::Renewed(v1::Renewed { attempts: answers }));
    let facts = app
        .db
        .agent(agent)
        .await
        .map_err(|e| auth::unavailable(&e))?;
    let pressure = renew.pressure.unwrap_or_default();
    let total = facts
        .and_then(|row| serde_json::from_str::<serde_json::Value>(&row.facts).ok())
        .and_then(|facts| facts["disk_total_bytes"].as_u64())
        .unwrap_or(0);
    let clean = |p: f32| {
        if p.is_finite() {
            p.clamp(0.0, 100.0)
        } else {
            100.0
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let disk = if total == 0 {
        100.0
    } else {
        (pressure.disk_free_bytes as f32 / total as f32 * 100.0).clamp(0.0, 100.0)
    };
    let agent = agent.clone();
    let pressure = [disk, clean(pressure.cpu), clean(pressure.memory)];
    nudge(
        app,
        Nudge::Renewed {
            agent,
            held,
            pressure,
        },
    )
    .await
}
