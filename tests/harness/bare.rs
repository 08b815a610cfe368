//! An agent that says what a test says: a real certificate and a real stream, and nothing behind it.

use std::time::Duration;

use serde_json::json;
use slipway_identity::Own;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::agents_client::AgentsClient;
use slipway_proto::v1::dispatcher_message::Message as In;
use slipway_proto::v1::{self, AgentMessage, DispatcherMessage};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::cluster::Cluster;

/// How long an answer may take.
const SOON: Duration = Duration::from_secs(20);

/// The agent.
pub struct BareAgent {
    /// Who it is.
    pub own: Own,
    says: mpsc::Sender<AgentMessage>,
    hears: Streaming<DispatcherMessage>,
}

/// What it says at first.
#[must_use]
pub fn hello() -> v1::Hello {
    v1::Hello {
        version: 1,
        boot_id: "boot".to_owned(),
        slots: 1,
        facts: Some(v1::Facts::default()),
        ..v1::Hello::default()
    }
}

impl BareAgent {
    /// Joins, and says hello.
    ///
    /// # Panics
    /// When it is not welcome.
    pub async fn join(cluster: &Cluster) -> Self {
        Self::join_with(cluster, hello()).await
    }

    /// Joins, and says this.
    ///
    /// # Panics
    /// When it is not welcome.
    pub async fn join_with(cluster: &Cluster, hello: v1::Hello) -> Self {
        let own = Self::identity(cluster, "agent").await;
        let linked = Self::link(cluster, &own, Out::Hello(hello)).await;
        let (says, hears) = linked.expect("welcome");
        Self { own, says, hears }
    }

    /// An identity of this role.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn identity(cluster: &Cluster, role: &str) -> Own {
        let asked = json!({"role": role});
        let made = cluster.rest.post("/agents/join-tokens", asked).await;
        let made = made.expect("a token");
        let token = made["join_token"].as_str().expect("a token");
        cluster.join(token).await.expect("joined")
    }

    /// Opens a stream with this first message.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn link(
        cluster: &Cluster,
        own: &Own,
        first: Out,
    ) -> Result<(mpsc::Sender<AgentMessage>, Streaming<DispatcherMessage>), Status> {
        let mut client = AgentsClient::new(cluster.channel_of(own));
        let (says, outgoing) = mpsc::channel(16);
        let first = AgentMessage {
            message: Some(first),
        };
        let _room_for_one = says.try_send(first);
        let linked = client.link(ReceiverStream::new(outgoing)).await?;
        Ok((says, linked.into_inner()))
    }

    /// Says something.
    ///
    /// # Panics
    /// When the stream is closed.
    pub async fn say(&self, message: Out) {
        let message = Some(message);
        self.says
            .send(AgentMessage { message })
            .await
            .expect("open");
    }

    /// The next message that `pick` takes.
    ///
    /// # Errors
    /// How the stream ended.
    ///
    /// # Panics
    /// When nothing comes for long.
    pub async fn hear<T>(&mut self, pick: impl Fn(In) -> Option<T>) -> Result<T, Status> {
        let hearing = async {
            loop {
                let heard = self.hears.message().await?;
                let heard = heard.ok_or_else(|| Status::cancelled("the stream ended"))?;
                if let Some(found) = heard.message.and_then(&pick) {
                    return Ok(found);
                }
            }
        };
        let heard = tokio::time::timeout(SOON, hearing).await;
        heard.unwrap_or_else(|_| panic!("nothing came"))
    }

    /// The next assignment within this time.
    pub async fn assigned(&mut self, within: Duration) -> Option<v1::Assign> {
        let waiting = self.hear(|heard| match heard {
            In::Assign(assign) => Some(assign),
            _ => None,
        });
        tokio::time::timeout(within, waiting).await.ok()?.ok()
    }

    /// Takes an assignment and says that it went well; the answer.
    ///
    /// # Panics
    /// When the stream ends.
    pub async fn succeed(&mut self, attempt: Option<v1::AttemptRef>) -> v1::ResultAck {
        let taken = v1::Taken {
            attempt: attempt.clone(),
        };
        self.say(Out::Taken(taken)).await;
        self.report(v1::Result {
            attempt,
            ending: v1::Ending::Exited.into(),
            ..v1::Result::default()
        })
        .await
    }

    /// Reports a result; the answer.
    ///
    /// # Panics
    /// When the stream ends.
    pub async fn report(&mut self, result: v1::Result) -> v1::ResultAck {
        self.say(Out::Result(result)).await;
        let answered = self.hear(|heard| match heard {
            In::ResultAck(ack) => Some(ack),
            _ => None,
        });
        answered.await.expect("an answer")
    }
}
