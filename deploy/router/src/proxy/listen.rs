//! Listeners of services: one per address, opened when a table names it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use slipway_daemon::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::Body;
use super::client::Peer;
use super::forward::Proxy;
use super::headers::COUNT_MAX;
use super::logged::Pending;
use super::threads::Threads;
use crate::hand_over::Handed;
use crate::services::Listeners;
use crate::tls::Tls;

/// The largest request head.
const HEAD_MAX: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection; a browser asks for no more than a hundred.
const STREAMS_MAX: u32 = 128;
/// Between two questions whether an HTTP/2 client is still there, and for its answer.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// Between two looks whether an HTTP/2 connection is in use.
const LOOK: Duration = Duration::from_millis(500);

/// Listeners on TCP addresses.
pub(crate) struct TcpListeners {
    open: BTreeMap<String, Opened>,
    /// Sockets of the process before this one, until a table names their addresses.
    handed: Handed,
    proxy: Proxy,
    tls: Tls,
    permits: Arc<Semaphore>,
    threads: Arc<Threads>,
    /// Connections of closed listeners end with it too.
    shutdown: Shutdown,
    /// Begins when a newer process accepts.
    leaving: Shutdown,
}

struct Opened {
    stop: Shutdown,
    /// The same socket, to be handed over.
    socket: std::net::TcpListener,
}

impl TcpListeners {
    pub(crate) fn new(
        proxy: Proxy,
        tls: Tls,
        handed: Handed,
        threads: Threads,
        shutdown: Shutdown,
        leaving: Shutdown,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(proxy.limits.connections));
        Self {
            open: BTreeMap::new(),
            handed,
            proxy,
            tls,
            permits,
            threads: Arc::new(threads),
            shutdown,
            leaving,
        }
    }
}

impl Listeners for TcpListeners {
    fn ensure(&mut self, address: &str) -> io::Result<()> {
        if self.open.contains_key(address) {
            return Ok(());
        }
        let socket = match self.handed.remove(address) {
            Some(socket) => socket,
            None => bind(address)?,
        };
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.try_clone()?)?;
        let stop = self.shutdown.child();
        let accepting = Accepting {
            listener,
            listen: address.into(),
            proxy: self.proxy.clone(),
            tls: self.tls.acceptor(address),
            permits: Arc::clone(&self.permits),
            threads: Arc::clone(&self.threads),
            stop: stop.clone(),
            leaving: self.leaving.clone(),
            connections: self.shutdown.clone(),
        };
        self.shutdown.spawn("traffic listener", accepting.run());
        self.open
            .insert(address.to_owned(), Opened { stop, socket });
        Ok(())
    }

    fn keep_only(&mut self, wanted: &[String]) {
        self.open.retain(|address, opened| {
            let keep = wanted.contains(address);
            if !keep {
                opened.stop.begin();
            }
            keep
        });
        self.handed.retain(|address, _| wanted.contains(address));
    }

    fn forget(&mut self) {
        self.open.clear();
        self.handed.clear();
    }

    fn sockets(&self) -> io::Result<Vec<(String, std::net::TcpListener)>> {
        let shared = |(address, opened): (&String, &Opened)| {
            let socket = opened.socket.try_clone()?;
            Ok((address.clone(), socket))
        };
        self.open.iter().map(shared).collect()
    }
}

fn bind(address: &str) -> io::Result<std::net::TcpListener> {
    let mut addresses = address.to_socket_addrs()?;
    let first = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if first.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(first)?;
    socket.listen(4_096)?.into_std()
}

struct Accepting {
    listener: TcpListener,
    listen: Arc<str>,
    proxy: Proxy,
    tls: Option<TlsAcceptor>,
    permits: Arc<Semaphore>,
    threads: Arc<Threads>,
    stop: Shutdown,
    leaving: Shutdown,
    connections: Shutdown,
}

