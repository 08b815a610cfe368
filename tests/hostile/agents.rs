//! What a hostile agent sends: other agents' attempts, impossible values, floods. It has a real
//! certificate; what it may do with it is the question.

use std::time::Duration;

use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::dispatcher_message::Message as In;
use slipway_proto::v1::logs_client::LogsClient;
use slipway_tests::bare::hello;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};
use slipway_tests::{BareAgent, Cluster, Parts};
use tonic::Code;

pub(crate) const SOON: Duration = Duration::from_secs(20);
const ZERO: &str = "0000000000000000000000000000000000000000";

pub(crate) async fn empty() -> Cluster {
    let parts = Parts {
        agents: 0,
        ..Parts::default()
    };
    Cluster::start_with(parts).await
}

/// Pushes a build of one stage; its id.
pub(crate) async fn push(cluster: &Cluster) -> String {
    let repo = cluster.rest.add_repository(FAKE_URL).await.expect("added");
    let hook = cluster.rest.add_hook(&repo, "github").await.expect("made");
    let sha = cluster.commit(1, ONE_STAGE);
    let body = hook.push_body(ZERO, &sha);
    hook.deliver(&cluster.rest, "d", body).await.expect("taken");
    let row = cluster
        .rest
        .decided(&hook, "d", SOON)
        .await
        .expect("decided");
    row["build_id"].as_str().expect("built").to_owned()
}

async fn stage(cluster: &Cluster, build: &str) -> slipway_store::StageRow {
    let stages = cluster.up.db.stages(&build.parse().expect("an id")).await;
    stages.expect("readable").remove(0)
}

fn success(attempt: &v1::AttemptRef) -> v1::Result {
    v1::Result {
        attempt: Some(attempt.clone()),
        ending: v1::Ending::Exited.into(),
        ..v1::Result::default()
    }
}

/// An agent that holds an attempt, another one that does not, and the attempt.
async fn owner_and_thief(cluster: &Cluster) -> (BareAgent, BareAgent, String, v1::AttemptRef) {
    let mut owner = BareAgent::join(cluster).await;
    let build = push(cluster).await;
    let assign = owner.assigned(SOON).await.expect("assigned");
    let named = assign.attempt.expect("an attempt");
    let taken = v1::Taken {
        attempt: Some(named.clone()),
    };
    owner.say(Out::Taken(taken)).await;
    (owner, BareAgent::join(cluster).await, build, named)
}

