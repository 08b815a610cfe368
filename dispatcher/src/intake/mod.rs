//! Webhooks in: size → authenticity over the raw bytes → inbox row committed → 2xx. Nothing else.
//!
//! What a delivery means is found out later, from the row (`usecases::decide_delivery`). A 2xx means
//! that the row is on disk; content never earns a 4xx, because hosts switch hooks off after repeated
//! errors. Has a listener and limits of its own, so that a flood of API calls cannot block it.

mod bitbucket;
pub mod event;
mod gitea;
mod github;
mod gitlab;
mod json;
pub mod signature;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::{BodyExt as _, Limited};
use serde_json::json;
use slipway_core::digest::Digest;
use slipway_core::id::{DeliveryId, HookId};
use slipway_core::time::Timestamp;
use slipway_store::{Delivery, HookRow, NewDelivery, Recorded};

use crate::api::problem::Problem;
use crate::state::App;
use event::{HostEvent, Unusable};
use signature::Scheme;

/// Largest body: the largest that any host sends.
pub const BODY_MAX: usize = 25 * 1024 * 1024;
/// How long a whole body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// The intake, as health calls it.
const PART: &str = "intake";
/// How long health speaks of a delivery that could not be stored.
const REFUSED_KEPT: Duration = Duration::from_secs(15);
/// Headers kept with a delivery: what is needed to read it again.
const KEPT: [&str; 12] = [
    "content-type",
    "user-agent",
    "x-github-event",
    "x-github-delivery",
    "x-gitlab-event",
    "x-gitlab-event-uuid",
    "x-gitea-event",
    "x-forgejo-event",
    "x-event-key",
    "x-request-uuid",
    "x-request-id",
    "webhook-id",
];

/// The routes of the intake listener.
pub fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/webhooks/{hook_id}", post(receive))
        .route("/healthz", axum::routing::get(|| async { "ok\n" }))
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(256))
        .with_state(app)
}

async fn receive(
    State(app): State<Arc<App>>,
    Path(hook): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match accept(&app, &hook, &headers, body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn accept(
    app: &App,
    hook: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_encoding",
            "a delivery must not be compressed",
        ));
    }
    let body = read_body(body).await?;
    // "No such hook" and "not signed by it" look the same.
    let row = match hook.parse::<HookId>() {
        Ok(id) => {
            let found = app.db.hook(&id).await;
            found.map_err(|error| not_durable(app, &error))?
        }
        Err(_) => None,
    };
    let Some(row) = row else {
        return Err(not_authentic());
    };
    let Some(scheme) = Scheme::parse(&row.scheme) else {
        return Err(not_authentic());
    };
    let now = app.clock.now();
    let secrets = secrets(app, &row)?;
    let signed = signed_bytes(scheme, headers, &body);
    let signed = signed.as_deref().unwrap_or(&body);
    signature::verify(scheme, &secrets, headers, signed, now).map_err(|_| not_authentic())?;
    store(app, &row, scheme, headers, body, now).await
}

async fn read_body(body: Body) -> Result<Vec<u8>, Problem> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await;
    match whole {
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "the body took longer than 20 s",
        )),
        Ok(Ok(whole)) => Ok(whole.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "a delivery is at most 25 MiB",
        )),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "body_cut",
            "the body ended early",
        )),
    }
}

fn not_authentic() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "not_authentic",
        "no hook accepts this delivery: check the address, the secret and the signature header",
    )
}

fn not_durable(app: &App, error: &slipway_store::StoreError) -> Problem {
    tracing::error!(%error, "a delivery cannot be stored");
    let ticks = app.clock.ticks().as_millis();
    app.refused_ms.store(ticks, Ordering::SeqCst);
    app.health.degraded(PART, error.to_string());
    Problem::unavailable("the delivery cannot be stored now; send it again")
}

/// Lets health speak of refused deliveries no longer than their time: a balancer that sends nothing to
/// an unhealthy intake would never send what proves the recovery.
pub fn forget_refused(app: &App) {
    let refused = Timestamp::from_millis(app.refused_ms.load(Ordering::SeqCst));
    if app.clock.ticks().since(refused) >= REFUSED_KEPT {
        app.health.recovered(PART);
    }
}

