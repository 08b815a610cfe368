//! Repositories, their hooks and deliveries, and secrets (write-only).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slipway_core::access::Deed;
use slipway_core::address::AddressPolicy;
use slipway_core::id::{DeliveryId, HookId, RepoId};
use slipway_store::{HookRow, RepositoryRow};
use utoipa::ToSchema;

use super::body::Body;
use super::time::shown;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::intake::signature::Scheme;
use crate::state::App;

/// Largest secret.
const SECRET_MAX: usize = 64 * 1024;

/// A repository to be registered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRepository {
    repo_url: String,
    /// For people and `CI_REPO`; absent = from the address.
    #[serde(default)]
    name: String,
    /// Default branch.
    #[serde(default)]
    branch: String,
}

/// A repository.
#[derive(Debug, Serialize, ToSchema)]
pub struct Repository {
    repo_id: String,
    repo_url: String,
    name: String,
    branch: String,
    created_at: String,
}

fn repository(row: RepositoryRow) -> Repository {
    Repository {
        repo_id: row.repo_id,
        repo_url: row.repo_url,
        name: row.name,
        branch: row.branch,
        created_at: shown(row.created_at),
    }
}

/// Registers a repository.
#[utoipa::path(post, path = "/repositories", tag = "repositories", request_body = NewRepository,
    security(("token" = [])),
    responses((status = 201, body = Repository), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    person: Person,
    Body(new): Body<NewRepository>,
) -> Result<Response, Problem> {
    person.must(Deed::Maintain)?;
    let policy = AddressPolicy {
        allowed_prefixes: app.settings.allowed_sources.clone(),
    };
    policy
        .check(&new.repo_url)
        .map_err(|e| Problem::invalid("/repo_url", "invalid_address", e.to_string()))?;
    let branch = if new.branch.is_empty() {
        "main".to_owned()
    } else {
        new.branch
    };
    if !crate::intake::event::is_branch_name(&branch) {
        return Err(Problem::invalid(
            "/branch",
            "invalid_branch",
            "this cannot name a branch",
        ));
    }
    let last = new
        .repo_url
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let name = if new.name.is_empty() {
        last.trim_end_matches(".git").to_owned()
    } else {
        new.name
    };
    if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
        return Err(Problem::invalid(
            "/name",
            "invalid_name",
            "a name is 1–200 characters",
        ));
    }
    if app.db.repository_by_url(&new.repo_url).await?.is_some() {
        return Err(Problem::conflict(
            "repository_exists",
            "this address is registered already",
        ));
    }
    let now = app.clock.now();
    let id: RepoId = app.rng.id(now);
    let row = RepositoryRow {
        repo_id: id.to_string(),
        repo_url: new.repo_url,
        name,
        branch,
        weight: 1,
        reconciled_ms: None,
        created_at: now.as_millis(),
    };
    app.db
        .audit(person.audit(now, "repository.create", "repository", id.as_str()))
        .await?;
    app.db.insert_repository(row.clone()).await?;
    Ok((StatusCode::CREATED, axum::Json(repository(row))).into_response())
}

/// Lists repositories.
#[utoipa::path(get, path = "/repositories", tag = "repositories", security(("token" = [])),
    responses((status = 200, body = Vec<Repository>)))]
pub async fn list(State(app): State<Arc<App>>) -> Result<axum::Json<Vec<Repository>>, Problem> {
    let rows = app.db.repositories().await?;
    Ok(axum::Json(rows.into_iter().map(repository).collect()))
}

/// A hook to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHook {
    /// github, gitlab_token, gitlab_signed, gitea, forgejo, bitbucket_cloud, bitbucket_dc, generic
    scheme: String,
    /// The code host's immutable id of the repository; deliveries about another one are put aside.
    host_repo_id: Option<String>,
}

/// A new hook, with its secret, shown once.
#[derive(Debug, Serialize, ToSchema)]
pub struct MadeHook {
    hook_id: String,
    url: String,
    secret: String,
}

async fn found(app: &App, id: &str) -> Result<(RepoId, RepositoryRow), Problem> {
    let missing = || Problem::not_found("repository");
    let id: RepoId = id.parse().map_err(|_| missing())?;
    let row = app.db.repository(&id).await?.ok_or_else(missing)?;
    Ok((id, row))
}

/// Makes a webhook endpoint. The secret is ours (256 bits) and is never empty.
#[utoipa::path(post, path = "/repositories/{repo_id}/hooks", tag = "repositories", security(("token" = [])),
    params(("repo_id" = String, Path)), request_body = NewHook,
    responses((status = 201, body = MadeHook), (status = 422, body = Problem)))]
