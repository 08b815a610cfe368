//! Both ends of a connection, with certificates that are right and certificates that are not.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use slipway_core::access::PeerRole;
use slipway_core::time::Timestamp;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_identity::request::{REQUEST_MAX, Request};
use slipway_identity::{
    Authority, Connections, Credentials, Guard, Incoming, Own, Peer, connect, guard, request,
};
use slipway_proto::v1::identities_client::IdentitiesClient;
use slipway_proto::v1::identities_server::{Identities, IdentitiesServer};
use slipway_proto::v1::{CertificateResponse, JoinRequest, RenewRequest};
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Answers with the name of its caller, as the connection has it.
struct Named;

#[tonic::async_trait]
impl Identities for Named {
    async fn join(
        &self,
        _: tonic::Request<JoinRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        Ok(Response::new(CertificateResponse::default()))
    }

    async fn renew(
        &self,
        request: tonic::Request<RenewRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let peer = guard::peer_of(&request).expect("the guard lets nobody else through");
        Ok(Response::new(CertificateResponse {
            certificate: peer.name.to_string().into_bytes(),
            authority: vec![],
        }))
    }
}

struct Server {
    authority: Authority,
    address: SocketAddr,
    connections: Connections,
    shutdown: Shutdown,
}

fn now() -> Timestamp {
    Clock::system().now()
}

fn issued(authority: &Authority, role: PeerRole, at: Timestamp) -> Own {
    let made = authority.credentials(role, "01ARZ3NDEKTSV4RRFFQ69G5FAV", at, &Rng::system());
    Own::new(made.unwrap())
}

impl Server {
    async fn start(role: PeerRole) -> Self {
        let authority = Authority::create(now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, shutdown) = (Connections::new(), Shutdown::new());
        let tls = issued(&authority, role, now()).server().unwrap();
        let incoming = Incoming::start(listener, tls, connections.clone(), &shutdown);
        let served = tonic::transport::Server::builder()
            .layer(Guard::new(Clock::system()))
            .add_service(IdentitiesServer::new(Named))
            .serve_with_incoming(incoming);
        shutdown.spawn("server", served);
        Self {
            authority,
            address,
            connections,
            shutdown,
        }
    }

    fn channel(&self, own: &Own) -> Channel {
        own.channel(&format!("https://{}", self.address), PeerRole::Dispatcher)
            .unwrap()
    }

    /// Whom it takes the caller for.
    async fn name(&self, own: &Own) -> Result<String, Status> {
        let mut client = IdentitiesClient::new(self.channel(own));
        let answer = client.renew(RenewRequest::default()).await?.into_inner();
        Ok(String::from_utf8(answer.certificate).unwrap())
    }
}

/// A certificate with this authority's key that says something else.
fn forged(
    authority: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> Result<Credentials, slipway_identity::IdentityError> {
    let key = KeyPair::generate().unwrap();
    let signer = KeyPair::try_from(authority.key().to_vec()).unwrap();
    let certificate = authority.certificate().to_vec();
    let issuer = Issuer::from_ca_cert_der(&certificate.clone().into(), signer).unwrap();
    let mut params = CertificateParams::default();
    change(&mut params);
    let made = params.signed_by(&key, &issuer).unwrap();
    Credentials::new(key.serialize_der(), made.der().to_vec(), certificate)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().unwrap())
}

