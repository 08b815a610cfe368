//! Compiler caches: ccache over HTTP (`/ccache/{key}`) and sccache over WebDAV (`/sccache/{key}`).
//!
//! Of WebDAV there is as much as a client asks before it reads and writes: every folder is there, a file
//! has a length and an age.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::any;

use super::{Door, Refused, done};

const CCACHE: &str = "ccache";
const SCCACHE: &str = "sccache";
/// Nobody keeps one; clients insist on one.
const AGE: &str = "Sat, 01 Jan 2000 00:00:00 GMT";

pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/ccache/{*key}", any(ccache))
        .route("/sccache", any(folder))
        .route("/sccache/", any(folder))
        .route("/sccache/{*key}", any(sccache))
}

async fn ccache(
    State(door): State<Arc<Door>>,
    Path(key): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    plain(&door, (CCACHE, &key), &method, &headers, body).await
}

async fn plain(
    door: &Arc<Door>,
    (space, key): (&'static str, &str),
    method: &Method,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    match method.as_str() {
        "GET" => door.get(space, key, false).await,
        "HEAD" => door.get(space, key, true).await,
        "PUT" => {
            let taken = door.put((space, key), headers, body, BTreeMap::new());
            done(taken.await, StatusCode::CREATED)
        }
        // Its own alone: what others read stays.
        "DELETE" => match door.own.may_write() {
            Ok(()) if door.own.remove(space, key) => done(Ok(()), StatusCode::NO_CONTENT),
            Ok(()) => Refused::Miss.answer(),
            Err(why) => why.answer(),
        },
        _ => Refused::Nonsense("this is not asked of a cache").answer(),
    }
}

async fn sccache(
    State(door): State<Arc<Door>>,
    Path(key): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match method.as_str() {
        "MKCOL" => made(&door),
        "PROPFIND" if key.ends_with('/') => multistatus(&key, None),
        "PROPFIND" => match door.find(SCCACHE, &key).await {
            Ok(entry) => multistatus(&key, Some(entry.size)),
            Err(why) => why.answer(),
        },
        _ => plain(&door, (SCCACHE, &key), &method, &headers, body).await,
    }
}

async fn folder(State(door): State<Arc<Door>>, method: Method) -> Response {
    match method.as_str() {
        "MKCOL" => made(&door),
        "PROPFIND" => multistatus("", None),
        _ => Refused::Miss.answer(),
    }
}

fn made(door: &Door) -> Response {
    done(door.own.may_write(), StatusCode::CREATED)
}

/// What WebDAV says of one thing; without a size it is a folder.
fn multistatus(key: &str, size: Option<u64>) -> Response {
    // A folder's name was not looked at: what could be more than a name stays out of the answer.
    let folder = key.trim_end_matches('/');
    let href = if slipway_core::cache::remote::key_problem(folder).is_none() {
        key
    } else {
        ""
    };
    let what = match size {
        Some(size) => format!("<D:getcontentlength>{size}</D:getcontentlength><D:resourcetype/>"),
        None => "<D:resourcetype><D:collection/></D:resourcetype>".to_owned(),
    };
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\"><D:response>\
         <D:href>/sccache/{href}</D:href><D:propstat><D:prop>\
         <D:getlastmodified>{AGE}</D:getlastmodified>{what}</D:prop>\
         <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>\n"
    );
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = StatusCode::MULTI_STATUS;
    let xml = HeaderValue::from_static("application/xml; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, xml);
    answer
}