pub async fn create_hook(
    State(app): State<Arc<App>>,
    person: Person,
    Path(repo): Path<String>,
    Body(new): Body<NewHook>,
) -> Result<Response, Problem> {
    person.must(Deed::Maintain)?;
    let (repo_id, _) = found(&app, &repo).await?;
    let scheme = Scheme::parse(&new.scheme).ok_or_else(|| {
        let detail = format!("`scheme` is one of {}", Scheme::words().join(", "));
        Problem::invalid("/scheme", "unknown_scheme", detail)
    })?;
    let now = app.clock.now();
    let id: HookId = app.rng.id(now);
    let bytes = app.rng.bytes::<32>();
    let secret = match scheme {
        Scheme::GitLabSigned | Scheme::Generic => {
            use base64::Engine as _;
            format!(
                "whsec_{}",
                base64::engine::general_purpose::STANDARD.encode(bytes)
            )
        }
        _ => hex::encode(bytes),
    };
    let sealed = app
        .seal
        .seal(&format!("hook/{id}"), secret.as_bytes())
        .map_err(|error| {
            tracing::error!(%error, "a secret cannot be sealed");
            Problem::unavailable("the secret cannot be sealed")
        })?;
    app.db
        .audit(person.audit(now, "hook.create", "hook", id.as_str()))
        .await?;
    app.db
        .insert_hook(HookRow {
            hook_id: id.to_string(),
            repo_id: repo_id.to_string(),
            scheme: scheme.as_str().to_owned(),
            webhook_secret: sealed,
            previous_secret: None,
            previous_until_ms: None,
            host_repo_id: new.host_repo_id,
            created_at: now.as_millis(),
        })
        .await?;
    let hook_id = id.to_string();
    let url = format!("/webhooks/{hook_id}");
    Ok((
        StatusCode::CREATED,
        axum::Json(MadeHook {
            hook_id,
            url,
            secret,
        }),
    )
        .into_response())
}

/// One delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryView {
    id: String,
    delivery_id: String,
    event: String,
    state: String,
    decision: Option<String>,
    build_id: Option<String>,
    received_at: String,
}

/// Lists the deliveries of a hook, newest first.
#[utoipa::path(get, path = "/hooks/{hook_id}/deliveries", tag = "repositories", security(("token" = [])),
    params(("hook_id" = String, Path)), responses((status = 200, body = Vec<DeliveryView>)))]
pub async fn deliveries(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Vec<DeliveryView>>, Problem> {
    let missing = || Problem::not_found("hook");
    let id: HookId = id.parse().map_err(|_| missing())?;
    app.db.hook(&id).await?.ok_or_else(missing)?;
    let rows = app.db.deliveries(&id, 200).await?;
    Ok(axum::Json(
        rows.into_iter()
            .map(|row| DeliveryView {
                id: row.id,
                delivery_id: row.delivery_id,
                event: row.event,
                state: row.state,
                decision: row.decision,
                build_id: row.build_id,
                received_at: shown(row.received_ms),
            })
            .collect(),
    ))
}

/// Looks at a stored delivery again.
#[utoipa::path(post, path = "/hooks/{hook_id}/deliveries/{id}/replay", tag = "repositories",
    security(("token" = [])), params(("hook_id" = String, Path), ("id" = String, Path)),
    responses((status = 202), (status = 409, body = Problem)))]
pub async fn replay(
    State(app): State<Arc<App>>,
    person: Person,
    Path((hook, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    person.must(Deed::Maintain)?;
    let missing = || Problem::not_found("delivery");
    let id: DeliveryId = id.parse().map_err(|_| missing())?;
    let row = app.db.delivery(&id).await?.ok_or_else(missing)?;
    if row.hook_id != hook {
        return Err(missing());
    }
    app.db
        .audit(person.audit(app.clock.now(), "delivery.replay", "delivery", id.as_str()))
        .await?;
    if !app.db.reopen_delivery(&id).await? {
        let detail = format!(
            "the delivery is {}; only quarantined ones are looked at again",
            row.state
        );
        return Err(Problem::conflict("already_decided", detail));
    }
    app.inbox.announce(id);
    Ok(StatusCode::ACCEPTED)
}

/// A secret's value.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretValue {
    value: String,
}

/// Sets a secret. Its value is never shown again.
#[utoipa::path(put, path = "/repositories/{repo_id}/secrets/{name}", tag = "repositories",
    security(("token" = [])), params(("repo_id" = String, Path), ("name" = String, Path)),
    request_body = SecretValue, responses((status = 204), (status = 422, body = Problem)))]
pub async fn put_secret(
    State(app): State<Arc<App>>,
    person: Person,
    Path((repo, name)): Path<(String, String)>,
    Body(secret): Body<SecretValue>,
) -> Result<StatusCode, Problem> {
    person.must(Deed::Maintain)?;
    let (id, _) = found(&app, &repo).await?;
    let shaped = (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if !shaped {
        let detail = "a secret's name is 1–63 of letters, digits, `_`, `-` and `.`";
        return Err(Problem::invalid("/name", "invalid_name", detail));
    }
    let value = &secret.value;
    if value.is_empty() || value.len() > SECRET_MAX || value.contains('\0') {
        let detail = "a secret is 1 byte to 64 KiB of text without NUL";
        return Err(Problem::invalid("/value", "invalid_value", detail));
    }
    let place = format!("secret/{id}/{name}");
    let sealed = app.seal.seal(&place, value.as_bytes()).map_err(|error| {
        tracing::error!(%error, "a secret cannot be sealed");
        Problem::unavailable("the secret cannot be sealed")
    })?;
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "secret.set", "secret", &name))
        .await?;
    app.db.put_secret(&id, &name, sealed, now).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the names of a repository's secrets.
#[utoipa::path(get, path = "/repositories/{repo_id}/secrets", tag = "repositories",
    security(("token" = [])), params(("repo_id" = String, Path)),
    responses((status = 200, body = Vec<String>)))]
pub async fn secret_names(
    State(app): State<Arc<App>>,
    Path(repo): Path<String>,
) -> Result<axum::Json<Vec<String>>, Problem> {
    let (id, _) = found(&app, &repo).await?;
    Ok(axum::Json(app.db.secret_names(&id).await?))
}
