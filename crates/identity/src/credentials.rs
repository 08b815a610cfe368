//! A process's key, its certificate and its authority: in memory, and in a file (0600).
//!
//! The file is PEM, so that `openssl x509 -in identity.pem -text` shows what it holds.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use pem::Pem;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use slipway_core::time::Timestamp;

use crate::IdentityError;
use crate::authority::fingerprint;
use crate::certificate::Peer;

/// Largest file that is read; an honest one has some 2 KiB.
const FILE_MAX: usize = 64 * 1024;

/// Key, certificate and authority of one process. Shows no key.
#[derive(Clone)]
pub struct Credentials {
    key: Vec<u8>,
    certificate: Vec<u8>,
    authority: Vec<u8>,
    peer: Peer,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.peer.name).finish()
    }
}

impl Credentials {
    /// Puts them together.
    ///
    /// # Errors
    /// When the certificate is not of this key, or names nobody.
    pub fn new(
        key: Vec<u8>,
        certificate: Vec<u8>,
        authority: Vec<u8>,
    ) -> Result<Self, IdentityError> {
        let peer = Peer::read(&certificate)?;
        let chain = vec![
            CertificateDer::from(certificate.clone()),
            // Sent along, so that a first contact can compare its fingerprint.
            CertificateDer::from(authority.clone()),
        ];
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
        let provider = rustls::crypto::ring::default_provider();
        // It refuses a key that is not the certificate's.
        let certified = CertifiedKey::from_der(chain, private, &provider)?;
        Ok(Self {
            key,
            certificate,
            authority,
            peer,
            certified: Arc::new(certified),
        })
    }

    /// Who it is.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The authority, DER.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// The authority's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.authority)
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// When they should be renewed: at half of their life.
    #[must_use]
    pub fn renewal(&self) -> Timestamp {
        let life = self.peer.expires.since(self.peer.begins);
        self.peer.begins.after(life / 2)
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or holds something else.
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let failed = |source| IdentityError::File {
            path: path.display().to_string(),
            source,
        };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let unusable = |why: String| {
            let why = format!("{why}; move {} away and join again", path.display());
            IdentityError::unusable("the identity's file", why)
        };
        if bytes.len() > FILE_MAX {
            return Err(unusable(format!("it has more than {FILE_MAX} bytes")));
        }
        let blocks = pem::parse_many(&bytes).map_err(|e| unusable(e.to_string()))?;
        let of = |tag: &str| {
            let mut found = blocks.iter().filter(|block| block.tag() == tag);
            [found.next(), found.next()].map(|b| b.map(|b| b.contents().to_vec()))
        };
        let ([Some(key), None], [Some(certificate), Some(authority)]) =
            (of("PRIVATE KEY"), of("CERTIFICATE"))
        else {
            return Err(unusable(
                "it does not hold one key and two certificates".to_owned(),
            ));
        };
        Self::new(key, certificate, authority).map(Some)
    }

    /// Writes the file whole or not at all: beside, synced, renamed.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let blocks = [
            Pem::new("PRIVATE KEY", self.key.clone()),
            Pem::new("CERTIFICATE", self.certificate.clone()),
            Pem::new("CERTIFICATE", self.authority.clone()),
        ];
        let text = pem::encode_many(&blocks);
        let write = || {
            let beside = path.with_extension("new");
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, path)?;
            match path.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Ok(()),
                Some(parent) => std::fs::File::open(parent)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(|source| IdentityError::File {
            path: path.display().to_string(),
            source,
        })
    }
}