#[tokio::test]
async fn hostile_h043_nothing_is_changed_by_an_agent_that_does_not_hold_the_attempt() {
    let cluster = empty().await;
    let (mut owner, mut thief, build, named) = owner_and_thief(&cluster).await;
    let before = stage(&cluster, &build).await;
    // A result, of this attempt and of others.
    for number in [named.attempt, named.attempt + 1, 999] {
        let attempt = v1::AttemptRef {
            attempt: number,
            ..named.clone()
        };
        let ack = thief.report(success(&attempt)).await;
        assert_eq!(ack.acceptance(), v1::Acceptance::StaleAttempt, "{number}");
        let lost = v1::Result {
            ending: v1::Ending::Aborted.into(),
            ..success(&attempt)
        };
        let ack = thief.report(lost).await;
        assert_eq!(ack.acceptance(), v1::Acceptance::StaleAttempt, "{number}");
    }
    // Everything else that names an attempt.
    let attempt = Some(named.clone());
    let declined = v1::Declined {
        attempt: attempt.clone(),
        reason: "disk".to_owned(),
    };
    thief.say(Out::Declined(declined)).await;
    thief
        .say(Out::Prepared(v1::Prepared {
            attempt: attempt.clone(),
        }))
        .await;
    let progress = v1::Progress {
        attempt: attempt.clone(),
        phase: v1::Phase::Running.into(),
    };
    thief.say(Out::Progress(progress)).await;
    let renew = v1::Renew {
        held: vec![named.clone()],
        ..v1::Renew::default()
    };
    thief.say(Out::Renew(renew)).await;
    let answered = thief.hear(|heard| match heard {
        In::Renewed(renewed) => Some(renewed),
        _ => None,
    });
    let renewed = answered.await.expect("answered");
    assert!(!renewed.attempts[0].current, "it is not its own");

    let after = stage(&cluster, &build).await;
    assert_eq!(
        (&after.state, after.attempt, &after.agent_id, after.losses),
        (
            &before.state,
            before.attempt,
            &before.agent_id,
            before.losses
        )
    );
    // The owner is not disturbed; a finished attempt takes no second, other result.
    assert_eq!(
        owner.succeed(Some(named.clone())).await.acceptance(),
        v1::Acceptance::Accepted
    );
    let again = owner.report(success(&named)).await;
    assert_eq!(again.acceptance(), v1::Acceptance::AlreadyAccepted);
    let other = v1::Result {
        exit_code: 1,
        ..success(&named)
    };
    let ack = owner.report(other).await;
    assert_eq!(ack.acceptance(), v1::Acceptance::StaleAttempt);
    assert_eq!(stage(&cluster, &build).await.state, "succeeded");
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h043_output_and_artifacts_of_anothers_attempt_are_refused() {
    let cluster = empty().await;
    let (_owner, thief, _, named) = owner_and_thief(&cluster).await;
    let attempt = Some(named);
    let mut logs = LogsClient::new(cluster.channel_of(&thief.own));
    let frame = v1::LogFrame {
        attempt: attempt.clone(),
        codec: v1::Codec::None.into(),
        data: b"forged".to_vec(),
        raw_len: 6,
        crc32c: crc32c::crc32c(b"forged"),
        ..v1::LogFrame::default()
    };
    let acks = logs.append(tokio_stream::iter([frame])).await;
    let ack = acks.expect("open").into_inner().message().await;
    let ack = ack.expect("answered").expect("answered");
    assert_eq!(ack.refused, "stale_attempt");
    let mut client = v1::agents_client::AgentsClient::new(cluster.channel_of(&thief.own));
    let head = v1::ArtifactHead {
        attempt,
        name: "a".to_owned(),
        ..v1::ArtifactHead::default()
    };
    let chunk = v1::ArtifactChunk {
        head: Some(head),
        data: vec![],
    };
    let put = client.put_artifact(tokio_stream::iter([chunk])).await;
    assert_eq!(
        put.expect_err("not its own").code(),
        Code::FailedPrecondition
    );
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h045_the_65th_stream_of_a_connection_waits() {
    let cluster = empty().await;
    let own = BareAgent::identity(&cluster, "agent").await;
    let channel = cluster.channel_of(&own);
    let mut open = Vec::new();
    for _ in 0..slipway_proto::STREAMS_MAX {
        let (frames, outgoing) = tokio::sync::mpsc::channel::<v1::LogFrame>(1);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let acks = LogsClient::new(channel.clone()).append(outgoing).await;
        open.push((frames, acks.expect("open")));
    }
    let (_frames, outgoing) = tokio::sync::mpsc::channel::<v1::LogFrame>(1);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut client = LogsClient::new(channel.clone());
    let further = client.append(outgoing);
    let waited = tokio::time::timeout(Duration::from_millis(300), further).await;
    assert!(waited.is_err(), "it is not served");
    // The limit is the connection's: another one is served.
    let _welcome = BareAgent::join(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h047_the_outcome_is_the_dispatchers_own_whatever_the_agent_says() {
    let cluster = empty().await;
    let mut agent = BareAgent::join(&cluster).await;
    let build = push(&cluster).await;
    let assign = agent.assigned(SOON).await.expect("assigned");
    let attempt = assign.attempt.expect("an attempt");
    let taken = v1::Taken {
        attempt: Some(attempt.clone()),
    };
    agent.say(Out::Taken(taken)).await;
    // An unknown ending is no ending.
    let unknown = v1::Result {
        ending: 99,
        ..success(&attempt)
    };
    let ack = agent.report(unknown).await;
    assert_eq!(ack.acceptance(), v1::Acceptance::Invalid);
    let boasting = v1::Result {
        exit_code: i32::MIN,
        reason: "success".to_owned(),
        prepare_ms: u64::MAX,
        execute_ms: u64::MAX,
        ..success(&attempt)
    };
    let ack = agent.report(boasting).await;
    assert_eq!(ack.acceptance(), v1::Acceptance::Accepted);
    let row = stage(&cluster, &build).await;
    assert_eq!(row.state, "failed");
    let now = slipway_daemon::Clock::system().now().as_millis();
    let ended = row.ended_at.expect("ended");
    assert!(
        (now - ended).abs() < 60_000,
        "by the dispatcher's clock: {ended}"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h048_a_hello_of_any_size_gates_nothing() {
    let cluster = empty().await;
    let mut strange = hello();
    strange.slots = u32::MAX;
    strange.boot_id = "x\n[ERROR] fake".repeat(10);
    for n in 0..300 {
        strange
            .labels
            .insert(format!("label-{n}"), "<img onerror=x>".to_owned());
    }
    strange
        .labels
        .insert("trusted".to_owned(), "true".to_owned());
    let _agent = BareAgent::join_with(&cluster, strange).await;
    let agents = cluster.rest.get("/agents").await.expect("listed");
    assert_eq!(agents[0]["labels"], serde_json::json!({}));
    assert!(
        agents[0]["slots"].as_i64().expect("a number") <= 256,
        "{agents}"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h051_what_is_no_message_ends_the_stream_and_nothing_else() {
    let cluster = empty().await;
    let own = BareAgent::identity(&cluster, "agent").await;
    // The first message is another one than hello; hello is said twice.
    let early = BareAgent::link(&cluster, &own, Out::Renew(v1::Renew::default())).await;
    assert_eq!(early.expect_err("refused").code(), Code::InvalidArgument);
    let mut twice = BareAgent::join(&cluster).await;
    twice.say(Out::Hello(hello())).await;
    let ended = twice.hear(|_| None::<()>).await.expect_err("ended");
    assert_eq!(ended.code(), Code::InvalidArgument);
    // Ids that are none, and a message above its limit.
    let mut agent = BareAgent::join(&cluster).await;
    let nobody = v1::AttemptRef {
        stage_id: "../../etc/passwd\u{0}".to_owned(),
        attempt: 1,
    };
    let ack = agent.report(success(&nobody)).await;
    assert_eq!(ack.acceptance(), v1::Acceptance::Invalid);
    let huge = v1::Draining {
        reason: "x".repeat(2 << 20),
        deadline_ms: None,
    };
    agent.say(Out::Draining(huge)).await;
    let ended = agent.hear(|_| None::<()>).await.expect_err("ended");
    assert_eq!(ended.code(), Code::ResourceExhausted);
    let _others_are_served = BareAgent::join(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn an_agent_of_another_time_is_told_which_side_to_update() {
    let cluster = empty().await;
    let own = BareAgent::identity(&cluster, "agent").await;
    for (version, words) in [(0, "update the agent"), (99, "update the dispatcher")] {
        let mut other = hello();
        other.version = version;
        let refused = BareAgent::link(&cluster, &own, Out::Hello(other)).await;
        let refused = refused.expect_err("refused");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains(words), "{refused}");
    }
    cluster.stop().await;
}
