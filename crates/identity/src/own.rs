//! The identity that this process has now. A renewed one replaces it: connections made from then on
//! use it, those that are open go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use tonic::transport::Channel;

use crate::connect::{self, Target};
use crate::credentials::Credentials;
use crate::{IdentityError, verify};

/// HTTP/2, which gRPC is.
const H2: &[u8] = b"h2";
/// Longest sleep of the renewal: a suspended machine wakes up with an old certificate.
const LOOK: Duration = Duration::from_secs(60);
/// Between two tries to renew: uniform in 0 … this.
const RETRY: Duration = Duration::from_secs(60);

/// The present identity. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Own(Arc<ArcSwap<Credentials>>);

impl Own {
    /// Starts with these.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(credentials)))
    }

    /// What it is now.
    #[must_use]
    pub fn now(&self) -> Arc<Credentials> {
        self.0.load_full()
    }

    /// From now on these.
    pub fn replace(&self, credentials: Credentials) {
        self.0.store(Arc::new(credentials));
    }

    /// The id in its name.
    #[must_use]
    pub fn id(&self) -> String {
        self.now().peer().name.id.clone()
    }

    /// The calling end: shows this identity, and talks to nobody but a process of `role`.
    ///
    /// # Errors
    /// When the authority cannot be used, or the address is none.
    pub fn channel(&self, address: &str, role: PeerRole) -> anyhow::Result<Channel> {
        let builder = ClientConfig::builder_with_provider(verify::provider())
            .with_protocol_versions(&[&TLS13])?;
        let mut config = builder
            .with_root_certificates(verify::roots(self.now().authority())?)
            .with_client_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![H2.to_vec()];
        connect::channel(address, Target::new(config, role)?)
    }

    /// The answering end: callers may show a certificate.
    ///
    /// # Errors
    /// When the authority cannot be used.
    pub fn server(&self) -> Result<ServerConfig, IdentityError> {
        let callers = verify::Callers::of(self.now().authority())?;
        let builder = ServerConfig::builder_with_provider(verify::provider())
            .with_protocol_versions(&[&TLS13])?;
        let mut config = builder
            .with_client_cert_verifier(Arc::new(callers))
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![H2.to_vec()];
        // A ticket would keep a caller's certificate beyond its end.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Renews at half life, until shutdown; `renew` gets the new ones. They are kept in `file` when
    /// there is one.
    pub async fn keep_renewed<F, Fut>(
        self,
        file: Option<PathBuf>,
        clock: Clock,
        rng: Rng,
        shutdown: Shutdown,
        renew: F,
    ) where
        F: Fn() -> Fut,
        Fut: Future<Output = anyhow::Result<Credentials>>,
    {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let left = self.now().renewal().since(clock.now());
            if left > Duration::ZERO {
                wait = left.min(LOOK);
                continue;
            }
            match renew().await {
                Ok(fresh) => {
                    tracing::info!(name = %fresh.peer().name, "a fresh certificate");
                    self.take(fresh, file.as_deref());
                    wait = Duration::ZERO;
                }
                Err(error) => {
                    tracing::info!(error = format!("{error:#}"), "cannot renew yet");
                    // Never a busy loop, also where the jitter is nothing.
                    wait = Duration::from_secs(1) + rng.jitter(RETRY);
                }
            }
        }
    }

    fn take(&self, fresh: Credentials, file: Option<&Path>) {
        if let Some(path) = file
            && let Err(error) = fresh.save(path)
        {
            // The old ones are still good for half of their life, and so are these in memory.
            tracing::error!("the fresh certificate is not kept: {error}");
        }
        self.replace(fresh);
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.now().certified()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.now().certified()))
    }
}