#[tokio::test]
async fn a_caller_is_who_its_certificate_says_and_nobody_without_one() {
    let server = Server::start(PeerRole::Dispatcher).await;
    let own = issued(&server.authority, PeerRole::Agent, now());
    let name = server.name(&own).await.unwrap();
    assert_eq!(name, own.now().peer().name.to_string());
    let address = format!("https://{}", server.address);
    let known_by = server.authority.fingerprint();
    let anybody = connect::pinned(&address, PeerRole::Dispatcher, &known_by).unwrap();
    let mut client = IdentitiesClient::new(anybody);
    assert!(client.join(JoinRequest::default()).await.is_ok());
    let refused = client.renew(RenewRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    server.shutdown.begin();
}

#[tokio::test]
async fn hostile_h049_certificates_that_are_not_good_end_in_the_handshake() {
    let server = Server::start(PeerRole::Dispatcher).await;
    let stranger = Authority::create(now()).unwrap();
    let mine = issued(&server.authority, PeerRole::Agent, now());
    let (name, authority) = (mine.now().peer().name.to_string(), &server.authority);
    let date = |year| rcgen::date_time_ymd(year, 1, 1);
    let early = forged(authority, |params| {
        params.subject_alt_names = vec![uri(&name)];
        (params.not_before, params.not_after) = (date(2090), date(2091));
    });
    let long_gone = issued(authority, PeerRole::Agent, now().before(10 * DAY));
    // Another installation's, shown to this one.
    let theirs = issued(&stranger, PeerRole::Agent, now()).now();
    let other = |own: &Own| {
        // Trusts this server all the same: only the server's judgement is of interest.
        let shown = Own::new(own.now().as_ref().clone());
        let address = format!("https://{}", server.address);
        (shown, address)
    };
    for (what, own) in [
        ("not yet valid", Own::new(early.unwrap())),
        ("expired for long", long_gone),
    ] {
        let (own, address) = other(&own);
        let channel = own.channel(&address, PeerRole::Dispatcher).unwrap();
        let mut client = IdentitiesClient::new(channel);
        let refused = client.renew(RenewRequest::default()).await.unwrap_err();
        assert_ne!(refused.code(), Code::Unimplemented, "{what}");
        assert!(server.connections.peers().is_empty(), "{what}: {refused}");
    }
    let crossed = Own::new(theirs.as_ref().clone());
    assert!(server.name(&crossed).await.is_err());
    // Signed by the right authority, and naming nobody, two, or somebody strange.
    for names in [
        vec![],
        vec![uri(&name), uri(&name)],
        vec![uri("spiffe://x/agent/a%00b")],
        vec![uri("spiffe://x/admin/a")],
        vec![uri("https://x/agent/a")],
    ] {
        let made = forged(authority, |params| params.subject_alt_names = names);
        assert!(made.is_err(), "it names no process");
    }
    server.shutdown.begin();
}

#[tokio::test]
async fn a_server_must_be_of_the_role_that_is_called() {
    // A coordinator's certificate is good, and yet no dispatcher's.
    let server = Server::start(PeerRole::Deployer).await;
    let own = issued(&server.authority, PeerRole::Agent, now());
    let refused = server.name(&own).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // An agent's is good for no server at all.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let tls = own.server().unwrap();
    let incoming = Incoming::start(listener, tls, Connections::new(), &server.shutdown);
    let served = tonic::transport::Server::builder()
        .add_service(IdentitiesServer::new(Named))
        .serve_with_incoming(incoming);
    server.shutdown.spawn("impostor", served);
    let known_by = server.authority.fingerprint();
    for channel in [
        own.channel(&address, PeerRole::Dispatcher).unwrap(),
        connect::pinned(&address, PeerRole::Dispatcher, &known_by).unwrap(),
    ] {
        let answer = IdentitiesClient::new(channel)
            .join(JoinRequest::default())
            .await;
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    }
    server.shutdown.begin();
}

#[tokio::test]
async fn a_first_contact_knows_the_server_by_its_fingerprint_alone() {
    let server = Server::start(PeerRole::Dispatcher).await;
    let address = format!("https://{}", server.address);
    let stranger = Authority::create(now()).unwrap().fingerprint();
    let channel = connect::pinned(&address, PeerRole::Dispatcher, &stranger).unwrap();
    let refused = IdentitiesClient::new(channel)
        .join(JoinRequest::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    let plain = connect::pinned("http://127.0.0.1:1", PeerRole::Dispatcher, &stranger);
    assert!(plain.unwrap_err().to_string().contains("https://"));
    server.shutdown.begin();
}

#[tokio::test]
async fn closing_a_peer_ends_its_open_connections_and_no_others() {
    let server = Server::start(PeerRole::Dispatcher).await;
    let made = |id: &str| {
        let made = server
            .authority
            .credentials(PeerRole::Agent, id, now(), &Rng::system());
        Own::new(made.unwrap())
    };
    let (gone, stays) = (
        made("01ARZ3NDEKTSV4RRFFQ69G5FA1"),
        made("01ARZ3NDEKTSV4RRFFQ69G5FA2"),
    );
    let (mut a, mut b) = (
        IdentitiesClient::new(server.channel(&gone)),
        IdentitiesClient::new(server.channel(&stays)),
    );
    a.renew(RenewRequest::default()).await.unwrap();
    b.renew(RenewRequest::default()).await.unwrap();
    assert_eq!(server.connections.peers().len(), 2);
    let id = gone.id();
    assert_eq!(server.connections.close_peer(PeerRole::Agent, &id), 1);
    let left = || server.connections.peers().len() == 1;
    let ended = async {
        while !left() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .unwrap();
    assert_eq!(server.connections.peers()[0].name.id, stays.id());
    b.renew(RenewRequest::default()).await.unwrap();
    server.shutdown.begin();
}

#[test]
fn hostile_h050_of_a_request_only_the_public_key_is_taken() {
    let authority = Authority::create(now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .subject_alt_names
        .push(uri("spiffe://x/dispatcher/evil"));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "admin");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let asked = params.serialize_request(&key).unwrap();
    let name = authority.name(PeerRole::Agent, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let made = authority
        .issue(&name, asked.der(), now(), &Rng::system())
        .unwrap();
    let text = String::from_utf8_lossy(&made).into_owned();
    assert!(!text.contains("evil") && !text.contains("admin"));
    assert_eq!(Peer::read(&made).unwrap().name, name);
    // It signs nothing: with it as an authority nothing verifies.
    let (_, read) = x509_parser::parse_x509_certificate(&made).unwrap();
    assert!(!read.is_ca());

    let huge = {
        let mut params = CertificateParams::default();
        let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4], vec![7; 1 << 20]);
        params.custom_extensions = vec![extension];
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    assert!(huge.len() > REQUEST_MAX);
    let mut cut = Request::make().unwrap().der().to_vec();
    let last = cut.len() - 1;
    cut[last] ^= 1;
    for (what, bad) in [
        ("an extension of 1 MiB", huge),
        ("not signed by its own key", cut),
        ("nothing", vec![]),
        ("RSA", include_bytes!("rsa-1024.csr.der").to_vec()),
    ] {
        assert!(request::public_key(&bad).is_err(), "{what}");
    }
}

#[test]
fn an_identity_is_kept_whole_with_its_key_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.pem");
    assert!(Credentials::load(&path).unwrap().is_none());
    let authority = Authority::create(now()).unwrap();
    let own = issued(&authority, PeerRole::Agent, now()).now();
    own.save(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = Credentials::load(&path).unwrap().unwrap();
    assert_eq!(kept.peer(), own.peer());
    assert_eq!(kept.fingerprint(), authority.fingerprint());
    assert!(!format!("{kept:?}").contains("PRIVATE"));
    for bad in [
        "",
        "x",
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&path, bad).unwrap();
        let error = Credentials::load(&path).unwrap_err().to_string();
        assert!(error.contains("join again"), "{error}");
    }
    // A certificate that belongs to another key is refused.
    let key = KeyPair::generate().unwrap().serialize_der();
    let fresh = Request::make().unwrap();
    let name = authority.name(PeerRole::Agent, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let certificate = authority
        .issue(&name, fresh.der(), now(), &Rng::system())
        .unwrap();
    let crossed = Credentials::new(key, certificate, authority.certificate().to_vec());
    assert!(crossed.is_err());
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_of_its_life_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("identity.pem");
    let authority = Arc::new(Authority::create(now()).unwrap());
    let young = issued(&authority, PeerRole::Agent, now()).now();
    let life = young.peer().expires.since(young.peer().begins);
    assert_eq!(young.renewal(), young.peer().begins.after(life / 2));
    assert!(young.renewal() > now());
    // Twenty of its twenty-four hours are over.
    let own = issued(&authority, PeerRole::Agent, now().before(DAY * 20 / 24));
    let (before, id) = (own.now().peer().serial.clone(), own.id());
    let made_by = Arc::clone(&authority);
    let renew = move || {
        let made = made_by.credentials(PeerRole::Agent, &id, now(), &Rng::system());
        std::future::ready(made.map_err(anyhow::Error::from))
    };
    let (shutdown, clock) = (Shutdown::new(), Clock::system());
    let (kept, rng) = (Some(file.clone()), Rng::seeded(1));
    let renewing = own
        .clone()
        .keep_renewed(kept, clock, rng, shutdown.clone(), renew);
    shutdown.spawn("renew", renewing);
    let done = async {
        while own.now().peer().serial == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), done)
        .await
        .unwrap();
    assert!(own.now().renewal() > now(), "not again at once");
    let kept = Credentials::load(&file).unwrap().unwrap();
    assert_eq!(kept.peer().serial, own.now().peer().serial);
    shutdown.begin();
}
