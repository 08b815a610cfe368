//! Other cache daemons: answering what they may read, and fetching from them what is missing here.
//!
//! Owns the streams (QUIC, or TCP with TLS where UDP does not pass) and what is said on them. Does not
//! own who holds what: the dispatcher says so with every assignment. Nobody can push content; a daemon
//! that answers nothing useful costs seconds, never a build.

mod fetch;
mod lanes;
mod server;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use slipway_daemon::{Clock, Shutdown};
use slipway_identity::Own;
use slipway_proto::v1;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub use fetch::Peers;
pub use lanes::{connect, endpoint};

use crate::Store;

/// Bytes of one message: a request with its capability.
const MESSAGE_MAX: u32 = 64 * 1024;

/// The peers, once this daemon knows who it is.
pub(crate) type Known = Arc<OnceLock<Arc<Peers>>>;

/// A stream to or from another daemon.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Begins to answer at `listen`, and to fetch. Others are told `advertise`.
///
/// # Errors
/// When the address cannot be used, by UDP and by TCP.
pub async fn start(
    store: &Arc<Store>,
    own: Own,
    clock: &Clock,
    listen: SocketAddr,
    advertise: &str,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<Peers>> {
    let endpoint = lanes::endpoint(&own, listen)?;
    let at = endpoint.local_addr()?;
    let tcp = tokio::net::TcpListener::bind(at).await?;
    let address = match advertise {
        "" => at.to_string(),
        told => told.to_owned(),
    };
    tracing::info!(%at, address, id = own.id(), "cache answers other daemons");
    let server = server::Server::new(Arc::clone(store), own.clone(), clock.clone());
    let server = Arc::new(server);
    let quic = Arc::clone(&server).answer_quic(endpoint.clone(), shutdown.clone());
    shutdown.spawn("peers over QUIC", quic);
    shutdown.spawn("peers over TCP", server.answer_tcp(tcp, shutdown.clone()));
    let lanes = lanes::Lanes::new(endpoint, own.clone());
    let me = v1::CacheDaemon {
        id: own.id(),
        address,
    };
    store.pack_outputs();
    Ok(Arc::new(Peers::new(
        Arc::clone(store),
        lanes,
        clock.clone(),
        me,
    )))
}

async fn say<M: prost::Message>(
    stream: &mut (impl AsyncWrite + Unpin),
    m: &M,
) -> std::io::Result<()> {
    let bytes = m.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let framed = [length.to_le_bytes().as_slice(), &bytes].concat();
    stream.write_all(&framed).await
}

async fn hear<M: prost::Message + Default>(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<M> {
    let length = stream.read_u32_le().await?;
    if length > MESSAGE_MAX {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    M::decode(bytes.as_slice()).map_err(std::io::Error::other)
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
