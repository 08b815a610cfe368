//! A router in this process, instances that can be killed, and clients that count what fails.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use slipway_core::traffic::{Instance, Share, TrafficTable};
use slipway_daemon::Shutdown;
use slipway_proto::v1;
use slipway_proto::v1::router_client::RouterClient;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// Below what the kernel gives to connections that go out: such a port would be somebody's by the time it is used.
const PORTS: std::ops::Range<u32> = 12_000..32_000;

/// An address that nobody listens on now, nor gets by chance later.
pub(crate) fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side begin in different places.
    let begin = std::process::id();
    let mut ports = PORTS.map(|_| {
        let step = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        PORTS.start + step % (PORTS.end - PORTS.start)
    });
    let free = ports.find_map(|port| {
        let address = format!("127.0.0.1:{port}");
        std::net::TcpListener::bind(&address).ok().map(|_| address)
    });
    free.expect("a free port")
}

/// A router on a temporary folder.
pub(crate) struct Router {
    pub(crate) control: RouterClient<Channel>,
    shutdown: Shutdown,
    ended: tokio::task::JoinHandle<Option<anyhow::Result<()>>>,
}

impl Router {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(dir, |_| {}).await
    }

    pub(crate) async fn start_with(
        dir: &Path,
        change: impl FnOnce(&mut slipway_router::Config),
    ) -> Self {
        let shutdown = Shutdown::new();
        let mut config = slipway_router::Config::in_dir(dir);
        config.limits.stop_ms = 200;
        change(&mut config);
        let socket = config.socket();
        let ended = slipway_daemon::spawn("router", slipway_router::run(config, shutdown.clone()));
        let control = connect(&socket).await;
        Self {
            control,
            shutdown,
            ended,
        }
    }

    /// A newer process on the same folder, once the coordinator would reach it.
    pub(crate) async fn start_over(&mut self, dir: &Path) -> Self {
        let before = self.boot_id().await;
        let mut next = Self::start(dir).await;
        for _ in 0..1_000 {
            // The socket's name is given over a moment before the other leaves.
            let answers = next.boot_id().await;
            if !answers.is_empty() && answers != before {
                return next;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            next.control = connect(&slipway_router::Config::in_dir(dir).socket()).await;
        }
        panic!("the newer router never answered");
    }

    /// Which life of a router answers; empty = none does at this moment.
    pub(crate) async fn boot_id(&mut self) -> String {
        let all = v1::ReadRequest::default();
        let read = self.control.read(all).await;
        read.map(|read| read.into_inner().boot_id)
            .unwrap_or_default()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        self.ended().await;
    }

    /// Waits until it ended by itself.
    pub(crate) async fn ended(self) {
        let ended = tokio::time::timeout(Duration::from_secs(10), self.ended).await;
        ended.expect("the router stops").unwrap().unwrap().unwrap();
    }

    /// Prepares and commits; answers when every new request uses the table.
    pub(crate) async fn switch(
        &mut self,
        token: u64,
        generation: u64,
        table: &TrafficTable,
    ) -> Result<v1::TableState, tonic::Status> {
        let fence = Some(v1::Fence {
            token,
            generation,
            idempotency_key: String::new(),
        });
        let prepare = v1::PrepareRequest {
            fence: fence.clone(),
            table: Some(wire(table)),
        };
        self.control.prepare(prepare).await?;
        let commit = v1::CommitRequest {
            service: table.service.clone(),
            fence,
            table_hash: table.hash().to_string(),
        };
        Ok(self.control.commit(commit).await?.into_inner())
    }

    pub(crate) async fn drain(&mut self, version: &str, deadline_ms: u64) -> u32 {
        let request = v1::DrainRequest {
            service: "shop".to_owned(),
            version: version.to_owned(),
            deadline_ms,
        };
        self.control.drain(request).await.unwrap().into_inner().cut
    }

    pub(crate) async fn counters(&mut self, version: &str) -> v1::VersionCounters {
        let read = self
            .control
            .read(v1::ReadRequest {
                service: "shop".to_owned(),
            })
            .await
            .unwrap();
        let service = read.into_inner().services.pop().unwrap();
        service
            .counters
            .into_iter()
            .find(|c| c.version == version)
            .unwrap()
    }
}

