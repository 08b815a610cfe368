//! Gradle's HTTP build cache: `/cache/{key}`. `Expect: 100-continue` is answered by the listener once the
//! body is read, so what is refused by its length is never sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;

use super::{Door, done};

const SPACE: &str = "gradle";

pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/cache/{key}", get(give).head(head).put(take))
}

async fn give(State(door): State<Arc<Door>>, Path(key): Path<String>) -> Response {
    door.get(SPACE, &key, false).await
}

async fn head(State(door): State<Arc<Door>>, Path(key): Path<String>) -> Response {
    door.get(SPACE, &key, true).await
}

async fn take(
    State(door): State<Arc<Door>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let taken = door.put((SPACE, &key), &headers, body, BTreeMap::new());
    done(taken.await, StatusCode::CREATED)
}
