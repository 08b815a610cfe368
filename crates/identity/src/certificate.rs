//! What a certificate says: the only place where a peer's name comes from.

use slipway_core::access::{PeerName, PeerRole, Shown};
use slipway_core::time::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::IdentityError;

/// A process, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub name: PeerName,
    /// The certificate's number, hex.
    pub serial: String,
    /// From when it is good.
    pub begins: Timestamp,
    /// Until when.
    pub expires: Timestamp,
}

impl Peer {
    /// Reads a certificate that TLS has verified.
    ///
    /// # Errors
    /// When it does not name exactly one process.
    pub fn read(der: &[u8]) -> Result<Self, IdentityError> {
        let unusable = |why: &str| IdentityError::unusable("the certificate", why);
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| unusable("it cannot be read"))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| unusable("its names cannot be read"))?
            .ok_or_else(|| unusable("it names nobody"))?;
        let mut uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(unusable("it does not name exactly one process"));
        };
        let seconds = |at: i64| Timestamp::from_millis(at.saturating_mul(1_000));
        let validity = certificate.validity();
        Ok(Self {
            name: uri
                .parse()
                .map_err(|_| unusable("it names no process of an installation"))?,
            serial: hex::encode(certificate.raw_serial()),
            begins: seconds(validity.not_before.timestamp()),
            expires: seconds(validity.not_after.timestamp()),
        })
    }

    /// As core's table sees it.
    #[must_use]
    pub fn shown(&self, now: Timestamp) -> Shown {
        Shown {
            role: self.name.role,
            expired: self.expires <= now,
        }
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> PeerRole {
        self.name.role
    }
}
