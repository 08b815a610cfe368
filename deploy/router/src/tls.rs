//! TLS towards clients: which certificate a listener shows, and that a renewed one is shown without a restart.
//!
//! Does not decide who is served, and does not ask clients for certificates. Listeners that the settings name no
//! certificate for speak plain HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use slipway_daemon::Shutdown;
use slipway_daemon::health::Health;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Between two looks whether files have changed.
const LOOK: Duration = Duration::from_secs(10);
/// What is offered to clients, best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate of one listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The listener's address, as traffic tables name it.
    pub listen: String,
    /// The certificate and what leads to its authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// One of the files.
    #[error("[[tls]] for {listen}: {}: {why}", file.display())]
    File {
        /// Whose.
        listen: String,
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

struct Shown {
    /// DNS names of the certificate, lower case.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

/// The certificates of one listener.
pub(crate) struct Certificates {
    files: Vec<TlsConfig>,
    shown: ArcSwap<Vec<Shown>>,
    /// When the files were written that are shown.
    written: Mutex<Vec<Option<SystemTime>>>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Certificates").field(&self.files).finish()
    }
}

impl Certificates {
    fn load(files: Vec<TlsConfig>) -> Result<Self, TlsError> {
        let written = written(&files);
        let shown = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            files,
            shown: ArcSwap::from_pointee(shown),
            written: Mutex::new(written),
        })
    }

    /// Shows what the files hold now, if they changed; whether they did. What cannot be used changes nothing.
    fn renew(&self) -> Result<bool, TlsError> {
        let now = written(&self.files);
        let mut known = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return Ok(false);
        }
        let shown = self.files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        self.shown.store(Arc::new(shown));
        *known = now;
        Ok(true)
    }

    /// By the exact name, by a wildcard for its first label, or the first.
    fn of_name(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.load();
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let wild = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let named = |wanted: &str| {
            let has = |one: &&Shown| one.names.iter().any(|name| name == wanted);
            shown.iter().find(has)
        };
        let found = named(&name).or_else(|| named(wild.as_deref()?));
        found
            .or_else(|| shown.first())
            .map(|one| Arc::clone(&one.key))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of_name(hello.server_name())
    }
}

fn written(files: &[TlsConfig]) -> Vec<Option<SystemTime>> {
    let when = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).ok();
    files
        .iter()
        .flat_map(|one| [when(&one.certificate), when(&one.key)])
        .collect()
}

fn read(files: &TlsConfig) -> Result<Shown, TlsError> {
    let wrong = |file: &Path, why: String| TlsError::File {
        listen: files.listen.clone(),
        file: file.to_owned(),
        why,
    };
    let (file, provider) = (&files.certificate, provider());
    let chain = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let chain: Vec<CertificateDer<'static>> =
        chain.map_err(|e| wrong(file, format!("no certificate can be read from it: {e}")))?;
    let first = chain.first();
    let first = first.ok_or_else(|| wrong(file, "there is no certificate in it".to_owned()))?;
    let names = names(first).map_err(|e| wrong(file, e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| {
        wrong(
            &files.key,
            format!("no private key can be read from it: {e}"),
        )
    })?;
    let key = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|e| wrong(&files.key, format!("it is not the certificate's key: {e}")))?;
    Ok(Shown {
        names,
        key: Arc::new(key),
    })
}

fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| e.to_string())?;
    let names = parsed.subject_alternative_name();
    let names = names.map_err(|e| e.to_string())?;
    let names = names.map(|names| names.value.general_names.clone());
    let names = names.unwrap_or_default().into_iter();
    Ok(names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What listeners show, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    listeners: Arc<BTreeMap<String, Arc<Certificates>>>,
}

impl Tls {
    /// Reads every file.
    ///
    /// # Errors
    /// When one of them cannot be used: a listener that should speak TLS never speaks anything else.
    pub(crate) fn load(settings: &[TlsConfig]) -> Result<Self, TlsError> {
        let mut files: BTreeMap<String, Vec<TlsConfig>> = BTreeMap::new();
        for one in settings {
            files
                .entry(plain(&one.listen))
                .or_default()
                .push(one.clone());
        }
        let mut listeners = BTreeMap::new();
        for (listen, files) in files {
            listeners.insert(listen, Arc::new(Certificates::load(files)?));
        }
        Ok(Self {
            listeners: Arc::new(listeners),
        })
    }

