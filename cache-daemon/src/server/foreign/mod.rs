//! Doors for other build tools: HTTP in their own protocols over one store, a door per attempt.
//!
//! Owns who may come in (the token of this one attempt), what everybody may ask at once and for how long,
//! and how a refusal looks. A file per protocol, each a thin layer: names become entries, entries become
//! answers. What is not known, not readable or not whole is a miss. Whose entries are read and written comes
//! from the agent with the door (`own`), and never from a request.

mod bazel;
mod body;
mod ccache;
mod gradle;
mod nx;
mod own;
mod table;
mod turborepo;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use base64::Engine as _;
use slipway_core::cache::remote;
use slipway_daemon::{Clock, Shutdown};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Store;
use crate::store::ForeignEntry as Entry;
use own::Own;
pub(crate) use table::{Doors, OpenError, Wanted};

/// What one door bears.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Requests at once; others wait for `turn`.
    pub(crate) requests: usize,
    /// How long.
    pub(crate) turn: Duration,
    /// A question that takes longer is a miss: tools wait for a minute, and builds with them.
    pub(crate) lookup: Duration,
    /// Bytes of one body.
    pub(crate) body_max: u64,
    /// Bodies coming in at once, of one door.
    pub(crate) bodies: usize,
    /// A client that neither sends nor reads for so long is gone.
    pub(crate) pause: Duration,
    /// Time of one body, beside what its bytes may take.
    pub(crate) body: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests: 64,
            turn: Duration::from_secs(2),
            lookup: Duration::from_secs(1),
            body_max: remote::ENTRY_MAX,
            bodies: 16,
            pause: Duration::from_secs(20),
            body: Duration::from_secs(60),
        }
    }
}

/// The open door of one attempt.
pub(crate) struct Door {
    store: Arc<Store>,
    clock: Clock,
    own: Own,
    /// Of the token: it is nowhere in memory as it is.
    token: blake3::Hash,
    limits: Limits,
    requests: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    /// Of all doors together: each body holds a thread.
    all_bodies: Arc<Semaphore>,
    shutdown: Shutdown,
    hits: AtomicU64,
    misses: AtomicU64,
    refused: AtomicU64,
}

/// Why a request gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no such entry for this attempt.
    Miss,
    /// No token, or another one.
    Stranger,
    /// Nothing is written by this attempt.
    ReadOnly,
    /// The key, or what it names, is no key.
    Nonsense(&'static str),
    /// The body is longer than an entry may be.
    TooLarge,
    /// The body is not what its name says.
    Mismatch,
    /// The body comes too slowly.
    Slow,
    /// The body broke off.
    Cut,
    /// The store, or this attempt's part of it, is full.
    Full,
    /// It is there, where the protocol wants to hear that.
    Exists,
    /// Too many at once.
    Busy,
    /// The attempt is over.
    Closed,
    /// The disk, or this program.
    Broken,
}

impl Refused {
    fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::Miss => (StatusCode::NOT_FOUND, "there is no such entry"),
            Self::Stranger => (StatusCode::UNAUTHORIZED, "the token is not this attempt's"),
            Self::ReadOnly => (StatusCode::FORBIDDEN, "this stage only reads the cache"),
            Self::Nonsense(why) => (StatusCode::BAD_REQUEST, why),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "an entry is at most 2 GiB large",
            ),
            Self::Mismatch => (
                StatusCode::BAD_REQUEST,
                "the bytes are not what their name says",
            ),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "the body comes too slowly"),
            Self::Cut => (StatusCode::BAD_REQUEST, "the body broke off"),
            Self::Full => (
                StatusCode::INSUFFICIENT_STORAGE,
                "the cache, or this stage's part of it, is full",
            ),
            Self::Exists => (StatusCode::CONFLICT, "it is there already"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many requests at once"),
            Self::Closed => (StatusCode::GONE, "the attempt is over"),
            Self::Broken => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "the cache cannot keep this now",
            ),
        }
    }

    /// As JSON with a `code`, which some tools show to people; the others do not read it.
    fn answer(self) -> Response {
        let (status, message) = self.status();
        let told = serde_json::json!({"error": {"code": format!("{status}"), "message": message}});
        let mut answer = Response::new(Body::from(told.to_string()));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if self == Self::Stranger {
            // Without it some clients never send what they have.
            let ask = HeaderValue::from_static("Basic realm=\"cache\"");
            headers.insert(header::WWW_AUTHENTICATE, ask);
        }
        answer
    }
}

