//! gRPC channels over TLS. Where a process listens says nothing about who it is: the name that is
//! checked is that of its role.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use slipway_core::access::PeerRole;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{IdentityError, verify};

/// Connection and handshake together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A half-open connection is noticed within half a minute.
const PING: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(20);
/// The port when an address names none.
const PORT: u16 = 7702;

/// Whom a channel talks to.
pub(crate) struct Target {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Target {
    pub(crate) fn new(config: ClientConfig, role: PeerRole) -> Result<Self, IdentityError> {
        let unusable = |why: &str| IdentityError::unusable("the role", why);
        let name = role
            .server_name()
            .ok_or_else(|| unusable("nobody calls it"))?;
        Ok(Self {
            config: Arc::new(config),
            name: ServerName::try_from(name).map_err(|_| unusable("it has no name"))?,
        })
    }
}

/// A channel of somebody who has no certificate: a person's program, or a process about to join. The
/// server's authority is the one with this fingerprint (SHA-256, hex).
///
/// # Errors
/// When the address is none.
pub fn pinned(address: &str, role: PeerRole, fingerprint: &str) -> anyhow::Result<Channel> {
    let verifier = verify::Pinned {
        fingerprint: fingerprint.to_ascii_lowercase(),
        provider: verify::provider(),
    };
    let mut config = ClientConfig::builder_with_provider(verify::provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    channel(address, Target::new(config, role)?)
}

pub(crate) fn channel(address: &str, target: Target) -> anyhow::Result<Channel> {
    let authority = address.strip_prefix("https://").with_context(|| {
        format!("`{address}` must begin with https://: processes talk to each other over TLS")
    })?;
    // The connector below is what makes it TLS.
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .with_context(|| format!("`{address}` is no address"))?
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true);
    let target = Arc::new(target);
    let connector = tower::service_fn(move |uri: Uri| {
        let target = Arc::clone(&target);
        async move {
            let connecting = tokio::time::timeout(CONNECT_LIMIT, connect(&uri, &target));
            match connecting.await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
            }
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

async fn connect(
    uri: &Uri,
    target: &Target,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(PORT))).await?;
    // Small messages leave at once.
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::clone(&target.config))
        .connect(target.name.clone(), stream)
        .await
}
