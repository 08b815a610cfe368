//! API tokens, and the audit log.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slipway_core::access::{Deed, Role};
use slipway_core::id::TokenId;
use slipway_store::TokenRow;
use utoipa::{IntoParams, ToSchema};

use super::body::Body;
use super::time::shown;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::state::App;
use crate::token::{self, Kind};

/// Longest life of a token.
const DAYS_MAX: u64 = 365;

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Whose it is.
    subject: String,
    /// viewer, developer, maintainer, approver, deployer, admin, auditor; `group:<name>` for groups.
    roles: Vec<String>,
    /// Days until it expires; 90, at most 365.
    days: Option<u64>,
}

/// A token, shown once.
#[derive(Debug, Serialize, ToSchema)]
pub struct MadeToken {
    token_id: String,
    token: String,
    expires_at: String,
}

/// Makes a token.
#[utoipa::path(post, path = "/tokens", tag = "tokens", security(("token" = [])), request_body = NewToken,
    responses((status = 201, body = MadeToken), (status = 422, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    person: Person,
    Body(new): Body<NewToken>,
) -> Result<Response, Problem> {
    person.must(Deed::Administer)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '/');
    if new.subject.is_empty() || new.subject.len() > 100 || !new.subject.chars().all(plain) {
        let detail = "a subject is 1–100 of letters, digits, `.`, `_`, `-`, `@` and `/`";
        return Err(Problem::invalid("/subject", "invalid_subject", detail));
    }
    if new.subject == "system" {
        return Err(Problem::invalid(
            "/subject",
            "invalid_subject",
            "`system` is Slipway itself",
        ));
    }
    for role in &new.roles {
        if role.strip_prefix("group:").is_none_or(str::is_empty) {
            role.parse::<Role>()
                .map_err(|e| Problem::invalid("/roles", "unknown_role", e.to_string()))?;
        }
    }
    let days = new.days.unwrap_or(90);
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Problem::invalid(
            "/days",
            "out_of_range",
            "`days` is 1 to 365",
        ));
    }
    let now = app.clock.now();
    let id: TokenId = app.rng.id(now);
    let secret = token::mint(Kind::Api, &app.rng);
    let hash = token::hash(Kind::Api, &secret).unwrap_or_default();
    let expires = now.after(Duration::from_secs(days * 86_400));
    app.db
        .audit(person.audit(now, "token.create", "token", id.as_str()))
        .await?;
    let roles = serde_json::json!(new.roles).to_string();
    app.db
        .insert_token(&id, &new.subject, &hash, &roles, now, expires)
        .await?;
    let body = MadeToken {
        token_id: id.to_string(),
        token: secret,
        expires_at: shown(expires.as_millis()),
    };
    Ok((StatusCode::CREATED, axum::Json(body)).into_response())
}

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenView {
    token_id: String,
    subject: String,
    roles: Vec<String>,
    created_at: String,
    expires_at: String,
    revoked: bool,
}

fn view(row: TokenRow) -> TokenView {
    TokenView {
        token_id: row.token_id,
        subject: row.subject,
        roles: serde_json::from_str(&row.roles).unwrap_or_default(),
        created_at: shown(row.created_at),
        expires_at: shown(row.expires_ms),
        revoked: row.revoked_ms.is_some(),
    }
}

/// Lists tokens.
#[utoipa::path(get, path = "/tokens", tag = "tokens", security(("token" = [])),
    responses((status = 200, body = Vec<TokenView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    person: Person,
) -> Result<axum::Json<Vec<TokenView>>, Problem> {
    person.must(Deed::Administer)?;
    let rows = app.db.tokens().await?;
    Ok(axum::Json(rows.into_iter().map(view).collect()))
}

/// Revokes a token; the next call with it is refused.
#[utoipa::path(delete, path = "/tokens/{token_id}", tag = "tokens", security(("token" = [])),
    params(("token_id" = String, Path)), responses((status = 204), (status = 404, body = Problem)))]
pub async fn revoke(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    person.must(Deed::Administer)?;
    let missing = || Problem::not_found("token");
    let id: TokenId = id.parse().map_err(|_| missing())?;
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "token.revoke", "token", id.as_str()))
        .await?;
    if !app.db.revoke_token(&id, now).await? {
        return Err(missing());
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Where to begin.
#[derive(Debug, Deserialize, IntoParams)]
pub struct After {
    /// The last row seen.
    after: Option<i64>,
}

/// Reads the audit log, oldest first, 200 rows at a time.
#[utoipa::path(get, path = "/audit", tag = "tokens", params(After), security(("token" = [])),
    responses((status = 200, body = Vec<serde_json::Value>)))]
pub async fn audit(
    State(app): State<Arc<App>>,
    person: Person,
    Query(from): Query<After>,
) -> Result<axum::Json<Vec<serde_json::Value>>, Problem> {
    person.must(Deed::ReadAudit)?;
    let rows = app.db.audit_log(from.after.unwrap_or(0), 200).await?;
    Ok(axum::Json(
        rows.into_iter()
            .map(|row| {
                let detail: serde_json::Value =
                    serde_json::from_str(&row.detail).unwrap_or_default();
                serde_json::json!({
                    "seq": row.seq, "at": shown(row.at), "actor": row.actor_id,
                    "actor_type": row.actor_type, "address": row.address, "action": row.action,
                    "object_type": row.object_type, "object": row.object_id, "detail": detail,
                    "hash": row.hash,
                })
            })
            .collect(),
    ))
}