impl Door {
    /// The entry of this name, if it is found in time.
    async fn find(self: &Arc<Self>, space: &'static str, key: &str) -> Result<Entry, Refused> {
        if let Some(problem) = remote::key_problem(key) {
            return Err(Refused::Nonsense(problem));
        }
        let (door, key) = (Arc::clone(self), key.to_owned());
        let looking = tokio::task::spawn_blocking(move || door.own.find(&door.store, space, &key));
        match tokio::time::timeout(self.limits.lookup, looking).await {
            Ok(Ok(Some(entry))) => Ok(entry),
            _ => Err(Refused::Miss),
        }
    }

    fn counted(&self, hit: bool) {
        let (mine, all) = if hit {
            (&self.hits, &self.store.counters().foreign_hits)
        } else {
            (&self.misses, &self.store.counters().foreign_misses)
        };
        mine.fetch_add(1, Ordering::Relaxed);
        all.inc();
    }

    /// What a GET or HEAD of an entry is answered.
    async fn get(self: &Arc<Self>, space: &'static str, key: &str, head: bool) -> Response {
        match self.find(space, key).await {
            Ok(entry) => {
                self.counted(true);
                body::give(self, &entry, head, &[]).await
            }
            Err(why) => {
                self.counted(false);
                why.answer()
            }
        }
    }

    /// Takes a body as the entry of this name.
    async fn put(
        self: &Arc<Self>,
        (space, key): (&'static str, &str),
        headers: &HeaderMap,
        body: Body,
        notes: BTreeMap<String, String>,
    ) -> Result<(), Refused> {
        self.own.may_write()?;
        if let Some(problem) = remote::key_problem(key) {
            return Err(Refused::Nonsense(problem));
        }
        let stored = body::receive(self, headers, body, None).await?;
        self.own.put((space, key), stored, notes)?;
        self.store.counters().foreign_puts.inc();
        Ok(())
    }

    /// A place among the bodies that come in now.
    async fn place_for_body(&self) -> Result<[OwnedSemaphorePermit; 2], Refused> {
        let waiting = async {
            let mine = Arc::clone(&self.bodies).acquire_owned().await;
            let all = Arc::clone(&self.all_bodies).acquire_owned().await;
            mine.and_then(|mine| Ok([mine, all?]))
        };
        match tokio::time::timeout(self.limits.pause, waiting).await {
            Ok(Ok(places)) => Ok(places),
            _ => Err(Refused::Busy),
        }
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION);
        let token = shown.and_then(|shown| token_of(shown.to_str().ok()?));
        // Hashes are compared in constant time.
        token.is_some_and(|token| blake3::hash(token.as_bytes()) == self.token)
    }
}

/// The token of `Bearer …`, or the password of `Basic …`: some tools have no other words.
fn token_of(shown: &str) -> Option<String> {
    let (scheme, rest) = shown.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = base64::engine::general_purpose::STANDARD.decode(rest.trim());
    let pair = String::from_utf8(pair.ok()?).ok()?;
    pair.split_once(':')
        .map(|(_, password)| password.to_owned())
}

/// The first thing every request meets.
async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let refused = |why: Refused| {
        door.refused.fetch_add(1, Ordering::Relaxed);
        why.answer()
    };
    if !door.knows(request.headers()) {
        return refused(Refused::Stranger);
    }
    let turn = Arc::clone(&door.requests).acquire_owned();
    let Ok(Ok(_turn)) = tokio::time::timeout(door.limits.turn, turn).await else {
        return refused(Refused::Busy);
    };
    let answer = next.run(request).await;
    let status = answer.status();
    if status.is_client_error() && status != StatusCode::NOT_FOUND {
        door.refused.fetch_add(1, Ordering::Relaxed);
    }
    answer
}

/// `Ok` without a body, or the refusal.
fn done(outcome: Result<(), Refused>, status: StatusCode) -> Response {
    match outcome {
        Ok(()) => {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = status;
            answer
        }
        Err(why) => why.answer(),
    }
}

async fn unknown() -> Response {
    Refused::Miss.answer()
}

/// All protocols behind one door.
fn router(door: Arc<Door>) -> Router {
    Router::new()
        .merge(turborepo::routes())
        .merge(nx::routes())
        .merge(ccache::routes())
        .merge(bazel::routes())
        .merge(gradle::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(&door), guard))
        .with_state(door)
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;

#[cfg(test)]
mod hostile_tests;
