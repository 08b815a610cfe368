//! What a stage made, and a person opens in a browser.

use http::Method;
use sha2::{Digest as _, Sha256};
use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::agents_client::AgentsClient;
use slipway_tests::BareAgent;

use crate::agents::{SOON, empty, push};

const PAGE: &[u8] = b"<script>fetch('/v1/tokens').then(r => r.text()).then(alert)</script>";

#[tokio::test]
async fn hostile_h074_a_page_that_a_stage_made_never_opens_as_one_of_ours() {
    let cluster = empty().await;
    let mut agent = BareAgent::join(&cluster).await;
    let build = push(&cluster).await;
    let assign = agent.assigned(SOON).await.expect("assigned");
    let attempt = assign.attempt;
    let taken = v1::Taken {
        attempt: attempt.clone(),
    };
    agent.say(Out::Taken(taken)).await;
    let sha256 = hex::encode(Sha256::digest(PAGE));
    let name = "report/\"; filename=index.html".to_owned();
    let head = v1::ArtifactHead {
        attempt: attempt.clone(),
        name: name.clone(),
        size: PAGE.len() as u64,
        sha256: sha256.clone(),
    };
    let chunk = v1::ArtifactChunk {
        head: Some(head),
        data: PAGE.to_vec(),
    };
    let mut client = AgentsClient::new(cluster.channel_of(&agent.own));
    let put = client.put_artifact(tokio_stream::iter([chunk])).await;
    let object_key = put.expect("stored").into_inner().object_key;
    let result = v1::Result {
        attempt,
        ending: v1::Ending::Exited.into(),
        artifacts: vec![v1::Artifact {
            name,
            artifact_type: "text/html".to_owned(),
            object_key,
            size: PAGE.len() as u64,
            sha256,
        }],
        ..v1::Result::default()
    };
    agent.report(result).await;
    let rest = &cluster.rest;
    let listed = rest
        .get(&format!("/artifacts/{build}"))
        .await
        .expect("listed");
    let url = listed["build_artifacts"][0]["url"].as_str();
    let url = url.unwrap_or_else(|| panic!("one artifact: {listed}"));
    let path = url.strip_prefix("/api/v1").expect("below the API");
    let answer = rest.call(Method::GET, path, None).await.expect("answered");
    assert_eq!((answer.status, answer.text.as_bytes()), (200, PAGE));
    let header = |name: &str| answer.headers[name].to_str().expect("text");
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert!(header("content-security-policy").contains("sandbox"));
    let disposition = header("content-disposition");
    assert!(
        disposition.starts_with("attachment; filename=\""),
        "{disposition}"
    );
    assert_eq!(disposition.matches('"').count(), 2, "{disposition}");
    assert_eq!(
        disposition.matches("filename").count(),
        2,
        "one is a part of the name: {disposition}"
    );
    cluster.stop().await;
}
