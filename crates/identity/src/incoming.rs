//! Accepting gRPC connections over TLS, and closing those of a peer that was revoked.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use slipway_core::access::PeerRole;
use slipway_daemon::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::certificate::Peer;

/// How long a caller may take for its handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at once; each costs a signature. Further callers wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Accepted connections that wait for the server.
const ACCEPTED: usize = 64;
/// After a failed accept (no descriptors left): some come back meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every call of a connection is told about it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Whose certificate it showed, if any.
    pub peer: Option<Peer>,
}

#[derive(Default)]
struct Open {
    next: u64,
    by_number: BTreeMap<u64, (Peer, CancellationToken)>,
}

/// The open connections of peers. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Open>>);

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Open) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self, peer: &Peer) -> (u64, CancellationToken) {
        self.with(|open| {
            open.next += 1;
            let token = CancellationToken::new();
            let entry = (peer.clone(), token.clone());
            open.by_number.insert(open.next, entry);
            (open.next, token)
        })
    }

    /// Whoever is connected now, each connection once.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.with(|open| open.by_number.values().map(|(p, _)| p.clone()).collect())
    }

    /// Closes every connection whose peer is meant; answers with how many.
    pub fn close(&self, meant: impl Fn(&Peer) -> bool) -> usize {
        self.with(|open| {
            let found = open.by_number.values().filter(|(peer, _)| meant(peer));
            found.map(|(_, token)| token.cancel()).count()
        })
    }

    /// Closes every connection of one process.
    pub fn close_peer(&self, role: PeerRole, id: &str) -> usize {
        self.close(|peer| peer.name.role == role && peer.name.id == id)
    }
}

/// One connection. It ends when its peer is revoked.
pub struct TlsIo {
    inner: TlsStream<TcpStream>,
    connection: Connection,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    number: Option<u64>,
    all: Connections,
}

impl TlsIo {
    fn is_closed(&mut self, context: &mut Context<'_>) -> bool {
        self.number.is_some() && self.closed.as_mut().poll(context).is_ready()
    }
}

impl Drop for TlsIo {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.all.with(|open| open.by_number.remove(&number));
        }
    }
}

impl Connected for TlsIo {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

fn revoked() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the peer was revoked")
}

impl AsyncRead for TlsIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_closed(context) {
            return Poll::Ready(Err(revoked()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_closed(context) {
            return Poll::Ready(Err(revoked()));
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Connections whose handshake is done, for `serve_with_incoming`.
pub struct Incoming(mpsc::Receiver<io::Result<TlsIo>>);

impl Stream for Incoming {
    type Item = io::Result<TlsIo>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

impl Incoming {
    /// Accepts on a listener until shutdown.
    #[must_use]
    pub fn start(
        listener: TcpListener,
        config: ServerConfig,
        connections: Connections,
        shutdown: &Shutdown,
    ) -> Self {
        let (accepted, receiver) = mpsc::channel(ACCEPTED);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let stop = shutdown.clone();
        shutdown.spawn("accept", async move {
            loop {
                let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                    return;
                };
                let incoming = tokio::select! {
                    () = stop.cancelled() => return,
                    incoming = listener.accept() => incoming,
                };
                let (stream, address) = match incoming {
                    Ok(incoming) => incoming,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
                let connections = connections.clone();
                slipway_daemon::spawn("handshake", async move {
                    let shaking = shake(&acceptor, stream, address, connections);
                    match tokio::time::timeout(HANDSHAKE_LIMIT, shaking).await {
                        Ok(Ok(io)) => {
                            let _stopping = accepted.send(Ok(io)).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, %address, "no handshake"),
                        Err(_) => tracing::debug!(%address, "the handshake takes too long"),
                    }
                    drop(permit);
                });
            }
        });
        Self(receiver)
    }
}

async fn shake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    all: Connections,
) -> io::Result<TlsIo> {
    // Small messages leave at once: else an assignment waits for the peer's delayed ACK.
    stream.set_nodelay(true)?;
    let inner = acceptor.accept(stream).await?;
    let shown = inner.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // Signed by the authority, and yet naming nobody: not one of ours to talk to.
    let peer = shown
        .map(|der| Peer::read(der))
        .transpose()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let (number, token) = match &peer {
        Some(peer) => {
            let (number, token) = all.enter(peer);
            (Some(number), token)
        }
        None => (None, CancellationToken::new()),
    };
    Ok(TlsIo {
        inner,
        connection: Connection { address, peer },
        closed: Box::pin(token.cancelled_owned()),
        number,
        all,
    })
}