fn secrets(app: &App, row: &HookRow) -> Result<Vec<Vec<u8>>, Problem> {
    let open = |sealed: &[u8]| {
        app.seal
            .open(&format!("hook/{}", row.hook_id), sealed)
            .map_err(|error| {
                tracing::error!(%error, hook = %row.hook_id, "a webhook secret cannot be opened");
                Problem::unavailable("the hook's secret cannot be opened")
            })
    };
    let mut secrets = vec![open(&row.webhook_secret)?];
    let rotating = row.previous_until_ms > Some(app.clock.now().as_millis());
    if let (true, Some(previous)) = (rotating, &row.previous_secret) {
        secrets.push(open(previous)?);
    }
    Ok(secrets)
}

/// Gitea signs the JSON inside a form; GitHub signs the form as it is.
fn signed_bytes(scheme: Scheme, headers: &HeaderMap, body: &[u8]) -> Option<Vec<u8>> {
    let inner = matches!(scheme, Scheme::Gitea | Scheme::Forgejo);
    (inner
        && is_form(
            headers
                .get(header::CONTENT_TYPE)
                .and_then(|v| v.to_str().ok()),
        ))
    .then(|| form_payload(body))
    .flatten()
}

fn is_form(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|v| v.starts_with("application/x-www-form-urlencoded"))
}

/// The `payload` field of a form body; `None` when there is not exactly one.
fn form_payload(body: &[u8]) -> Option<Vec<u8>> {
    let mut found = form_urlencoded::parse(body)
        .filter(|(key, _)| key == "payload")
        .map(|(_, value)| value.into_owned().into_bytes());
    let payload = found.next()?;
    found.next().is_none().then_some(payload)
}

fn delivery_header(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::GitHub => "x-github-delivery",
        Scheme::GitLabToken => "x-gitlab-event-uuid",
        Scheme::GitLabSigned | Scheme::Generic => "webhook-id",
        Scheme::Gitea => "x-gitea-delivery",
        Scheme::Forgejo => "x-forgejo-delivery",
        Scheme::BitbucketCloud => "x-request-uuid",
        Scheme::BitbucketDataCenter => "x-request-id",
    }
}

fn event_header(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::GitHub => "x-github-event",
        Scheme::GitLabToken | Scheme::GitLabSigned => "x-gitlab-event",
        Scheme::Gitea => "x-gitea-event",
        Scheme::Forgejo => "x-forgejo-event",
        Scheme::BitbucketCloud | Scheme::BitbucketDataCenter => "x-event-key",
        Scheme::Generic => "webhook-event",
    }
}

async fn store(
    app: &App,
    row: &HookRow,
    scheme: Scheme,
    headers: &HeaderMap,
    body: Vec<u8>,
    now: Timestamp,
) -> Result<Response, Problem> {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|v| v.to_str().ok());
        value.filter(|v| v.len() <= 200).map(str::to_owned)
    };
    let digest = Digest::of(&body).to_string();
    let event = text(event_header(scheme)).unwrap_or_default();
    let kept: serde_json::Map<String, serde_json::Value> = KEPT
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), text(name)?.into())))
        .collect();
    let id: DeliveryId = app.rng.id(now);
    let new = NewDelivery {
        id: id.clone(),
        hook_id: row.hook_id.parse().map_err(|_| not_authentic())?,
        // A sender without ids is still de-duplicated, by content.
        delivery_id: text(delivery_header(scheme)).unwrap_or_else(|| format!("body-{digest}")),
        event: event.clone(),
        body_digest: digest,
        headers: serde_json::Value::Object(kept).to_string(),
        body,
        received: now,
    };
    let recorded = app.db.record_delivery(new).await;
    let recorded = recorded.map_err(|error| not_durable(app, &error))?;
    app.health.recovered(PART);
    Ok(match recorded {
        Recorded::New => {
            app.inbox.announce(id.clone());
            answer(scheme, &event, &id)
        }
        Recorded::Duplicate(first) => repeated(&first, "duplicate"),
        Recorded::Collision(first) => {
            tracing::error!(delivery = %first.id, "two bodies under one delivery id; quarantined");
            repeated(&first, "quarantined")
        }
    })
}

