//! Turborepo's remote cache, version 8: `/v8/artifacts/{hash}`.
//!
//! Team and slug of a request are not looked at: whose entries are read is the door's.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Door, body};

const SPACE: &str = "turborepo";
/// What comes with an artifact and goes back with it: how long it took, and its signature.
const KEPT: [&str; 4] = [
    "x-artifact-duration",
    "x-artifact-tag",
    "x-artifact-sha",
    "x-artifact-dirty-hash",
];
/// Bytes of one of them.
const KEPT_MAX: usize = 600;
/// Bytes of a report of hits and misses, which is not read.
const EVENTS_MAX: usize = 1 << 20;

pub(super) fn routes() -> Router<Arc<Door>> {
    let events = post(events).layer(DefaultBodyLimit::max(EVENTS_MAX));
    Router::new()
        .route("/v8/artifacts/status", get(status))
        .route("/v8/artifacts/events", events)
        .route("/v8/artifacts/{hash}", get(give).head(head).put(take))
}

async fn status() -> Json<Value> {
    Json(json!({"status": "enabled"}))
}

async fn events(_: Bytes) -> StatusCode {
    StatusCode::OK
}

async fn give(State(door): State<Arc<Door>>, Path(hash): Path<String>) -> Response {
    answer(&door, &hash, false).await
}

async fn head(State(door): State<Arc<Door>>, Path(hash): Path<String>) -> Response {
    answer(&door, &hash, true).await
}

async fn answer(door: &Arc<Door>, hash: &str, head: bool) -> Response {
    match door.find(SPACE, hash).await {
        Ok(entry) => {
            door.counted(true);
            let notes = entry.notes.iter();
            let notes: Vec<(HeaderName, String)> = notes
                .filter_map(|(name, value)| Some((name.parse().ok()?, value.clone())))
                .collect();
            body::give(door, &entry, head, &notes).await
        }
        Err(why) => {
            door.counted(false);
            why.answer()
        }
    }
}

async fn take(
    State(door): State<Arc<Door>>,
    Path(hash): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut notes = BTreeMap::new();
    for name in KEPT {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(value) = value.filter(|value| value.len() <= KEPT_MAX) {
            notes.insert(name.to_owned(), value.to_owned());
        }
    }
    match door.put((SPACE, &hash), &headers, body, notes).await {
        Ok(()) => {
            let mut answer = Response::new(Body::from(json!({"urls": []}).to_string()));
            *answer.status_mut() = StatusCode::ACCEPTED;
            let json = header::HeaderValue::from_static("application/json");
            answer.headers_mut().insert(header::CONTENT_TYPE, json);
            answer
        }
        Err(why) => why.answer(),
    }
}
