//! An agent that will not take what it is given: nothing is lost, and nobody asks it in a circle.

use std::time::Duration;

use serde_json::json;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::agents_client::AgentsClient;
use slipway_proto::v1::dispatcher_message::Message as In;
use slipway_proto::v1::{self, AgentMessage};
use slipway_tests::Cluster;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE, Parts};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::ZERO;

const SOON: Duration = Duration::from_secs(20);

/// An agent that says what a test says.
struct Agent {
    says: mpsc::Sender<AgentMessage>,
    hears: Streaming<v1::DispatcherMessage>,
}

impl Agent {
    async fn join(cluster: &Cluster) -> Self {
        let made = cluster.rest.post("/agents/join-tokens", json!({})).await;
        let made = made.expect("a token");
        let address = format!("http://{}", cluster.up.grpc);
        let mut client = AgentsClient::connect(address).await.expect("connected");
        let register = v1::RegisterRequest {
            join_token: made["join_token"].as_str().expect("a token").to_owned(),
            name: "choosy".to_owned(),
        };
        let identity = client.register(register).await.expect("registered");
        let bearer = format!("Bearer {}", identity.into_inner().credential);
        let (says, outgoing) = mpsc::channel(16);
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        let bearer = bearer.parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
        let hello = Out::Hello(v1::Hello {
            version: 1,
            boot_id: "boot".to_owned(),
            slots: 1,
            facts: Some(v1::Facts::default()),
            ..v1::Hello::default()
        });
        let said = |message| AgentMessage {
            message: Some(message),
        };
        says.send(said(hello)).await.expect("open");
        let hears = client.link(request).await.expect("welcome").into_inner();
        Self { says, hears }
    }

    async fn say(&self, message: Out) {
        let message = Some(message);
        self.says
            .send(AgentMessage { message })
            .await
            .expect("open");
    }

    /// The next assignment within this time.
    async fn assigned(&mut self, within: Duration) -> Option<v1::Assign> {
        let waiting = async {
            loop {
                let heard = self.hears.message().await.expect("open").expect("open");
                if let Some(In::Assign(assign)) = heard.message {
                    return assign;
                }
            }
        };
        tokio::time::timeout(within, waiting).await.ok()
    }
}

#[tokio::test]
async fn a_declined_assignment_is_no_loss_and_its_agent_is_passed_over_until_it_renews() {
    let parts = Parts {
        agents: 0,
        ..Parts::default()
    };
    let cluster = Cluster::start_with(parts).await;
    let mut agent = Agent::join(&cluster).await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.expect("added");
    let hook = cluster.rest.add_hook(&repo, "github").await.expect("made");
    let sha = cluster.commit(1, ONE_STAGE);
    let body = hook.push_body(ZERO, &sha);
    hook.deliver(&cluster.rest, "d", body).await.expect("taken");
    for attempt in 1..=5 {
        let assign = agent.assigned(SOON).await.expect("an assignment");
        let named = assign.attempt.expect("an attempt");
        assert_eq!(named.attempt, attempt, "each has a number of its own");
        let declined = v1::Declined {
            attempt: Some(named),
            reason: "disk".to_owned(),
        };
        agent.say(Out::Declined(declined)).await;
        let again = agent.assigned(Duration::from_millis(300)).await;
        assert!(again.is_none(), "it was asked in a circle");
        let queue = cluster.rest.get("/queue").await.expect("listed");
        let reason = queue[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("disk"), "{reason}");
        agent.say(Out::Renew(v1::Renew::default())).await;
    }
    let assign = agent.assigned(SOON).await.expect("an assignment");
    let taken = v1::Taken {
        attempt: assign.attempt.clone(),
    };
    agent.say(Out::Taken(taken)).await;
    let result = v1::Result {
        attempt: assign.attempt,
        ending: v1::Ending::Exited.into(),
        ..v1::Result::default()
    };
    agent.say(Out::Result(result)).await;
    let row = cluster.rest.decided(&hook, "d", SOON).await;
    let build = row.expect("decided")["build_id"].clone();
    let build = build.as_str().expect("built");
    let ended = cluster.rest.build_ended(build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let stages = cluster.up.db.stages(&build.parse().expect("an id")).await;
    assert_eq!(stages.expect("readable")[0].losses, 0);
    cluster.stop().await;
}
