//! `Idempotency-Key` on POSTs: the same request gets the same answer, for a day.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use slipway_core::digest::Digest;
use slipway_store::IdempotencyClaim;

use super::body::BODY_MAX;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::state::App;

/// Longest key.
const KEY_MAX: usize = 255;
/// Largest answer that is kept.
const ANSWER_MAX: usize = 64 * 1024;

/// Lets a request with a key through once.
pub async fn once(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let key = request.headers().get("idempotency-key").cloned();
    let (Some(key), &Method::POST) = (key, request.method()) else {
        return next.run(request).await;
    };
    match keyed(&app, &key, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn keyed(
    app: &App,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let key = key
        .to_str()
        .ok()
        .filter(|k| !k.is_empty() && k.len() <= KEY_MAX);
    let key = key.ok_or_else(|| {
        Problem::invalid(
            "",
            "bad_idempotency_key",
            "an Idempotency-Key is 1–255 plain characters",
        )
    })?;
    let caller = request
        .extensions()
        .get::<Person>()
        .map_or_else(String::new, |p| p.caller.subject.clone());
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, BODY_MAX).await.map_err(|_| {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "a request body is at most 1 MiB",
        )
    })?;
    let request_hash = Digest::of(&[parts.uri.path().as_bytes(), b"\0", &bytes].concat());
    let now = app.clock.now();
    let claim = app
        .db
        .claim_idempotency(&caller, key, &request_hash.to_string(), now)
        .await?;
    match claim {
        IdempotencyClaim::Fresh => {}
        IdempotencyClaim::OtherRequest => {
            return Err(Problem::invalid(
                "",
                "idempotency_key_reused",
                "this Idempotency-Key was used for another request",
            ));
        }
        IdempotencyClaim::InFlight => {
            let mut problem =
                Problem::conflict("in_flight", "the first request is still under way");
            problem.retry_after = Some(1);
            return Err(problem);
        }
        IdempotencyClaim::Answered(status, body, location) => {
            return Ok(kept(status, body, location));
        }
    }
    let response = next
        .run(Request::from_parts(parts, Body::from(bytes)))
        .await;
    keep(app, &caller, key, response).await
}

fn kept(status: u16, body: String, location: Option<String>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (status, kind, body).into_response();
    if let Some(value) = location.and_then(|l| HeaderValue::from_str(&l).ok()) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// Only what succeeded is kept: a refused or failed request may be corrected and sent again.
async fn keep(app: &App, caller: &str, key: &str, response: Response) -> Result<Response, Problem> {
    let status = response.status();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, ANSWER_MAX).await.unwrap_or_default();
    let location = parts
        .headers
        .get(header::LOCATION)
        .and_then(|v| v.to_str().ok())
        .map(str::to_owned);
    let answer = status.is_success().then(|| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (status.as_u16(), text, location)
    });
    app.db.settle_idempotency(caller, key, answer).await?;
    Ok(Response::from_parts(parts, Body::from(bytes)))
}
