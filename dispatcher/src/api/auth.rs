//! Who calls. A [`Person`] or an agent can be built here alone, out of a checked credential; nothing
//! that a message says about its sender counts.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use slipway_core::access::{Caller, Deed, PeerRole};
use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;
use slipway_daemon::listen::Peer;
use slipway_identity::guard::peer_of;
use slipway_store::{AgentRow, AuditEntry, StoreError};

use super::problem::Problem;
use crate::state::App;
use crate::token::{self, Kind};

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who, with roles and groups.
    pub caller: Caller,
    /// The token, without its secret half.
    pub token_id: String,
    /// Where the call came from.
    pub address: IpAddr,
    secret: String,
}

impl Person {
    /// Refuses a caller whose roles do not allow a deed.
    ///
    /// # Errors
    /// 403.
    pub fn must(&self, deed: Deed) -> Result<(), Problem> {
        if self.caller.may(deed) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("this token may not {}", deed.words()),
        ))
    }

    /// The bearer value, to be passed on to the coordinator, which judges by itself.
    #[must_use]
    pub fn bearer(&self) -> &str {
        &self.secret
    }

    /// An audit row about something this caller does.
    #[must_use]
    pub fn audit(&self, at: Timestamp, action: &str, kind: &str, id: &str) -> AuditEntry {
        AuditEntry {
            at,
            actor_type: "token".to_owned(),
            actor_id: self.caller.subject.clone(),
            address: self.address.to_string(),
            action: action.to_owned(),
            object_type: kind.to_owned(),
            object_id: id.to_owned(),
            detail: serde_json::json!({"token": self.token_id}),
        }
    }
}

/// Finds the caller of a bearer token.
///
/// # Errors
/// 401 with one answer for every reason.
pub async fn person(app: &App, headers: &HeaderMap, address: IpAddr) -> Result<Person, Problem> {
    let refused = || {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "not_authenticated",
            "send `Authorization: Bearer slp_…`; `slipway up` prints a token at its first start",
        )
    };
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().and_then(|v| v.to_str().ok());
    if values.next().is_some() {
        return Err(refused());
    }
    let secret = value.and_then(token::bearer).ok_or_else(refused)?;
    let hash = token::hash(Kind::Api, secret).ok_or_else(refused)?;
    let row = app.db.token_by_hash(&hash).await?.ok_or_else(refused)?;
    if row.revoked_ms.is_some() || row.expires_ms <= app.clock.now().as_millis() {
        return Err(refused());
    }
    let roles: Vec<String> = serde_json::from_str(&row.roles).unwrap_or_default();
    Ok(Person {
        caller: Caller::new(&row.subject, &roles),
        token_id: row.token_id,
        address,
        secret: secret.to_owned(),
    })
}

/// Lets authenticated requests through, with the caller attached.
pub async fn authenticate(
    State(app): State<Arc<App>>,
    mut request: axum::extract::Request,
    next: Next,
) -> Response {
    let address = request
        .extensions()
        .get::<Peer>()
        .map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    match person(&app, request.headers(), address).await {
        Ok(person) => {
            // Everything but reading needs more than the right to read; handlers ask for theirs.
            if request.method() == Method::GET
                && let Err(problem) = person.must(Deed::Read)
            {
                return problem.into_response();
            }
            request.extensions_mut().insert(person);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "not_authenticated",
                "send a token",
            )
        })
    }
}

/// An authenticated agent.
#[derive(Clone, Debug)]
pub struct PeerAgent {
    /// Which.
    pub id: AgentId,
    /// The server's record of it.
    pub row: AgentRow,
}

/// Finds the agent that a call's certificate names.
///
/// # Errors
/// `UNAUTHENTICATED`, or `UNAVAILABLE` when the store is away.
pub async fn agent<T>(app: &App, request: &tonic::Request<T>) -> Result<PeerAgent, tonic::Status> {
    let refused = || tonic::Status::unauthenticated("no agent of this installation; join again");
    let peer = peer_of(request).ok_or_else(refused)?;
    // The table (role, method) has let agents through alone; said here again because what follows
    // trusts it.
    if peer.role() != PeerRole::Agent || peer.expires <= app.clock.now() {
        return Err(refused());
    }
    let id: AgentId = peer.name.id.parse().map_err(|_| refused())?;
    let known = app.db.agent(&id).await.map_err(|e| unavailable(&e))?;
    let row = known
        .filter(|row| row.state != "gone")
        .ok_or_else(refused)?;
    Ok(PeerAgent { id, row })
}

/// The store does not answer.
#[must_use]
pub fn unavailable(error: &StoreError) -> tonic::Status {
    tracing::warn!(%error, "the store failed");
    tonic::Status::unavailable("the database is not available now")
}
