//! A dispatcher that does what a test says, and remembers what the agent said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_identity::guard::peer_of;
use slipway_identity::{Authority, Connections, Incoming, JoinToken, Own};
use slipway_proto::v1::agent_message::Message as Said;
use slipway_proto::v1::agents_server::{Agents, AgentsServer};
use slipway_proto::v1::dispatcher_message::Message as Told;
use slipway_proto::v1::identities_server::{Identities, IdentitiesServer};
use slipway_proto::v1::logs_server::{Logs, LogsServer};
use slipway_proto::v1::{self, AgentMessage, DispatcherMessage, LogAck, LogFrame};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The join token that it takes.
const JOIN: &str = "join";

type Outgoing = Result<DispatcherMessage, Status>;

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) bytes: Vec<u8>,
    pub(crate) closed: bool,
    pub(crate) frames: usize,
}

#[derive(Default)]
pub(crate) struct Inner {
    to_agent: Option<mpsc::Sender<Outgoing>>,
    pub(crate) logs: BTreeMap<(String, u32), Log>,
    pub(crate) artifacts: BTreeMap<String, Vec<u8>>,
    pub(crate) hellos: Vec<v1::Hello>,
    /// How often attempts are renewed; 0 = as usual.
    pub(crate) renew_ms: u64,
    /// It does not answer that something is prepared.
    pub(crate) is_deaf: bool,
    /// No output is taken.
    pub(crate) no_logs: bool,
    /// Log streams that are broken after one frame each.
    pub(crate) break_logs: usize,
}

#[derive(Clone)]
pub(crate) struct FakeDispatcher {
    /// Unique: an agent removes whatever carries its id and is not its own any more.
    pub(crate) agent_id: String,
    authority: Arc<Authority>,
    pub(crate) inner: Arc<Mutex<Inner>>,
    said: mpsc::Sender<Said>,
}

pub(crate) struct Conversation {
    pub(crate) address: SocketAddr,
    pub(crate) dispatcher: FakeDispatcher,
    pub(crate) said: mpsc::Receiver<Said>,
}

pub(crate) async fn serve() -> Conversation {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, said) = mpsc::channel(10_000);
    let (now, rng) = (Clock::system().now(), Rng::system());
    let authority = Arc::new(Authority::create(now).unwrap());
    let own = authority.credentials(PeerRole::Dispatcher, "fake", now, &rng);
    let tls = Own::new(own.unwrap()).server().unwrap();
    let dispatcher = FakeDispatcher {
        authority,
        agent_id: format!("01ARZ{:011}{:010}", std::process::id(), address.port()),
        inner: Arc::default(),
        said: sender,
    };
    let incoming = Incoming::start(listener, tls, Connections::new(), &Shutdown::new());
    let serving = tonic::transport::Server::builder()
        .add_service(IdentitiesServer::new(dispatcher.clone()))
        .add_service(AgentsServer::new(dispatcher.clone()))
        .add_service(LogsServer::new(dispatcher.clone()))
        .serve_with_incoming(incoming);
    slipway_daemon::spawn("fake dispatcher", serving);
    Conversation {
        address,
        dispatcher,
        said,
    }
}

