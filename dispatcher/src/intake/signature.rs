//! Is a delivery authentic? Judged over the raw bytes, in constant time, before anything is parsed.
//!
//! The hook record says which scheme is due; headers never choose. The header of that scheme must be
//! there exactly once and exactly formed. A good weaker header never rescues a bad one.

use std::time::Duration;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use slipway_core::time::Timestamp;

/// How far a signed timestamp may be from now, either way.
const TOLERANCE: Duration = Duration::from_secs(300);
/// Signatures of one delivery that are looked at (two keys while one rotates, and room).
const SIGNATURES_MAX: usize = 8;

/// How a code host proves that a delivery is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `X-Hub-Signature-256: sha256=<hex>`.
    GitHub,
    /// `X-Gitlab-Token`, the secret itself.
    GitLabToken,
    /// Standard Webhooks.
    GitLabSigned,
    /// `X-Gitea-Signature: <hex>`.
    Gitea,
    /// `X-Forgejo-Signature: <hex>`.
    Forgejo,
    /// `X-Hub-Signature: sha256=<hex>`.
    BitbucketCloud,
    /// `X-Hub-Signature: sha256=<hex>`.
    BitbucketDataCenter,
    /// Standard Webhooks.
    Generic,
}

impl Scheme {
    const ALL: [(Self, &'static str); 8] = [
        (Self::GitHub, "github"),
        (Self::GitLabToken, "gitlab_token"),
        (Self::GitLabSigned, "gitlab_signed"),
        (Self::Gitea, "gitea"),
        (Self::Forgejo, "forgejo"),
        (Self::BitbucketCloud, "bitbucket_cloud"),
        (Self::BitbucketDataCenter, "bitbucket_dc"),
        (Self::Generic, "generic"),
    ];

    /// The stored word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(scheme, _)| *scheme == self)
            .map_or("generic", |(_, word)| word)
    }

    /// From the stored word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(scheme, _)| *scheme)
    }

    /// All words, for messages.
    #[must_use]
    pub fn words() -> Vec<&'static str> {
        Self::ALL.iter().map(|(_, word)| *word).collect()
    }
}

/// Why a delivery is not authentic. One answer for all: whoever forges learns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the delivery is not authentic")]
pub struct NotAuthentic;

/// Checks a delivery against each of the hook's active secrets.
///
/// # Errors
/// When no secret fits.
pub fn verify(
    scheme: Scheme,
    secrets: &[Vec<u8>],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), NotAuthentic> {
    let mut good = false;
    // Every secret is tried, so that the time does not tell which one fitted.
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        good |= fits(scheme, secret, headers, body, now).unwrap_or(false);
    }
    if good { Ok(()) } else { Err(NotAuthentic) }
}

fn fits(
    scheme: Scheme,
    secret: &[u8],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Option<bool> {
    match scheme {
        Scheme::GitHub => {
            let hex = single(headers, "x-hub-signature-256")?.strip_prefix("sha256=")?;
            Some(hex_fits(secret, hex, body))
        }
        Scheme::BitbucketCloud | Scheme::BitbucketDataCenter => {
            let hex = single(headers, "x-hub-signature")?.strip_prefix("sha256=")?;
            Some(hex_fits(secret, hex, body))
        }
        Scheme::Gitea => Some(hex_fits(
            secret,
            single(headers, "x-gitea-signature")?,
            body,
        )),
        Scheme::Forgejo => Some(hex_fits(
            secret,
            single(headers, "x-forgejo-signature")?,
            body,
        )),
        Scheme::GitLabToken => {
            let token = single(headers, "x-gitlab-token")?;
            Some(token.as_bytes().ct_eq(secret).into())
        }
        Scheme::GitLabSigned | Scheme::Generic => standard_fits(secret, headers, body, now),
    }
}

/// The value of a header that is there exactly once.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

fn hex_fits(secret: &[u8], hex: &str, parts: &[u8]) -> bool {
    let mut given = [0; 32];
    if hex.len() != 64 || hex::decode_to_slice(hex, &mut given).is_err() {
        return false;
    }
    mac(secret, &[parts]).is_some_and(|mac| mac.verify_slice(&given).is_ok())
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    for part in parts {
        mac.update(part);
    }
    Some(mac)
}

/// Standard Webhooks 1.0: `v1,` and base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}`.
fn standard_fits(secret: &[u8], headers: &HeaderMap, body: &[u8], now: Timestamp) -> Option<bool> {
    let id = single(headers, "webhook-id")?;
    let timestamp = single(headers, "webhook-timestamp")?;
    let signatures = single(headers, "webhook-signature")?;
    let seconds: i64 = timestamp.parse().ok()?;
    let at = Timestamp::from_millis(seconds.checked_mul(1_000)?);
    if at.since(now) > TOLERANCE || now.since(at) > TOLERANCE {
        return None;
    }
    let key = std::str::from_utf8(secret)
        .ok()
        .and_then(|s| s.strip_prefix("whsec_"))
        .and_then(|s| STANDARD.decode(s).ok())
        .unwrap_or_else(|| secret.to_vec());
    let mut good = false;
    for signature in signatures.split(' ').take(SIGNATURES_MAX) {
        let Some(encoded) = signature.strip_prefix("v1,") else {
            continue;
        };
        let Ok(given) = STANDARD.decode(encoded) else {
            continue;
        };
        let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        good |= mac(&key, &parts)?.verify_slice(&given).is_ok();
    }
    Some(good)
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
