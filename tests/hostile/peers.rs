//! Processes: which certificate may call which method, and what revocation reaches.

use std::time::Duration;

use prost::Message as _;
use prost_types::FileDescriptorSet;
use slipway_core::access::{Demand, PeerRole, demand};
use slipway_daemon::{Clock, Rng};
use slipway_identity::{JoinToken, Joined, Own, join, request};
use slipway_proto::DESCRIPTORS;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::identities_client::IdentitiesClient;
use slipway_proto::v1::{self};
use slipway_tests::bare::hello;
use slipway_tests::{BareAgent, Cluster, Parts};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

/// These listen on sockets in the file system, which say who may connect. A router that is controlled over TLS as well is
/// asked by every role in the tests of several hosts.
const LOCAL: [&str; 3] = [
    "slipway.v1.Cache",
    "slipway.v1.CacheDoors",
    "slipway.v1.Router",
];
/// Answered by the coordinator.
const COORDINATOR: &str = "slipway.v1.Rollouts";

/// The path of every method that is served over the network.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("our own descriptors");
    let mut found = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            if !LOCAL.contains(&name.as_str()) {
                let methods = service.method.iter();
                found.extend(methods.map(|m| format!("/{name}/{}", m.name())));
            }
        }
    }
    found
}

async fn call(channel: &Channel, path: &str) -> Code {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("connected");
    let path = path.parse().expect("a path");
    let codec: ProstCodec<(), ()> = ProstCodec::default();
    match client.unary(Request::new(()), path, codec).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

async fn empty() -> Cluster {
    let parts = Parts {
        agents: 0,
        ..Parts::default()
    };
    Cluster::start_with(parts).await
}

#[test]
fn hostile_h044_every_method_has_a_row_in_the_table() {
    let all = methods();
    assert!(all.len() > 15, "{all:?}");
    for path in all {
        assert!(
            demand(&path).is_some(),
            "{path} has no row: who may call it?"
        );
    }
}

#[tokio::test]
async fn authz_identity_only_from_tls() {
    let cluster = empty().await;
    let coordinator = |own: Option<&Own>| {
        let address = format!("https://{}", cluster.up.coordinator);
        match own {
            Some(own) => own.channel(&address, PeerRole::Deployer),
            None => {
                let known_by = cluster.up.authority.fingerprint();
                slipway_identity::connect::pinned(&address, PeerRole::Deployer, &known_by)
            }
        }
        .expect("an address")
    };
    let mut callers = vec![(None, cluster.channel(), coordinator(None))];
    for role in [PeerRole::Agent, PeerRole::Cache, PeerRole::Deployer] {
        let own = BareAgent::identity(&cluster, role.word()).await;
        callers.push((
            Some(role),
            cluster.channel_of(&own),
            coordinator(Some(&own)),
        ));
    }
    for path in methods() {
        for (role, dispatcher, coordinator) in &callers {
            let channel = if path.contains(COORDINATOR) {
                coordinator
            } else {
                dispatcher
            };
            let code = call(channel, &path).await;
            let refused = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
            let may = match demand(&path).expect("a row") {
                Demand::Nothing => true,
                // Nobody brings a person's token here, and no dispatcher calls.
                Demand::Person | Demand::PeerOrPerson(_) => false,
                Demand::Peer(wanted) => *role == Some(wanted),
                Demand::Renewing => role.is_some(),
            };
            assert_eq!(refused, !may, "{path} called by {role:?}: {code:?}");
        }
    }
    for strange in [
        "/slipway.v1.Agents/Unheard",
        "/slipway.v1.agents/Link",
        "//x/y",
    ] {
        let code = call(&callers[1].1, strange).await;
        assert_eq!(code, Code::Unimplemented, "{strange}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h049_what_a_message_says_about_its_sender_makes_nobody_anybody() {
    let cluster = empty().await;
    let own = BareAgent::identity(&cluster, "agent").await;
    let other = BareAgent::identity(&cluster, "agent").await;
    let mut client = v1::agents_client::AgentsClient::new(cluster.channel());
    let mut request = Request::new(tokio_stream::iter([v1::AgentMessage {
        message: Some(Out::Hello(hello())),
    }]));
    for (name, value) in [
        ("authorization", format!("Bearer {}", own.id())),
        ("x-agent-id", own.id()),
        ("agent_id", own.id()),
    ] {
        let name: tonic::metadata::AsciiMetadataKey = name.parse().expect("a name");
        request
            .metadata_mut()
            .insert(name, value.parse().expect("a value"));
    }
    let refused = client.link(request).await.expect_err("no certificate");
    assert_eq!(refused.code(), Code::Unauthenticated);
    // With a certificate, a claim beside it changes nothing.
    let mut hello = hello();
    hello.labels.insert("trusted".to_owned(), "true".to_owned());
    let _open = BareAgent::link(&cluster, &other, Out::Hello(hello))
        .await
        .expect("welcome");
    let agents = cluster.rest.get("/agents").await.expect("listed");
    let listed = agents.as_array().expect("a list");
    let connected: Vec<_> = listed.iter().filter(|a| a["connected"] == true).collect();
    assert_eq!(connected.len(), 1);
    assert_eq!(connected[0]["agent_id"], other.id());
    assert_eq!(
        connected[0]["labels"],
        serde_json::json!({}),
        "labels come from the token"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h050_a_join_token_is_spent_by_one_and_a_bad_request_does_not_spend_it() {
    let cluster = empty().await;
    let made = cluster
        .rest
        .post("/agents/join-tokens", serde_json::json!({}))
        .await;
    let text = made.expect("made")["join_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let secret = text.split('.').next().expect("a secret").to_owned();
    let ask = |csr: Vec<u8>| v1::JoinRequest {
        join_token: secret.clone(),
        name: "x".to_owned(),
        certificate_request: csr,
    };
    let mut client = IdentitiesClient::new(cluster.channel());
    for csr in [vec![], vec![0x30; 100], vec![0; request::REQUEST_MAX + 1]] {
        let refused = client.join(ask(csr)).await.expect_err("no request");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let both = tokio::join!(cluster.join(&text), cluster.join(&text));
    let used = |joined: &Result<Own, Joined>| matches!(joined, Err(Joined::Refused(why)) if why == "join_token_used");
    assert!(both.0.is_ok() != both.1.is_ok(), "one of them");
    assert!(used(&both.0) || used(&both.1), "the other is told why");
    // Somebody else's server, recognised by its fingerprint, gets no token.
    let wrong = JoinToken::new(&secret, &"0".repeat(64));
    let refused = join::join(&cluster.grpc(), &wrong, "x").await;
    assert!(matches!(refused, Err(Joined::Away(_))), "{refused:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn revocation_10s() {
    let cluster = empty().await;
    let mut agent = BareAgent::join(&cluster).await;
    let by_another = BareAgent::join(&cluster).await;
    let mut by_another = (by_another.own.id(), by_another);
    let id = agent.own.id();
    let clock = Clock::system();
    let begun = clock.monotonic();
    let removed = cluster
        .rest
        .call(reqwest::Method::DELETE, &format!("/agents/{id}"), None)
        .await;
    assert_eq!(removed.expect("answered").status, 204);
    // Another dispatcher revokes: only the row changes.
    let revoked =
        cluster
            .up
            .db
            .revoke_peer(&by_another.0, "left".to_owned(), Clock::system().now());
    assert!(revoked.await.expect("stored"));
    for agent in [&mut agent, &mut by_another.1] {
        agent
            .hear(|_| None::<()>)
            .await
            .expect_err("the stream is closed");
        assert!(clock.monotonic() - begun < Duration::from_secs(10));
    }
    for own in [&agent.own, &by_another.1.own] {
        let again = BareAgent::link(&cluster, own, Out::Hello(hello())).await;
        assert_eq!(again.expect_err("revoked").code(), Code::Unauthenticated);
        let renewed = join::renew(own, &cluster.grpc()).await;
        assert!(
            matches!(&renewed, Err(Joined::Refused(why)) if why.starts_with("revoked")),
            "{renewed:?}"
        );
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_names_the_same_process_with_another_key() {
    let cluster = empty().await;
    let agent = BareAgent::join(&cluster).await;
    let old = agent.own.now();
    let fresh = join::renew(&agent.own, &cluster.grpc())
        .await
        .expect("renewed");
    assert_eq!(fresh.peer().name, old.peer().name);
    assert_ne!(fresh.peer().serial, old.peer().serial);
    agent.own.replace(fresh);
    let again = BareAgent::link(&cluster, &agent.own, Out::Hello(hello())).await;
    assert!(again.is_ok(), "welcome with the fresh one");
    cluster.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_away_for_a_day_renews_with_what_it_has() {
    let cluster = empty().await;
    let own = BareAgent::identity(&cluster, "agent").await;
    // The same name, with a certificate that ended two days, and one that ended eight days ago.
    let name = own.now().peer().name.clone();
    let of_days = |days: u64| {
        let age = Duration::from_secs(24 * 3_600 * (days + 1));
        let then = Clock::system().now().before(age);
        let authority = &cluster.up.authority;
        Own::new(
            authority
                .credentials(name.role, &name.id, then, &Rng::system())
                .expect("made"),
        )
    };
    let late = of_days(2);
    let refused = BareAgent::link(&cluster, &late, Out::Hello(hello())).await;
    assert_eq!(refused.expect_err("expired").code(), Code::Unauthenticated);
    let fresh = join::renew(&late, &cluster.grpc()).await.expect("renewed");
    late.replace(fresh);
    BareAgent::link(&cluster, &late, Out::Hello(hello()))
        .await
        .expect("welcome");
    let renewed = join::renew(&of_days(8), &cluster.grpc()).await;
    assert!(renewed.is_err(), "too late");
    cluster.stop().await;
}
