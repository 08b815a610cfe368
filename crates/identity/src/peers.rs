//! Streams between cache daemons: the same certificates as everywhere, over QUIC or over TCP, with both
//! ends showing theirs before a byte of a request is read.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use slipway_core::access::PeerRole;
use slipway_core::time::Timestamp;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::certificate::Peer;
use crate::{IdentityError, Own, verify};

/// The protocol's name in the handshake.
const ALPN: &[u8] = b"slipway-cache/1";

/// AES-128 first: the quickest where the processor helps, and it does on every server.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// The name by which a cache daemon is checked.
///
/// # Errors
/// Never, as long as the role has a name.
pub fn server_name() -> Result<&'static str, IdentityError> {
    let name = PeerRole::Cache.server_name();
    name.ok_or_else(|| IdentityError::unusable("the role", "nobody calls it"))
}

impl Own {
    /// The answering end between cache daemons.
    ///
    /// # Errors
    /// When the authority cannot be used.
    pub fn peers_server(&self) -> Result<ServerConfig, IdentityError> {
        let roots = verify::roots(self.now().authority())?;
        let callers = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| IdentityError::unusable("the authority", e))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(callers)
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No ticket, no early data: every connection shows a certificate of its moment.
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// The calling end between cache daemons.
    ///
    /// # Errors
    /// When the authority cannot be used.
    pub fn peers_client(&self) -> Result<ClientConfig, IdentityError> {
        let roots = verify::roots(self.now().authority())?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// Calls a cache daemon over TCP. Answers who it is.
    ///
    /// # Errors
    /// When it is not there, or is nobody of ours.
    pub async fn call_over_tcp(
        &self,
        address: SocketAddr,
    ) -> anyhow::Result<(Peer, tokio_rustls::client::TlsStream<TcpStream>)> {
        let config = Arc::new(self.peers_client()?);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(server_name()?)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let peer = first(shown).ok_or_else(|| anyhow::anyhow!("it shows no certificate"))?;
        Ok((peer, stream))
    }

    /// Answers a cache daemon that called over TCP.
    ///
    /// # Errors
    /// When it is nobody of ours.
    pub async fn answer_over_tcp(
        &self,
        stream: TcpStream,
    ) -> anyhow::Result<(Peer, tokio_rustls::server::TlsStream<TcpStream>)> {
        stream.set_nodelay(true)?;
        let config = Arc::new(self.peers_server()?);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let peer = first(shown).ok_or_else(|| anyhow::anyhow!("it shows no certificate"))?;
        Ok((peer, stream))
    }
}

fn first(shown: Option<&[CertificateDer<'static>]>) -> Option<Peer> {
    Peer::read(shown?.first()?).ok()
}

/// Who stands behind a QUIC connection, as its library hands it over.
#[must_use]
pub fn behind(identity: Option<Box<dyn Any>>) -> Option<Peer> {
    let shown = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    first(Some(shown.as_slice()))
}

/// Whether it is a cache daemon, now.
#[must_use]
pub fn is_cache(peer: &Peer, now: Timestamp) -> bool {
    peer.role() == PeerRole::Cache && peer.expires > now
}
