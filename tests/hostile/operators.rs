//! The operators' gRPC service: who may what, and what it tells.

use std::time::Duration;

use slipway_proto::v1;
use slipway_proto::v1::admin_client::AdminClient;
use slipway_tests::Cluster;
use slipway_tests::cluster::FAKE_URL;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

const SOON: Duration = Duration::from_secs(20);
const ZERO: &str = "0000000000000000000000000000000000000000";
/// Nobody has this label.
const WAITS: &str = "version: 1\non:\n  push:\nstages:\n  test:\n    image: slipway-busybox:1\n    labels: {gpu: yes}\n    commands: [make]\n";

async fn channel(cluster: &Cluster) -> Channel {
    cluster.channel()
}

fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let bearer = format!("Bearer {token}").parse().expect("good");
        request.metadata_mut().insert("authorization", bearer);
    }
    request
}

#[tokio::test]
async fn an_operator_reads_builds_and_reasons_cancels_and_drains() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let repo = rest.add_repository(FAKE_URL).await.unwrap();
    let hook = rest.add_hook(&repo, "github").await.unwrap();
    let sha = cluster.commit(1, WAITS);
    let body = hook.push_body(ZERO, &sha);
    hook.deliver(rest, "d", body).await.unwrap();
    let row = rest.decided(&hook, "d", SOON).await.unwrap();
    let build_id = row["build_id"].as_str().unwrap().to_owned();
    let token = cluster.up.token.clone();
    let mut admin = AdminClient::new(channel(&cluster).await);
    let listed = admin.list_builds(by(&token, v1::ListBuildsRequest::default()));
    let listed = listed.await.unwrap().into_inner().builds;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].build_id, build_id);
    let queue = admin.list_queue(by(&token, v1::ListQueueRequest {})).await;
    let queue = queue.unwrap().into_inner().stages;
    assert_eq!(queue.len(), 1);
    assert_eq!(
        (queue[0].name.as_str(), &queue[0].build_id),
        ("test", &build_id)
    );
    assert_eq!(queue[0].reason, "no agent with `gpu=yes`");
    let agents = admin
        .list_agents(by(&token, v1::ListAgentsRequest {}))
        .await;
    let agents = agents.unwrap().into_inner().agents;
    assert!(agents.len() == 1 && agents[0].connected, "{agents:?}");
    let agent_id = agents[0].agent_id.clone();
    let drained = admin.drain_agent(by(&token, v1::DrainAgentRequest { agent_id }));
    assert_eq!(drained.await.unwrap().into_inner().state, "draining");
    let cancel = v1::CancelBuildRequest {
        build_id: build_id.clone(),
    };
    let cancelled = admin.cancel_build(by(&token, cancel)).await.unwrap();
    assert_eq!(cancelled.into_inner().status, "cancelled");
    let get = v1::GetBuildRequest { build_id };
    let build = admin.get_build(by(&token, get)).await.unwrap().into_inner();
    assert_eq!(build.stages[0].state, "cancelled", "{build:?}");
    let deployments = v1::ListDeploymentsRequest::default();
    let deployments = admin.list_deployments(by(&token, deployments)).await;
    assert!(deployments.unwrap().into_inner().deployments.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h075_without_a_good_token_or_the_right_nothing_is_told_or_done() {
    let cluster = Cluster::start().await;
    let viewer = cluster.rest.as_role("vera", &["viewer"]).await.unwrap();
    let mut admin = AdminClient::new(channel(&cluster).await);
    for token in ["", "slp_nonsense"] {
        let refused = admin.list_builds(by(token, v1::ListBuildsRequest::default()));
        assert_eq!(refused.await.unwrap_err().code(), Code::Unauthenticated);
        let refused = admin.list_queue(by(token, v1::ListQueueRequest {})).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
        let refused = admin.drain_agent(by(token, v1::DrainAgentRequest::default()));
        assert_eq!(refused.await.unwrap_err().code(), Code::Unauthenticated);
    }
    let token = viewer.token();
    let may = admin.list_agents(by(token, v1::ListAgentsRequest {})).await;
    let agent_id = may.unwrap().into_inner().agents[0].agent_id.clone();
    let refused = admin.drain_agent(by(token, v1::DrainAgentRequest { agent_id }));
    assert_eq!(refused.await.unwrap_err().code(), Code::PermissionDenied);
    let build_id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned();
    let refused = admin.cancel_build(by(token, v1::CancelBuildRequest { build_id }));
    assert_eq!(refused.await.unwrap_err().code(), Code::PermissionDenied);
    cluster.stop().await;
}

#[tokio::test]
async fn a_tool_finds_out_what_is_served_and_whether_it_is_well() {
    let cluster = Cluster::start().await;
    let channel = channel(&cluster).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "slipway.v1.Agents", "slipway.v1.Admin"] {
        let service = service.to_owned();
        let check = tonic_health::pb::HealthCheckRequest { service };
        let answer = health.check(check).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec: tonic_prost::ProstCodec<ServerReflectionRequest, ServerReflectionResponse> =
        tonic_prost::ProstCodec::default();
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let asked = Request::new(futures::stream::iter([ask]));
    let answers = grpc.streaming(asked, http::uri::PathAndQuery::from_static(path), codec);
    let mut answers = answers.await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in [
        "slipway.v1.Admin",
        "slipway.v1.Agents",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    cluster.stop().await;
}