async fn connect(socket: &Path) -> RouterClient<Channel> {
    for left in (0..1_000).rev() {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://router");
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => return RouterClient::new(channel),
            Err(error) => {
                assert!(left > 0, "the router did not start: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    unreachable!("the loop returns or panics")
}

pub(crate) fn table(listen: &str, shares: &[(&str, u32, &[&str])]) -> TrafficTable {
    TrafficTable {
        service: "shop".to_owned(),
        hosts: vec![],
        listen: listen.to_owned(),
        versions: shares
            .iter()
            .map(|(version, weight_bp, addresses)| Share {
                version: (*version).to_owned(),
                weight_bp: *weight_bp,
                instances: addresses
                    .iter()
                    .map(|a| Instance {
                        id: format!("{version}-{a}"),
                        address: (*a).to_owned(),
                    })
                    .collect(),
            })
            .collect(),
        upstream_timeout_ms: 2_000,
        canary: String::new(),
        stickiness: slipway_core::traffic::Stickiness::None,
        lease: None,
    }
}

pub(crate) use slipway_proto::convert::table_to_wire as wire;

/// An instance of a version, killed when dropped: its listener and every connection end at once.
pub(crate) struct Backend {
    pub(crate) address: String,
    pub(crate) served: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<()>,
}

impl Backend {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_with(name, None).await
    }

    /// `keep_alive` = how long it keeps an idle connection.
    pub(crate) async fn start_with(name: &'static str, keep_alive: Option<Duration>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = Arc::new(AtomicU64::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        let count = Arc::clone(&served);
        tasks.spawn(async move {
            // Its connections die with it.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let count = Arc::clone(&count);
                connections.spawn(connection(stream, name, keep_alive, count));
            }
        });
        Self {
            address,
            served,
            tasks,
        }
    }

    /// As SIGKILL does it: nothing is finished.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn connection(
    stream: TcpStream,
    name: &'static str,
    keep_alive: Option<Duration>,
    count: Arc<AtomicU64>,
) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let count = Arc::clone(&count);
        async move {
            let (parts, body) = request.into_parts();
            let body = body
                .collect()
                .await
                .map(|all| all.to_bytes())
                .unwrap_or_default();
            let (mut status, delay) = asked(&parts);
            if name == "bad" {
                status = 500;
            }
            tokio::time::sleep(delay).await;
            count.fetch_add(1, Ordering::SeqCst);
            let text = format!("{name} {} {}", parts.method, body.len());
            let mut response = Response::new(Full::new(Bytes::from(text)));
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            for (key, value) in &parts.headers {
                if key.as_str().starts_with("x-") || key == "connection" || key == "cookie" {
                    response.headers_mut().insert(
                        http::HeaderName::from_bytes(format!("echo-{key}").as_bytes()).unwrap(),
                        value.clone(),
                    );
                }
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    if let Some(limit) = keep_alive {
        builder
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(limit);
    }
    let _ended = builder
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The client says how the instance answers.
fn asked(parts: &http::request::Parts) -> (u16, Duration) {
    let number = |name: &str| -> u64 {
        let value = parts.headers.get(name).and_then(|v| v.to_str().ok());
        value.and_then(|v| v.parse().ok()).unwrap_or(0)
    };
    let status = u16::try_from(number("x-status")).unwrap_or(0);
    (
        if status == 0 { 200 } else { status },
        Duration::from_millis(number("x-delay-ms")),
    )
}

/// One request on a connection of its own.
pub(crate) async fn request(
    address: &str,
    method: Method,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response<Bytes> {
    let mut client = Client::connect(address).await;
    client.send(method, headers, body).await.expect("an answer")
}

/// A client's connection.
pub(crate) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        slipway_daemon::spawn("client", async move {
            let _ended = connection.await;
        });
        Self { sender }
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response<Bytes>, hyper::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri("/path?q=1")
            .header("host", "shop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(body)))
            .unwrap();
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}

/// Clients that ask without a pause until told to stop.
pub(crate) struct Load {
    pub(crate) good: Arc<AtomicU64>,
    pub(crate) bad: Arc<std::sync::Mutex<Vec<String>>>,
    stop: Shutdown,
}

impl Load {
    pub(crate) fn start(address: &str, clients: usize, method: &Method) -> Self {
        let load = Self {
            good: Arc::default(),
            bad: Arc::default(),
            stop: Shutdown::new(),
        };
        for _ in 0..clients {
            let (address, method) = (address.to_owned(), method.clone());
            let (good, bad, stop) = (
                Arc::clone(&load.good),
                Arc::clone(&load.bad),
                load.stop.clone(),
            );
            load.stop.spawn("load", async move {
                let mut client = Client::connect(&address).await;
                while !stop.has_begun() {
                    match client.send(method.clone(), &[], b"0123456789").await {
                        Ok(answer) if answer.status() == 200 => {
                            good.fetch_add(1, Ordering::SeqCst);
                            // As every client does that is told so.
                            if answer.headers().contains_key("connection") {
                                client = Client::connect(&address).await;
                            }
                        }
                        Ok(answer) => bad.lock().unwrap().push(format!("{answer:?}")),
                        Err(error) => {
                            bad.lock().unwrap().push(error.to_string());
                            client = Client::connect(&address).await;
                        }
                    }
                }
            });
        }
        load
    }

    /// Waits until so many more requests were answered.
    pub(crate) async fn more(&self, count: u64) {
        let from = self.good.load(Ordering::SeqCst);
        let enough = async {
            while self.good.load(Ordering::SeqCst) < from + count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), enough)
            .await
            .expect("traffic flows");
    }

    /// Stops, and answers what failed.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.stop.begin();
        assert!(self.stop.drained(Duration::from_secs(10)).await);
        std::mem::take(&mut self.bad.lock().unwrap())
    }
}
