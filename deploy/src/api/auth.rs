//! Who calls: a person by the API token in the call's metadata, looked up in the store; without one, a
//! dispatcher by the certificate of its connection. Nothing in a message makes anybody anybody.

use sha2::{Digest as _, Sha256};
use slipway_core::access::{Caller, PeerRole, Role};
use slipway_identity::guard::peer_of;
use tonic::{Request, Status};

use crate::run::Coordinator;

/// The largest token that is looked up.
const TOKEN_MAX: usize = 512;

/// The caller behind a call.
pub(super) async fn caller<T>(
    coordinator: &Coordinator,
    request: &Request<T>,
) -> Result<Caller, Status> {
    let refused =
        || Status::unauthenticated("a valid API token is needed: authorization: Bearer …");
    let mut all = request.metadata().get_all("authorization").iter();
    let value = match (all.next(), all.next()) {
        (None, _) => return dispatcher(coordinator, request).ok_or_else(refused),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(refused()),
    };
    let value = value.to_str().map_err(|_| refused())?;
    let (scheme, token) = value.split_once(' ').ok_or_else(refused)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_MAX {
        return Err(refused());
    }
    let hash = hex::encode(Sha256::digest(token.as_bytes()));
    let found = coordinator.db.token_by_hash(&hash).await;
    let found = found.map_err(|error| Status::unavailable(error.to_string()))?;
    let found = found.ok_or_else(refused)?;
    if found.revoked_ms.is_some() || found.expires_ms <= coordinator.clock.now().as_millis() {
        return Err(refused());
    }
    let roles: Vec<String> = serde_json::from_str(&found.roles).unwrap_or_default();
    Ok(Caller::new(&found.subject, &roles))
}

/// A dispatcher in its own name: it starts what a push leads to.
fn dispatcher<T>(coordinator: &Coordinator, request: &Request<T>) -> Option<Caller> {
    let peer = peer_of(request)?;
    let good = peer.role() == PeerRole::Dispatcher && peer.expires > coordinator.clock.now();
    good.then(|| Caller::new("system", &[Role::Deployer.to_string()]))
}
