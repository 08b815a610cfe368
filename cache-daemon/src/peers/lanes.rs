//! How daemons reach each other: one QUIC connection per pair, or a TCP connection per request where
//! no handshake comes through in time.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TransportConfig};
use slipway_identity::{Own, peers};
use slipway_proto::v1::CacheDaemon;

use super::Stream;

/// Both directions of the UDP socket: what arrives during a hash must fit. Less costs throughput.
const SOCKET: usize = 4 << 20;
/// Streams of one connection.
const STREAMS: u32 = 64;
/// A connection on which nothing moves is closed after this; a cut of five seconds is survived.
const IDLE: Duration = Duration::from_secs(30);
/// How often a silent connection says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a handshake may take before TCP is tried as well …
const RACE: Duration = Duration::from_millis(100);
/// … and how long both may take.
const DIAL: Duration = Duration::from_secs(1);
/// Connections that are kept; beyond, all are closed and opened again when needed.
const KEPT: usize = 256;

/// The socket of this daemon, for answering and for calling.
///
/// # Errors
/// When the address or the identity cannot be used.
pub fn endpoint(own: &Own, listen: SocketAddr) -> anyhow::Result<Endpoint> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot use {listen}"))?;
    // The kernel's limit holds unless this process may pass it; then it is only slower.
    let _slower = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET)
        .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET));
    let _slower = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET);
    let crypto = QuicServerConfig::try_from(own.peers_server()?)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(transport());
    let runtime = quinn::default_runtime().context("no runtime")?;
    let config = EndpointConfig::default();
    Ok(Endpoint::new(config, Some(server), socket, runtime)?)
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(STREAMS.into());
    transport.max_concurrent_uni_streams(0_u32.into());
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_idle_timeout(IDLE.try_into().ok());
    transport.datagram_receive_buffer_size(None);
    Arc::new(transport)
}

/// A connection to whichever cache daemon answers there.
///
/// # Errors
/// When none of ours does.
pub async fn connect(
    endpoint: &Endpoint,
    own: &Own,
    address: SocketAddr,
) -> anyhow::Result<Connection> {
    let crypto = QuicClientConfig::try_from(own.peers_client()?)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport());
    let name = peers::server_name()?;
    Ok(endpoint.connect_with(config, address, name)?.await?)
}

/// The ways to others.
pub(super) struct Lanes {
    endpoint: Endpoint,
    own: Own,
    kept: Mutex<BTreeMap<String, Connection>>,
}

impl Lanes {
    pub(super) fn new(endpoint: Endpoint, own: Own) -> Self {
        Self {
            endpoint,
            own,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Connection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh stream to exactly this daemon.
    pub(super) async fn open(&self, daemon: &CacheDaemon) -> anyhow::Result<Box<dyn Stream>> {
        let dialing = tokio::time::timeout(DIAL, self.race(daemon));
        dialing.await.context("it does not answer")?
    }

    async fn race(&self, daemon: &CacheDaemon) -> anyhow::Result<Box<dyn Stream>> {
        let quic = self.over_quic(daemon);
        let tcp = async {
            tokio::time::sleep(RACE).await;
            self.over_tcp(daemon).await
        };
        tokio::pin!(quic, tcp);
        tokio::select! {
            opened = &mut quic => match opened {
                Ok(stream) => Ok(stream),
                Err(_) => tcp.await,
            },
            opened = &mut tcp => match opened {
                Ok(stream) => Ok(stream),
                Err(_) => quic.await,
            },
        }
    }

    async fn over_quic(&self, daemon: &CacheDaemon) -> anyhow::Result<Box<dyn Stream>> {
        let known = self.kept().get(&daemon.id).cloned();
        let connection = match known.filter(|c| c.close_reason().is_none()) {
            Some(connection) => connection,
            None => self.connect(daemon).await?,
        };
        let (send, receive) = connection.open_bi().await?;
        Ok(Box::new(tokio::io::join(receive, send)))
    }

    async fn connect(&self, daemon: &CacheDaemon) -> anyhow::Result<Connection> {
        let address = address(daemon).await?;
        let connection = connect(&self.endpoint, &self.own, address).await?;
        let shown = peers::behind(connection.peer_identity());
        anyhow::ensure!(
            shown.is_some_and(|peer| peer.name.id == daemon.id),
            "another daemon answers there"
        );
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(daemon.id.clone(), connection.clone());
        Ok(connection)
    }

    async fn over_tcp(&self, daemon: &CacheDaemon) -> anyhow::Result<Box<dyn Stream>> {
        let address = address(daemon).await?;
        let (peer, stream) = self.own.call_over_tcp(address).await?;
        anyhow::ensure!(peer.name.id == daemon.id, "another daemon answers there");
        Ok(Box::new(stream))
    }
}

async fn address(daemon: &CacheDaemon) -> anyhow::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(&daemon.address).await?;
    found.next().context("its name has no address")
}