fn answer(scheme: Scheme, event: &str, id: &DeliveryId) -> Response {
    let status = if is_ping(scheme, event) {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut body = json!({"delivery": id.as_str()});
    if !event.is_empty() && !is_known(scheme, event) {
        body["ignored"] = json!(format!("event `{event}` starts nothing"));
    }
    (status, axum::Json(body)).into_response()
}

fn repeated(first: &Delivery, state: &str) -> Response {
    let body = json!({"delivery": first.id, "state": state, "build_id": first.build_id});
    (StatusCode::OK, axum::Json(body)).into_response()
}

fn is_ping(scheme: Scheme, event: &str) -> bool {
    match scheme {
        Scheme::GitHub => event == "ping",
        Scheme::BitbucketDataCenter => event == "diagnostics:ping",
        _ => false,
    }
}

fn is_known(scheme: Scheme, event: &str) -> bool {
    match scheme {
        Scheme::GitHub => matches!(event, "ping" | "push" | "pull_request"),
        Scheme::GitLabToken | Scheme::GitLabSigned => {
            matches!(event, "Push Hook" | "Tag Push Hook" | "Merge Request Hook")
        }
        Scheme::Gitea | Scheme::Forgejo => {
            matches!(
                event,
                "push" | "delete" | "pull_request" | "pull_request_sync"
            )
        }
        Scheme::BitbucketCloud => {
            matches!(
                event,
                "repo:push" | "pullrequest:created" | "pullrequest:updated"
            )
        }
        Scheme::BitbucketDataCenter => matches!(
            event,
            "diagnostics:ping" | "repo:refs_changed" | "pr:opened" | "pr:from_ref_updated"
        ),
        Scheme::Generic => true,
    }
}

/// Reads a stored delivery.
///
/// # Errors
/// Why it cannot be used; the row is then quarantined and can be read again after an upgrade.
pub fn events(hook: &HookRow, delivery: &Delivery) -> Result<Vec<HostEvent>, Unusable> {
    let scheme = Scheme::parse(&hook.scheme)
        .ok_or_else(|| Unusable::Parse(format!("unknown scheme `{}`", hook.scheme)))?;
    let headers: serde_json::Value = serde_json::from_str(&delivery.headers)
        .map_err(|_| Unusable::Parse("the stored headers cannot be read".into()))?;
    let content_type = headers.get("content-type").and_then(|v| v.as_str());
    let inner = is_form(content_type).then(|| form_payload(&delivery.body));
    let body = match &inner {
        Some(Some(payload)) => payload.as_slice(),
        Some(None) => return Err(Unusable::Parse("the form has no single `payload`".into())),
        None => &delivery.body,
    };
    let event = delivery.event.as_str();
    if !event.is_empty() && !is_known(scheme, event) {
        return Ok(vec![HostEvent::Ignored(format!(
            "event `{event}` starts nothing"
        ))]);
    }
    let body = json::read(body).map_err(Unusable::Parse)?;
    let about = match scheme {
        Scheme::GitHub | Scheme::Generic => github::repository_id(&body),
        Scheme::GitLabToken | Scheme::GitLabSigned => gitlab::repository_id(&body),
        Scheme::Gitea | Scheme::Forgejo => gitea::repository_id(&body),
        Scheme::BitbucketCloud | Scheme::BitbucketDataCenter => bitbucket::repository_id(&body),
    };
    if let (Some(bound), Some(about)) = (&hook.host_repo_id, &about)
        && bound != about
    {
        return Err(Unusable::WrongRepository(about.clone()));
    }
    let one = |event: HostEvent| vec![event];
    match scheme {
        Scheme::GitHub => github::event(event, &body).map(one),
        Scheme::GitLabToken | Scheme::GitLabSigned => gitlab::event(event, &body).map(one),
        Scheme::Gitea | Scheme::Forgejo => gitea::event(event, &body).map(one),
        Scheme::BitbucketCloud => bitbucket::cloud(event, &body),
        Scheme::BitbucketDataCenter => bitbucket::data_center(event, &body),
        // Other senders speak GitHub's push.
        Scheme::Generic => github::event("push", &body).map(one),
    }
}

#[cfg(test)]
mod tests;
