//! Requests for certificates: made by a process about to join or renew, and read by the authority,
//! which takes nothing out of them but the public key.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::IdentityError;
use crate::credentials::Credentials;

/// Largest request that is looked at; an honest one has some 250 bytes.
pub const REQUEST_MAX: usize = 8 * 1024;

/// A fresh key, and the request for its certificate.
pub struct Request {
    key: KeyPair,
    der: Vec<u8>,
}

impl Request {
    /// Makes a P-256 key.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn make() -> Result<Self, IdentityError> {
        let failed = |e| IdentityError::unusable("the request for a certificate", e);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(failed)?;
        let der = request.der().to_vec();
        Ok(Self { key, der })
    }

    /// The request, PKCS #10.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// With the certificate that came for it.
    ///
    /// # Errors
    /// When that is for another key, or is none.
    pub fn answered(
        self,
        certificate: Vec<u8>,
        authority: Vec<u8>,
    ) -> Result<Credentials, IdentityError> {
        Credentials::new(self.key.serialize_der(), certificate, authority)
    }
}

/// The public key of a request whose sender holds the private one.
///
/// # Errors
/// When it is too large, no request, not signed by its own key, or of a kind that is not taken.
pub fn public_key(der: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let unusable = |why: String| IdentityError::unusable("the request for a certificate", why);
    if der.len() > REQUEST_MAX {
        return Err(unusable(format!("it has more than {REQUEST_MAX} bytes")));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| unusable("it is none".to_owned()))?;
    if !rest.is_empty() {
        return Err(unusable("something follows it".to_owned()));
    }
    let public = &request.certification_request_info.subject_pki;
    if !is_taken(public) {
        return Err(unusable("its key is neither P-256 nor Ed25519".to_owned()));
    }
    request
        .verify_signature()
        .map_err(|_| unusable("it is not signed by its own key".to_owned()))?;
    Ok(public.raw.to_vec())
}

fn is_taken(public: &SubjectPublicKeyInfo<'_>) -> bool {
    let algorithm = &public.algorithm;
    if algorithm.algorithm == OID_SIG_ED25519 {
        return true;
    }
    let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256)
}
