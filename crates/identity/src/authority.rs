//! The installation's authority: it alone writes certificates.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use slipway_core::access::{PeerName, PeerRole};
use slipway_core::time::Timestamp;
use slipway_daemon::Rng;
use time::OffsetDateTime;

use crate::credentials::Credentials;
use crate::{IdentityError, request};

/// How long the authority's own certificate is good: as long as the installation, in practice.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3_650 * 24 * 3_600);
/// Agents, cache daemons and dispatchers; renewed at half of it.
const LIFE: Duration = Duration::from_secs(24 * 3_600);
/// The coordinator answers a rollback also while every dispatcher is away.
const DEPLOYER_LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Certificates begin so long before they are made: clocks differ.
const SKEW: Duration = Duration::from_secs(3_600);

/// The authority with its key.
pub struct Authority {
    install: String,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authority").field(&self.install).finish()
    }
}

fn date(at: Timestamp) -> Result<OffsetDateTime, IdentityError> {
    OffsetDateTime::from_unix_timestamp(at.as_millis() / 1_000)
        .map_err(|e| IdentityError::unusable("the clock", e))
}

fn failed(error: rcgen::Error) -> IdentityError {
    IdentityError::unusable("the certificate cannot be made", error)
}

/// How long a certificate of a role is good.
#[must_use]
pub fn life(role: PeerRole) -> Duration {
    match role {
        PeerRole::Deployer => DEPLOYER_LIFE,
        PeerRole::Agent | PeerRole::Cache | PeerRole::Dispatcher | PeerRole::Router => LIFE,
    }
}

/// The SHA-256 of an authority's certificate: what stands beside a join token.
#[must_use]
pub fn fingerprint(certificate: &[u8]) -> String {
    hex::encode(Sha256::digest(certificate))
}

/// Whether the authority with this certificate (DER) signed a statement.
#[must_use]
pub fn has_signed(authority: &[u8], statement: &[u8], signature: &[u8]) -> bool {
    use x509_parser::asn1_rs::BitString;
    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer as _;
    let Ok((_, certificate)) = X509Certificate::from_der(authority) else {
        return false;
    };
    // It signed its own certificate, with the algorithm of everything it signs.
    let algorithm = &certificate.signature_algorithm;
    let signature = BitString::new(0, signature);
    let key = certificate.public_key();
    x509_parser::verify::verify_signature(key, algorithm, &signature, statement).is_ok()
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no key.
    pub fn create(now: Timestamp) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "Slipway authority");
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date(now.before(SKEW))?;
        params.not_after = date(now.after(AUTHORITY_LIFE))?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::open(certificate.der(), key.serialized_der())
    }

    /// A kept one.
    ///
    /// # Errors
    /// When certificate or key cannot be read.
    pub fn open(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))
            .map_err(|e| IdentityError::unusable("the authority's key", e))?;
        Ok(Self {
            install: format!("{}.slipway", &fingerprint(certificate)[..16]),
            certificate: CertificateDer::from(certificate.to_vec()),
            key,
        })
    }

    /// The certificate, DER: public.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The key, PKCS #8: to be sealed before it is kept.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.key.serialized_der()
    }

    /// What stands beside a join token.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    /// The name of one process of this installation.
    #[must_use]
    pub fn name(&self, role: PeerRole, id: &str) -> PeerName {
        PeerName {
            install: self.install.clone(),
            role,
            id: id.to_owned(),
        }
    }

    /// A certificate for a name, of whose request only the public key is taken.
    ///
    /// # Errors
    /// When the request is none, or its key is of a kind that is not taken.
    pub fn issue(
        &self,
        name: &PeerName,
        certificate_request: &[u8],
        now: Timestamp,
        rng: &Rng,
    ) -> Result<Vec<u8>, IdentityError> {
        let public = request::public_key(certificate_request)?;
        let public = SubjectPublicKeyInfo::from_der(&public)
            .map_err(|e| IdentityError::unusable("the public key", e))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = name.to_string().try_into().map_err(failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if let Some(server) = name.role.server_name() {
            let server = server.to_owned().try_into().map_err(failed)?;
            params.subject_alt_names.push(SanType::DnsName(server));
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.not_before = date(now.before(SKEW))?;
        params.not_after = date(now.after(life(name.role)))?;
        let mut serial = rng.bytes::<16>();
        // Positive, as RFC 5280 asks.
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(failed)?;
        let certificate = params.signed_by(&public, &issuer).map_err(failed)?;
        Ok(certificate.der().to_vec())
    }

    /// Signs a statement of ours. What is signed says what it is in its first bytes, so that it can
    /// never be taken for a certificate, which begins in another way.
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn sign(&self, statement: &[u8]) -> Result<Vec<u8>, IdentityError> {
        use rcgen::SigningKey as _;
        self.key.sign(statement).map_err(failed)
    }

    /// Key and certificate for a process that has this authority at hand.
    ///
    /// # Errors
    /// When the system gives no key.
    pub fn credentials(
        &self,
        role: PeerRole,
        id: &str,
        now: Timestamp,
        rng: &Rng,
    ) -> Result<Credentials, IdentityError> {
        let fresh = request::Request::make()?;
        let certificate = self.issue(&self.name(role, id), fresh.der(), now, rng)?;
        fresh.answered(certificate, self.certificate.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_of_its_authority_and_of_no_other_bytes() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let [ours, other] = [(); 2].map(|()| Authority::create(now).unwrap());
        let signature = ours.sign(b"statement").unwrap();
        assert!(has_signed(ours.certificate(), b"statement", &signature));
        assert!(!has_signed(ours.certificate(), b"Statement", &signature));
        assert!(!has_signed(other.certificate(), b"statement", &signature));
        assert!(!has_signed(ours.certificate(), b"statement", b"none"));
        assert!(!has_signed(b"no certificate", b"statement", &signature));
    }
}