impl FakeDispatcher {
    /// What lets an agent join.
    pub(crate) fn join_token(&self) -> String {
        JoinToken::new(JOIN, &self.authority.fingerprint()).text()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the agent's stream, as a dispatcher that dies does.
    pub(crate) fn hang_up(&self) {
        self.with(|inner| inner.to_agent = None);
    }

    pub(crate) async fn tell(&self, message: Told) {
        let sender = self.with(|inner| inner.to_agent.clone()).unwrap();
        let message = Some(message);
        sender
            .send(Ok(DispatcherMessage { message }))
            .await
            .unwrap();
    }

    pub(crate) fn log(&self, key: &v1::AttemptRef) -> String {
        self.with(|inner| {
            let log = inner.logs.get(&(key.stage_id.clone(), key.attempt));
            log.map(|log| String::from_utf8_lossy(&log.bytes).into_owned())
                .unwrap_or_default()
        })
    }

    async fn hear(&self, message: Said) {
        match &message {
            Said::Hello(hello) => {
                let verdicts = hello.held.iter().map(|held| v1::HeldVerdict {
                    attempt: held.attempt.clone(),
                    verdict: match held.state() {
                        v1::HeldState::Finished => v1::Verdict::SendResult.into(),
                        _ => v1::Verdict::Keep.into(),
                    },
                });
                let renew_ms = match self.with(|inner| inner.renew_ms) {
                    0 => 20_000,
                    quick => quick,
                };
                let welcome = v1::Welcome {
                    epoch: 1,
                    verdicts: verdicts.collect(),
                    lease_ms: 60_000,
                    renew_ms,
                };
                self.with(|inner| inner.hellos.push(hello.clone()));
                self.tell(Told::Welcome(welcome)).await;
            }
            Said::Renew(renew) => {
                let attempts = renew.held.iter().map(|held| v1::RenewedAttempt {
                    attempt: Some(held.clone()),
                    lease_left_ms: 60_000,
                    cancel: false,
                    grace_ms: 1_000,
                    current: true,
                });
                let attempts = attempts.collect();
                self.tell(Told::Renewed(v1::Renewed { attempts })).await;
            }
            Said::Prepared(prepared) if !self.with(|inner| inner.is_deaf) => {
                let attempt = prepared.attempt.clone();
                self.tell(Told::Go(v1::Go { attempt })).await;
            }
            Said::Result(result) => {
                let ack = v1::ResultAck {
                    attempt: result.attempt.clone(),
                    acceptance: v1::Acceptance::Accepted.into(),
                    detail: String::new(),
                    passed: result.exit_code == 0,
                };
                self.tell(Told::ResultAck(ack)).await;
            }
            _ => {}
        }
        self.said.send(message).await.unwrap();
    }
}

fn authentic<T>(request: &Request<T>) -> Result<(), Status> {
    match peer_of(request) {
        Some(peer) if peer.role() == PeerRole::Agent => Ok(()),
        _ => Err(Status::unauthenticated("who?")),
    }
}

#[tonic::async_trait]
impl Identities for FakeDispatcher {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::CertificateResponse>, Status> {
        let asked = request.into_inner();
        if asked.join_token != JOIN {
            return Err(Status::unauthenticated("join_token_unknown"));
        }
        let name = self.authority.name(PeerRole::Agent, &self.agent_id);
        let (now, rng) = (Clock::system().now(), Rng::system());
        let csr = &asked.certificate_request;
        Ok(Response::new(v1::CertificateResponse {
            certificate: self.authority.issue(&name, csr, now, &rng).unwrap(),
            authority: self.authority.certificate().to_vec(),
        }))
    }

    async fn renew(
        &self,
        _: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::CertificateResponse>, Status> {
        Err(Status::unavailable("not in these tests"))
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for FakeDispatcher {
    type LinkStream = Boxed<DispatcherMessage>;

    async fn link(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        authentic(&request)?;
        let mut messages = request.into_inner();
        let (sender, receiver) = mpsc::channel(1_000);
        self.with(|inner| inner.to_agent = Some(sender));
        let heard = self.clone();
        slipway_daemon::spawn("fake stream", async move {
            while let Some(Ok(message)) = messages.next().await {
                heard.hear(message.message.unwrap()).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<v1::ArtifactChunk>>,
    ) -> Result<Response<v1::PutArtifactResponse>, Status> {
        authentic(&request)?;
        let mut chunks = request.into_inner();
        let mut name = String::new();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await.transpose()? {
            if let Some(head) = chunk.head {
                name = head.name;
            }
            bytes.extend(chunk.data);
        }
        self.with(|inner| inner.artifacts.insert(name.clone(), bytes));
        Ok(Response::new(v1::PutArtifactResponse {
            object_key: format!("artifacts/{name}"),
        }))
    }
}

#[tonic::async_trait]
impl Logs for FakeDispatcher {
    type AppendStream = Boxed<LogAck>;

    async fn append(
        &self,
        request: Request<Streaming<LogFrame>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        authentic(&request)?;
        if self.with(|inner| inner.no_logs) {
            return Err(Status::unavailable("not now"));
        }
        let mut frames = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let taken = self.clone();
        slipway_daemon::spawn("fake log stream", async move {
            while let Some(Ok(frame)) = frames.next().await {
                let (ack, last) = taken.with(|inner| take(inner, &frame));
                if last || sender.send(Ok(ack)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn take(inner: &mut Inner, frame: &LogFrame) -> (LogAck, bool) {
    let key = frame.attempt.clone().unwrap();
    let log = inner
        .logs
        .entry((key.stage_id.clone(), key.attempt))
        .or_default();
    let raw = match frame.codec() {
        v1::Codec::Zstd => zstd::bulk::decompress(&frame.data, frame.raw_len as usize).unwrap(),
        _ => frame.data.clone(),
    };
    assert_eq!(crc32c::crc32c(&raw), frame.crc32c);
    log.frames += 1;
    let have = log.bytes.len() as u64;
    let mut rewind = None;
    if frame.offset > have {
        rewind = Some(have);
    } else {
        let known = usize::try_from(have - frame.offset).unwrap();
        log.bytes.extend(raw.get(known..).unwrap_or_default());
    }
    if frame.close {
        if blake3::hash(&log.bytes).to_hex().as_str() == frame.digest {
            log.closed = true;
        } else {
            log.bytes.clear();
            rewind = Some(0);
        }
    }
    let received = log.bytes.len() as u64;
    let last = inner.break_logs > 0;
    inner.break_logs = inner.break_logs.saturating_sub(1);
    let ack = LogAck {
        attempt: Some(key),
        received,
        durable: received,
        rewind,
        flush_ms: 100,
        refused: String::new(),
    };
    (ack, last)
}
