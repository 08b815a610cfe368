//! Listeners of services: one per address, opened when a table names it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use slipway_daemon::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::client::Peer;
use super::forward::Proxy;
use crate::services::Listeners;

/// The largest request head, and the most headers in it.
const HEAD_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// Listeners on TCP addresses.
pub(crate) struct TcpListeners {
    open: BTreeMap<String, Shutdown>,
    proxy: Proxy,
    permits: Arc<Semaphore>,
    /// Connections of closed listeners end with it too.
    shutdown: Shutdown,
}

impl TcpListeners {
    pub(crate) fn new(proxy: Proxy, shutdown: Shutdown) -> Self {
        let permits = Arc::new(Semaphore::new(proxy.limits.connections));
        Self {
            open: BTreeMap::new(),
            proxy,
            permits,
            shutdown,
        }
    }
}

impl Listeners for TcpListeners {
    fn ensure(&mut self, address: &str) -> io::Result<()> {
        if self.open.contains_key(address) {
            return Ok(());
        }
        let listener = bind(address)?;
        let stop = self.shutdown.child();
        let accepting = Accepting {
            listener,
            listen: address.into(),
            proxy: self.proxy.clone(),
            permits: Arc::clone(&self.permits),
            stop: stop.clone(),
            connections: self.shutdown.clone(),
        };
        self.shutdown.spawn("traffic listener", accepting.run());
        self.open.insert(address.to_owned(), stop);
        Ok(())
    }

    fn keep_only(&mut self, wanted: &[String]) {
        self.open.retain(|address, stop| {
            let keep = wanted.contains(address);
            if !keep {
                stop.begin();
            }
            keep
        });
    }
}

fn bind(address: &str) -> io::Result<TcpListener> {
    let mut addresses = address.to_socket_addrs()?;
    let first = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if first.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(first)?;
    socket.listen(4_096)
}

struct Accepting {
    listener: TcpListener,
    listen: Arc<str>,
    proxy: Proxy,
    permits: Arc<Semaphore>,
    stop: Shutdown,
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
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let serving = serve(
                        stream,
                        peer,
                        Arc::clone(&self.listen),
                        self.proxy.clone(),
                        self.stop.clone(),
                    );
                    self.connections.spawn("client connection", async move {
                        serving.await;
                        drop(permit);
                    });
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

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    listen: Arc<str>,
    proxy: Proxy,
    stop: Shutdown,
) {
    // Small answers matter more than full packets.
    let _best_effort = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(proxy.limits.header_timeout())
        .max_buf_size(HEAD_MAX)
        .max_header_size(HEAD_MAX)
        .max_headers(HEADERS_MAX);
    let peer = Peer::new(peer.ip());
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, listen) = (proxy.clone(), Arc::clone(&listen));
        async move { Ok::<_, Infallible>(proxy.answer(&listen, peer, request).await) }
    });
    let serving = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "client connection ended early");
    }
}
