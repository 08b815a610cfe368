//! Sealing what the database must not hold in the clear: webhook secrets and values for stages.
//!
//! XChaCha20-Poly1305 with the installation's key; the place a value belongs to is authenticated
//! with it, so that a row moved to another id does not open.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use slipway_daemon::Rng;
use zeroize::Zeroizing;

/// First byte of a sealed value: the format.
const FORMAT: u8 = 1;
const NONCE: usize = 24;

/// What can go wrong with sealed values.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or made.
    #[error("cannot use the key file {path}")]
    KeyFile {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The key file does not hold 32 bytes.
    #[error("the key file {0} does not hold 32 bytes; restore the right one: nothing was changed")]
    WrongKeyFile(String),
    /// The value does not open: another key, another place, or damaged.
    #[error("a sealed value does not open with this installation's key")]
    DoesNotOpen,
}

/// The installation's key.
#[derive(Clone)]
pub struct Seal {
    cipher: XChaCha20Poly1305,
    rng: Rng,
}

impl Seal {
    /// Reads the key file, making it (0600) when it is not there.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open_or_create(path: &Path, rng: &Rng) -> Result<Self, SealError> {
        let shown = path.display().to_string();
        let failed = |source| SealError::KeyFile {
            path: shown.clone(),
            source,
        };
        let key = match std::fs::read(path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let fresh = Zeroizing::new(rng.bytes::<32>().to_vec());
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(failed)?;
                }
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(failed)?;
                file.write_all(&fresh)
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                fresh
            }
            Err(e) => return Err(failed(e)),
        };
        let key =
            Key::try_from(key.as_slice()).map_err(|_| SealError::WrongKeyFile(shown.clone()))?;
        Ok(Self {
            cipher: XChaCha20Poly1305::new(&key),
            rng: rng.clone(),
        })
    }

    /// Seals a value for a place (`hook/<id>`, `secret/<repo>/<name>`).
    ///
    /// # Errors
    /// When the cipher refuses (a value of more than 256 GiB).
    pub fn seal(&self, place: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = self.rng.bytes::<NONCE>();
        let payload = Payload {
            msg: value,
            aad: place.as_bytes(),
        };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| SealError::DoesNotOpen)?;
        Ok([&[FORMAT][..], &nonce, &sealed].concat())
    }

    /// Opens what was sealed for the same place.
    ///
    /// # Errors
    /// When it does not open.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, body) = match sealed.split_first() {
            Some((&FORMAT, rest)) => rest
                .split_first_chunk::<NONCE>()
                .ok_or(SealError::DoesNotOpen)?,
            _ => return Err(SealError::DoesNotOpen),
        };
        let payload = Payload {
            msg: body,
            aad: place.as_bytes(),
        };
        self.cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| SealError::DoesNotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_aad_swap() {
        let dir = tempfile::tempdir().unwrap();
        let rng = Rng::seeded(1);
        let seal = Seal::open_or_create(&dir.path().join("key"), &rng).unwrap();
        let sealed = seal.seal("secret/a/x", b"value").unwrap();
        assert_eq!(seal.open("secret/a/x", &sealed).unwrap(), b"value");
        assert!(
            seal.open("secret/b/x", &sealed).is_err(),
            "moved to another id"
        );
        let again = Seal::open_or_create(&dir.path().join("key"), &rng).unwrap();
        assert_eq!(again.open("secret/a/x", &sealed).unwrap(), b"value");
        let other = Seal::open_or_create(&dir.path().join("other"), &rng).unwrap();
        assert!(other.open("secret/a/x", &sealed).is_err(), "another key");
        for cut in 0..sealed.len() {
            assert!(seal.open("secret/a/x", &sealed[..cut]).is_err());
        }
        std::fs::write(dir.path().join("short"), b"short").unwrap();
        let short = Seal::open_or_create(&dir.path().join("short"), &rng);
        assert!(matches!(short, Err(SealError::WrongKeyFile(_))));
    }
}
