//! Bazel's HTTP cache: `/bazel/[instance/]cas/{sha256}` and `/bazel/[instance/]ac/{key}`.
//!
//! Content is checked against its name when it comes. An action's result is given only when everything that
//! it names is here: a client that was told of a hit does not make what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use prost::Message;

use super::{Door, Refused, body, done};
use crate::store::ForeignEntry as Entry;

const CAS: &str = "bazel/cas";
const AC: &str = "bazel/ac";
/// SHA-256 of nothing, which clients take for granted and do not send.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Bytes of an action's result, and of the listing of a folder that it names.
const RESULT_MAX: u64 = 4 << 20;
const TREE_MAX: u64 = 16 << 20;
/// Contents that one result may name: all of them are looked for.
const NAMED_MAX: usize = 20_000;

pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/bazel/{*rest}", any(asked))
}

/// `cas` or `ac`, and the key there; an instance is part of an action's key, and of no content's.
fn name_of(rest: &str) -> Option<(&'static str, String)> {
    let (before, last) = rest.rsplit_once('/')?;
    let (instance, space) = before.rsplit_once('/').unwrap_or(("", before));
    let digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    match space {
        "cas" if last.len() == 64 && last.chars().all(digit) => Some((CAS, last.to_owned())),
        "ac" if instance.is_empty() => Some((AC, last.to_owned())),
        "ac" => Some((AC, format!("{instance}/{last}"))),
        _ => None,
    }
}

async fn asked(
    State(door): State<Arc<Door>>,
    Path(rest): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some((space, key)) = name_of(&rest) else {
        return Refused::Nonsense("neither cas/<sha256> nor ac/<key>").answer();
    };
    let head = method == Method::HEAD;
    match (space, method.as_str()) {
        (CAS, "GET" | "HEAD") if key == EMPTY => done(Ok(()), StatusCode::OK),
        (CAS, "GET" | "HEAD") => door.get(CAS, &key, head).await,
        (_, "GET" | "HEAD") => match whole(&door, &key).await {
            Ok(entry) => {
                door.counted(true);
                body::give(&door, &entry, head, &[]).await
            }
            Err(why) => {
                door.counted(false);
                why.answer()
            }
        },
        (CAS, "PUT") => done(content(&door, &key, &headers, body).await, StatusCode::OK),
        (_, "PUT") => done(result(&door, &key, &headers, body).await, StatusCode::OK),
        _ => Refused::Nonsense("this is not asked of a cache").answer(),
    }
}

async fn content(
    door: &Arc<Door>,
    sha256: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(), Refused> {
    let stored = body::receive(door, headers, body, Some(sha256)).await?;
    door.own.put((CAS, sha256), stored, BTreeMap::new())?;
    door.store.counters().foreign_puts.inc();
    Ok(())
}

async fn result(
    door: &Arc<Door>,
    key: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(), Refused> {
    door.put((AC, key), headers, body, BTreeMap::new()).await?;
    let entry = door.find(AC, key).await?;
    let read = match entry.size {
        0..=RESULT_MAX => body::small(door, &entry).await,
        _ => None,
    };
    let read = read.and_then(|bytes| ActionResult::decode(bytes.as_slice()).ok());
    if read.is_none() {
        door.own.remove(AC, key);
        return Err(Refused::Nonsense("this is no result of an action"));
    }
    Ok(())
}

/// The entry of a result, when everything that it names is here.
async fn whole(door: &Arc<Door>, key: &str) -> Result<Entry, Refused> {
    let entry = door.find(AC, key).await?;
    let (asking, found) = (Arc::clone(door), entry.clone());
    let looking = tokio::task::spawn_blocking(move || is_whole(&asking, &found));
    match tokio::time::timeout(door.limits.lookup, looking).await {
        Ok(Ok(true)) => Ok(entry),
        _ => Err(Refused::Miss),
    }
}

fn is_whole(door: &Door, entry: &Entry) -> bool {
    let read = |entry: &Entry, most: u64| door.store.get(&entry.blob, most).ok();
    let find = |digest: &ContentDigest| door.own.find(&door.store, CAS, &digest.hash);
    let result = read(entry, RESULT_MAX);
    let Some(result) = result.and_then(|b| ActionResult::decode(b.as_slice()).ok()) else {
        return false;
    };
    let mut named: Vec<ContentDigest> = result
        .output_files
        .into_iter()
        .filter_map(|f| f.digest)
        .collect();
    named.extend(result.stdout_digest);
    named.extend(result.stderr_digest);
    for folder in result.output_directories {
        let Some(digest) = folder.tree_digest else {
            return false;
        };
        let tree = find(&digest).and_then(|entry| read(&entry, TREE_MAX));
        let Some(tree) = tree.and_then(|b| Tree::decode(b.as_slice()).ok()) else {
            return false;
        };
        let folders = tree.root.into_iter().chain(tree.children);
        named.extend(folders.flat_map(|f| f.files).filter_map(|f| f.digest));
        if named.len() > NAMED_MAX {
            return false;
        }
    }
    let mut seen = BTreeSet::new();
    named.iter().all(|digest| {
        let empty = digest.size_bytes == 0 || digest.hash == EMPTY;
        let again = !seen.insert(digest.hash.as_str());
        let size = u64::try_from(digest.size_bytes).ok();
        empty || again || find(digest).is_some_and(|entry| Some(entry.size) == size)
    })
}

// As much of Bazel's remote execution API, version 2, as says what a result names.

#[derive(Clone, PartialEq, Message)]
struct ContentDigest {
    #[prost(string, tag = "1")]
    hash: String,
    #[prost(int64, tag = "2")]
    size_bytes: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ActionResult {
    #[prost(message, repeated, tag = "2")]
    output_files: Vec<OutputFile>,
    #[prost(message, repeated, tag = "3")]
    output_directories: Vec<OutputDirectory>,
    #[prost(message, optional, tag = "6")]
    stdout_digest: Option<ContentDigest>,
    #[prost(message, optional, tag = "8")]
    stderr_digest: Option<ContentDigest>,
}

#[derive(Clone, PartialEq, Message)]
struct OutputFile {
    #[prost(message, optional, tag = "2")]
    digest: Option<ContentDigest>,
}

#[derive(Clone, PartialEq, Message)]
struct OutputDirectory {
    #[prost(message, optional, tag = "3")]
    tree_digest: Option<ContentDigest>,
}

#[derive(Clone, PartialEq, Message)]
struct Tree {
    #[prost(message, optional, tag = "1")]
    root: Option<Directory>,
    #[prost(message, repeated, tag = "2")]
    children: Vec<Directory>,
}

#[derive(Clone, PartialEq, Message)]
struct Directory {
    #[prost(message, repeated, tag = "1")]
    files: Vec<FileNode>,
}

#[derive(Clone, PartialEq, Message)]
struct FileNode {
    #[prost(message, optional, tag = "2")]
    digest: Option<ContentDigest>,
}
