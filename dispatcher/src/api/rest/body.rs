//! JSON bodies, read strictly, with answers that name the field.

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::api::problem::Problem;

/// Largest JSON body.
pub const BODY_MAX: usize = 1024 * 1024;

/// A JSON body.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.starts_with("application/json"));
        let bytes = to_bytes(request.into_body(), BODY_MAX).await.map_err(|_| {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "a request body is at most 1 MiB",
            )
        })?;
        if bytes.is_empty() {
            // Actions without details need no body.
            return read(b"{}").map(Self);
        }
        if !json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send `Content-Type: application/json`",
            ));
        }
        read(&bytes).map(Self)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|e| {
        if e.is_data() {
            // The reader's words name the field and the kind, never the value.
            let words = e.to_string();
            let words = words.split(" at line ").next().unwrap_or_default();
            let safe: String = words
                .split(": ")
                .last()
                .unwrap_or(words)
                .chars()
                .take(200)
                .collect();
            Problem::invalid("", "invalid_body", format!("the body does not fit: {safe}"))
        } else {
            let detail = format!(
                "the body is not JSON (line {}, column {})",
                e.line(),
                e.column()
            );
            Problem::new(StatusCode::BAD_REQUEST, "malformed_body", detail)
        }
    })
}
