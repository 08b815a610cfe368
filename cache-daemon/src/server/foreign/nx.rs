//! Nx's self-hosted remote cache: `/v1/cache/{hash}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;

use super::{Door, Refused, done};

const SPACE: &str = "nx";

pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/v1/cache/{hash}", get(give).head(head).put(take))
}

async fn give(State(door): State<Arc<Door>>, Path(hash): Path<String>) -> Response {
    door.get(SPACE, &hash, false).await
}

async fn head(State(door): State<Arc<Door>>, Path(hash): Path<String>) -> Response {
    door.get(SPACE, &hash, true).await
}

async fn take(
    State(door): State<Arc<Door>>,
    Path(hash): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    // A record is never overwritten, and the client wants to hear that.
    if door.own.may_write().is_ok() && door.find(SPACE, &hash).await.is_ok() {
        return Refused::Exists.answer();
    }
    let taken = door.put((SPACE, &hash), &headers, body, BTreeMap::new());
    done(taken.await, StatusCode::OK)
}
