//! A process joins with a token, or renews its certificate.

use slipway_core::access::PeerRole;
use slipway_core::id::AgentId;
use slipway_identity::{IdentityError, Peer, request};
use slipway_store::{JoinOutcome, NewPeer, StoreError};

use crate::state::App;
use crate::token::{self, Kind};

/// Length of a display name.
const NAME_MAX: usize = 100;

/// Why nobody joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A word of the protocol: what is wrong with the token.
    #[error("{0}")]
    Token(&'static str),
    /// The request cannot be used.
    #[error("bad_certificate_request: {0}")]
    Request(#[source] IdentityError),
    /// The caller was revoked, or never joined.
    #[error("revoked: {0} does not belong to this installation any more; join again")]
    Revoked(PeerRole),
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Redeems a join token; answers with a certificate, DER.
///
/// # Errors
/// When the token or the request is not good, or the store is away.
pub async fn join_peer(
    app: &App,
    token: &str,
    name: &str,
    certificate_request: &[u8],
) -> Result<Vec<u8>, JoinError> {
    // Looked at first: a request that is none must not cost a use of the token.
    request::public_key(certificate_request).map_err(JoinError::Request)?;
    let hash = token::hash(Kind::Join, token).ok_or(JoinError::Token("join_token_unknown"))?;
    let now = app.clock.now();
    // A machine of a pool was written down with its agent's id before it was started.
    let planned = app.db.planned_agent(&hash).await?;
    let id = planned.map_or_else(|| app.rng.ulid(now), |id: AgentId| id.to_string());
    let shown: String = name
        .chars()
        .filter(|c| !c.is_control())
        .take(NAME_MAX)
        .collect();
    let peer = NewPeer {
        id: id.clone(),
        name: shown,
        created: now,
    };
    let role = match app.db.join(&hash, peer).await? {
        JoinOutcome::Joined(role) => role,
        JoinOutcome::Unknown => return Err(JoinError::Token("join_token_unknown")),
        JoinOutcome::Used => return Err(JoinError::Token("join_token_used")),
        JoinOutcome::Expired => return Err(JoinError::Token("join_token_expired")),
    };
    tracing::info!(%role, id, "a process joined");
    issue(app, role, &id, certificate_request)
}

/// A fresh certificate for the caller; answers with it, DER.
///
/// # Errors
/// When the caller was revoked, the request is not good, or the store is away.
pub async fn renew_peer(
    app: &App,
    peer: &Peer,
    certificate_request: &[u8],
) -> Result<Vec<u8>, JoinError> {
    let (role, id) = (peer.role(), &peer.name.id);
    if !app.db.peer_is_good(role, id).await? {
        return Err(JoinError::Revoked(role));
    }
    issue(app, role, id, certificate_request)
}

fn issue(
    app: &App,
    role: PeerRole,
    id: &str,
    certificate_request: &[u8],
) -> Result<Vec<u8>, JoinError> {
    let name = app.authority.name(role, id);
    app.authority
        .issue(&name, certificate_request, app.clock.now(), &app.rng)
        .map_err(JoinError::Request)
}