impl Accepting {
    async fn run(self) {
        loop {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.leaving.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = self.begin(stream, peer.ip(), permit) {
                        tracing::warn!(%error, "cannot serve a connection");
                    }
                }
                Err(error) => {
                    // Out of descriptors: yield until some are back instead of spinning.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }
}

impl Accepting {
    /// Gives a connection to a thread.
    fn begin(&self, stream: TcpStream, ip: IpAddr, permit: OwnedSemaphorePermit) -> io::Result<()> {
        let connection = Arc::new(Connection {
            listen: Arc::clone(&self.listen),
            proxy: self.proxy.clone(),
            peer: Peer::new(ip, self.tls.is_some()),
            stop: self.stop.clone(),
            leaving: self.leaving.clone(),
        });
        let stream = stream.into_std()?;
        let placed = self.threads.place(|seat| {
            let serving = serve(TcpStream::from_std(stream)?, self.tls.clone(), connection);
            self.connections.spawn("client connection", async move {
                serving.await;
                drop((permit, seat));
            });
            Ok(())
        });
        placed.unwrap_or_else(|| Err(io::Error::other("there is no thread for it")))
    }
}

/// One client's connection, in whatever it speaks. Shared by its requests: a token to stop by is not cloned
/// for each, because clones of it take turns.
struct Connection {
    listen: Arc<str>,
    proxy: Proxy,
    peer: Peer,
    stop: Shutdown,
    leaving: Shutdown,
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, connection: Arc<Connection>) {
    // Small answers matter more than full packets.
    let _best_effort = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return connection.http1(stream).await;
    };
    let limit = connection.proxy.limits.header_timeout();
    match tokio::time::timeout(limit, tls.accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            connection.http2(stream).await;
        }
        Ok(Ok(stream)) => connection.http1(stream).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let log = &self.proxy.log;
        if !log.is_open() {
            return Ok(self.proxy.answer(&self.listen, &self.peer, request).await);
        }
        let clock = &self.proxy.services.clock;
        let pending = Pending::begin(log, clock, &self.peer, &request);
        let response = self.proxy.answer(&self.listen, &self.peer, request).await;
        Ok(pending.answered(response))
    }

    /// Once a newer process accepts, clients are told with their next answer to connect anew: to close what
    /// is idle would cut a request that is on its way.
    async fn answer_and_leave(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let mut response = self.answer(request).await?;
        if self.leaving.has_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok(response)
    }

    async fn http1(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let stop = self.stop.clone();
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.proxy.limits.header_timeout())
            .max_buf_size(HEAD_MAX)
            .max_header_size(HEAD_MAX)
            .max_headers(COUNT_MAX);
        let service = service_fn(move |request| Arc::clone(&self).answer_and_leave(request));
        let serving = builder
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(serving);
        // Polled only when it was woken: to look at a token that all connections share takes turns with them.
        let mut stopping: FuturesUnordered<_> = std::iter::once(stop.cancelled()).collect();
        let result = tokio::select! {
            biased;
            result = serving.as_mut() => result,
            _stop = stopping.next() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "client connection ended early");
        }
    }

    async fn http2(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (stop, leaving) = (self.stop.clone(), self.leaving.clone());
        let idle_max = self.proxy.limits.idle_timeout();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG);
        let open = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&open);
        let service = service_fn(move |request| {
            let (connection, open) = (Arc::clone(&self), Open::of(&counted));
            async move {
                let response = connection.answer(request).await?;
                // Until the last byte, or until nobody wants it any more.
                Ok::<_, Infallible>(response.map(|body| {
                    let held = move |frame| {
                        let _open = &open;
                        frame
                    };
                    Body::streamed(body.map_frame(held))
                }))
            }
        });
        let serving = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let mut idle = Duration::ZERO;
        let mut ending = false;
        let result = loop {
            tokio::select! {
                result = serving.as_mut() => break result,
                () = stop.cancelled(), if !ending => ending = true,
                () = leaving.cancelled(), if !ending => ending = true,
                () = tokio::time::sleep(LOOK), if !ending => {
                    idle = match open.load(Ordering::Relaxed) {
                        0 => idle + LOOK,
                        _ => Duration::ZERO,
                    };
                    ending = idle >= idle_max;
                }
            }
            if ending {
                serving.as_mut().graceful_shutdown();
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "client connection ended early");
        }
    }
}

/// A request that is not over.
struct Open(Arc<AtomicU64>);

impl Open {
    fn of(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