    /// For a listener; `None` = it speaks plain HTTP.
    pub(crate) fn acceptor(&self, listen: &str) -> Option<TlsAcceptor> {
        let certificates = self.listeners.get(&plain(listen))?;
        let builder = rustls::ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().ok()?;
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Certificates>::clone(certificates);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Some(TlsAcceptor::from(Arc::new(config)))
    }

    /// Shows renewed files, until shutdown.
    pub(crate) async fn renew(self, health: Health, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            for (listen, certificates) in self.listeners.iter() {
                match certificates.renew() {
                    Ok(true) => {
                        tracing::info!(listen, "shows its renewed certificates");
                        health.recovered("tls");
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the certificates from before are still shown");
                        health.degraded("tls", error.to_string());
                    }
                }
            }
        }
    }
}

/// An address in one spelling.
fn plain(listen: &str) -> String {
    let parsed: Result<SocketAddr, _> = listen.parse();
    parsed.map_or_else(|_| listen.to_owned(), |address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate for these names, as files.
    fn files(dir: &Path, name: &str, names: &[&str]) -> TlsConfig {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (certificate, key) = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        TlsConfig {
            listen: "127.0.0.1:443".to_owned(),
            certificate,
            key,
        }
    }

    fn shown(certificates: &Certificates, name: Option<&str>) -> Vec<u8> {
        certificates.of_name(name).unwrap().cert[0].to_vec()
    }

    #[test]
    fn a_name_gets_its_certificate_another_of_its_domain_the_wildcard_and_a_stranger_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let all = vec![
            files(dir.path(), "a", &["shop.example"]),
            files(dir.path(), "b", &["*.Shop.example", "other.example"]),
        ];
        let of = |n: usize| read(&all[n]).unwrap().key.cert[0].to_vec();
        let (first, second) = (of(0), of(1));
        let certificates = Certificates::load(all).unwrap();
        assert_eq!(shown(&certificates, Some("SHOP.example")), first);
        assert_eq!(shown(&certificates, Some("eu.shop.example")), second);
        assert_eq!(shown(&certificates, Some("other.example")), second);
        for stranger in [None, Some("a.b.shop.example"), Some("x"), Some("")] {
            assert_eq!(shown(&certificates, stranger), first);
        }
    }

    #[test]
    fn a_renewed_certificate_is_shown_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let one = files(dir.path(), "a", &["shop.example"]);
        let certificates = Certificates::load(vec![one.clone()]).unwrap();
        let before = shown(&certificates, None);
        assert!(!certificates.renew().unwrap(), "nothing was written");
        // As a tool does that renews: the certificate first, its key a moment later.
        let written = one.key.metadata().unwrap().modified().unwrap();
        let later = written + Duration::from_secs(5);
        let key = std::fs::read(&one.key).unwrap();
        files(dir.path(), "a", &["shop.example"]);
        let new_key = std::fs::read(&one.key).unwrap();
        std::fs::write(&one.key, key).unwrap();
        let file = std::fs::File::options().write(true).open(&one.key).unwrap();
        file.set_modified(later).unwrap();
        let error = certificates.renew().unwrap_err().to_string();
        assert!(error.contains("not the certificate's key"), "{error}");
        assert_eq!(shown(&certificates, None), before);
        std::fs::write(&one.key, new_key).unwrap();
        assert!(certificates.renew().unwrap());
        assert_ne!(shown(&certificates, None), before);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let good = files(dir.path(), "a", &["shop.example"]);
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let missing = dir.path().join("missing");
        for (certificate, key, wrong) in [
            (&empty, &good.key, &empty),
            (&missing, &good.key, &missing),
            (&good.certificate, &missing, &missing),
            (&good.certificate, &good.certificate, &good.certificate),
        ] {
            let bad = TlsConfig {
                certificate: certificate.clone(),
                key: key.clone(),
                ..good.clone()
            };
            let error = Tls::load(&[good.clone(), bad]).unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:443"), "{error}");
            assert!(error.contains(&wrong.display().to_string()), "{error}");
        }
    }
}
