//! Doors asked over real connections, byte by byte, as their tools do.
use std::collections::BTreeMap;
use std::net::SocketAddr;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use slipway_core::time::Timestamp;
use slipway_proto::v1::CacheScope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::blobs::Disk;
use crate::index::MemoryIndex;

pub(super) const MIB: usize = 1 << 20;
/// How long a test waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct World {
    _folder: tempfile::TempDir,
    pub(super) clock: Clock,
    pub(super) doors: Doors,
}

/// A door and what opens it.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) attempt: String,
    pub(super) at: SocketAddr,
    pub(super) token: String,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(super) fn scope(read: &[&str], write: &str) -> CacheScope {
    CacheScope {
        read: read.iter().map(|name| (*name).to_owned()).collect(),
        write: write.to_owned(),
        trusted: write.ends_with("trusted"),
    }
}

pub(super) fn trusted() -> CacheScope {
    scope(&["r/trusted"], "r/trusted")
}

pub(super) fn short() -> Limits {
    Limits {
        body_max: 4 * MIB as u64,
        pause: Duration::from_millis(300),
        turn: Duration::from_millis(300),
        requests: 4,
        lookup: Duration::from_secs(10),
        ..Limits::default()
    }
}

pub(super) fn world_with(limits: Limits, quota: u64) -> World {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let disk = Disk::open(folder.path(), Arc::new(MemoryIndex::default()), quota);
    let store = Arc::new(Store::open(disk.unwrap(), clock.clone()));
    store.list();
    let doors = Doors::new(store, limits, Shutdown::new());
    World {
        _folder: folder,
        clock,
        doors,
    }
}

pub(super) fn world() -> World {
    world_with(short(), 10 << 30)
}

impl World {
    pub(super) async fn open(&self, attempt: &str, scope: CacheScope, read_only: bool) -> Key {
        let token = format!("{attempt}-{}", "t".repeat(40));
        let wanted = Wanted {
            attempt: attempt.to_owned(),
            address: "127.0.0.1".parse().unwrap(),
            token: token.clone(),
            scope,
            read_only,
        };
        let at = self.doors.open(wanted).await.unwrap();
        Key {
            attempt: attempt.to_owned(),
            at,
            token,
        }
    }

    pub(super) async fn passed(&self, key: &Key) -> u64 {
        self.doors.close(&key.attempt);
        self.doors.settle(&key.attempt, true).await
    }
}

impl Key {
    pub(super) fn head(&self, method: &str, path: &str, more: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {}\r\n{more}\r\n",
            self.token
        )
    }

    pub(super) async fn ask(&self, method: &str, path: &str) -> Answer {
        exchange(self.at, self.head(method, path, "").as_bytes()).await
    }

    pub(super) async fn put(&self, path: &str, body: &[u8]) -> Answer {
        let length = format!("Content-Length: {}\r\n", body.len());
        let mut all = self.head("PUT", path, &length).into_bytes();
        all.extend_from_slice(body);
        exchange(self.at, &all).await
    }

    pub(super) async fn status(&self, path: &str) -> u16 {
        self.ask("GET", path).await.status
    }
}

pub(super) async fn exchange(at: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // A refusal may come before everything was sent.
    let _refused_early = stream.write_all(request).await;
    answer(&mut stream).await
}

pub(super) async fn answer(stream: &mut TcpStream) -> Answer {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    let _reset_after_the_answer = read.expect("an answer in time");
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Answer {
        status: status.unwrap_or(0),
        head: head.to_lowercase(),
        body: all.get(end + 4..).unwrap_or_default().to_vec(),
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// One path of every protocol.
pub(super) fn everywhere() -> Vec<String> {
    let hash = sha256(b"content");
    vec![
        "/v8/artifacts/0123abcd".to_owned(),
        "/v1/cache/0123abcd".to_owned(),
        "/ccache/ab/cdef0123R".to_owned(),
        "/sccache/a/b/c/abc0123".to_owned(),
        "/cache/0123abcd".to_owned(),
        format!("/bazel/cas/{hash}"),
    ]
}

#[tokio::test]
async fn each_tool_misses_puts_and_hits_and_the_next_attempt_hits_once_the_first_one_passed() {
    let world = world();
    let first = world.open("A-1", trusted(), false).await;
    for path in everywhere() {
        assert_eq!(first.status(&path).await, 404, "{path}");
        let put = first.put(&path, b"content").await;
        assert!((200..300).contains(&put.status), "{path}: {}", put.text());
        let got = first.ask("GET", &path).await;
        assert_eq!(
            (got.status, got.body.as_slice()),
            (200, &b"content"[..]),
            "{path}"
        );
        let head = first.ask("HEAD", &path).await;
        assert!(
            head.status == 200 && head.head.contains("content-length: 7"),
            "{path}"
        );
    }
    let beside = world.open("B-1", trusted(), false).await;
    for path in everywhere() {
        assert_eq!(
            beside.status(&path).await,
            404,
            "it has not passed yet: {path}"
        );
    }
    let closed = world.doors.close("A-1").unwrap();
    assert_eq!((closed.entries, closed.hits, closed.misses), (6, 12, 6));
    assert_eq!(world.doors.settle("A-1", true).await, 6);
    for path in everywhere() {
        assert_eq!(beside.ask("GET", &path).await.body, b"content", "{path}");
    }
}

#[tokio::test]
async fn what_a_failed_attempt_left_is_thrown_away_and_the_first_one_to_pass_stays() {
    let world = world();
    let failed = world.open("A-1", trusted(), false).await;
    failed.put("/cache/k", b"failed").await;
    world.doors.close("A-1");
    assert_eq!(world.doors.settle("A-1", false).await, 0);
    let second = world.open("A-2", trusted(), false).await;
    let third = world.open("B-1", trusted(), false).await;
    assert_eq!(second.status("/cache/k").await, 404);
    second.put("/cache/k", b"second").await;
    third.put("/cache/k", b"third").await;
    assert_eq!(third.ask("GET", "/cache/k").await.body, b"third", "its own");
    assert_eq!(world.passed(&second).await, 1);
    assert_eq!(world.passed(&third).await, 0);
    let fourth = world.open("C-1", trusted(), false).await;
    assert_eq!(fourth.ask("GET", "/cache/k").await.body, b"second");
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(message, optional, tag = "2")]
    digest: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Content {
    #[prost(string, tag = "1")]
    hash: String,
    #[prost(int64, tag = "2")]
    size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Outcome {
    #[prost(message, repeated, tag = "2")]
    files: Vec<Named>,
    #[prost(message, repeated, tag = "3")]
    folders: Vec<Folder>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Folder {
    #[prost(message, optional, tag = "3")]
    tree: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Listing {
    #[prost(message, optional, tag = "1")]
    root: Option<Files>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Files {
    #[prost(message, repeated, tag = "1")]
    files: Vec<Named>,
}

fn content(bytes: &[u8]) -> Content {
    Content {
        hash: sha256(bytes),
        size: bytes.len() as i64,
    }
}

fn named(bytes: &[u8]) -> Named {
    Named {
        digest: Some(content(bytes)),
    }
}

#[tokio::test]
async fn a_result_is_a_hit_only_while_everything_that_it_names_is_here() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let listing = Listing {
        root: Some(Files {
            files: vec![named(b"inner")],
        }),
    };
    let listing = listing.encode_to_vec();
    let result = Outcome {
        files: vec![named(b"made"), named(b"")],
        folders: vec![Folder {
            tree: Some(content(&listing)),
        }],
    };
    let path = format!("/bazel/ac/{}", sha256(b"action"));
    assert_eq!(key.put(&path, &result.encode_to_vec()).await.status, 200);
    for part in [&b"made"[..], &listing, b"inner"] {
        assert_eq!(key.status(&path).await, 404, "not everything is there");
        let put = key.put(&format!("/bazel/cas/{}", sha256(part)), part).await;
        assert_eq!(put.status, 200);
    }
    assert_eq!(key.status(&path).await, 200);
    let lie = Outcome {
        files: vec![Named {
            digest: Some(Content {
                hash: sha256(b"made"),
                size: 5,
            }),
        }],
        folders: Vec::new(),
    };
    let lying = format!("/bazel/ac/{}", sha256(b"lie"));
    assert_eq!(key.put(&lying, &lie.encode_to_vec()).await.status, 200);
    assert_eq!(key.status(&lying).await, 404);
    let nonsense = key.put("/bazel/ac/n", &[0xff_u8; 40]).await;
    assert_eq!(nonsense.status, 400);
    assert_eq!(key.status("/bazel/ac/n").await, 404);
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let mut stream = TcpStream::connect(key.at).await.unwrap();
    let more = "Content-Length: 7\r\nExpect: 100-continue\r\n";
    let head = key.head("PUT", "/cache/k", more);
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut asked)).await;
    read.unwrap().unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"));
    stream.write_all(b"content").await.unwrap();
    assert!(answer(&mut stream).await.head.contains("201"));
    assert_eq!(key.ask("GET", "/cache/k").await.body, b"content");
}

#[tokio::test]
async fn a_stage_that_may_only_read_is_told_so() {
    let world = world();
    let first = world.open("A-1", trusted(), false).await;
    for path in everywhere() {
        first.put(&path, b"content").await;
    }
    world.passed(&first).await;
    let reader = world.open("B-1", trusted(), true).await;
    for path in everywhere() {
        assert_eq!(reader.status(&path).await, 200, "{path}");
        assert_eq!(reader.put(&path, b"content").await.status, 403, "{path}");
    }
    assert_eq!(world.passed(&reader).await, 0);
}

#[tokio::test]
async fn a_closed_door_takes_and_gives_nothing() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    key.put("/cache/k", b"content").await;
    let head = key.head("PUT", "/cache/late", "Content-Length: 100\r\n");
    let mut late = TcpStream::connect(key.at).await.unwrap();
    late.write_all(head.as_bytes()).await.unwrap();
    late.write_all(b"begin").await.unwrap();
    assert_eq!(world.doors.close("A-1").unwrap().entries, 1);
    let refused = async {
        while TcpStream::connect(key.at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(matches!(answer(&mut late).await.status, 410 | 0));
    assert_eq!(
        world.doors.settle("A-1", true).await,
        1,
        "what came before stays"
    );
    assert_eq!(world.doors.close("A-1"), None);
}

#[tokio::test]
async fn a_door_that_nobody_renews_is_closed_and_what_came_is_thrown_away() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let kept = world.open("B-1", trusted(), false).await;
    key.put("/cache/k", b"content").await;
    world.clock.advance(Duration::from_secs(590));
    world.doors.renew(&["B-1".to_owned()]);
    world.clock.advance(Duration::from_secs(20));
    world.doors.close_left_alone().await;
    assert_eq!(world.doors.close("A-1"), None);
    assert_eq!(kept.status("/cache/k").await, 404);
}

#[tokio::test]
async fn turborepo_gets_back_what_it_said_and_a_word_that_it_may() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let status = key.ask("GET", "/v8/artifacts/status?slug=x").await;
    assert_eq!(status.text(), r#"{"status":"enabled"}"#);
    let more = "Content-Length: 3\r\nx-artifact-duration: 1234\r\nx-artifact-tag: dGFn\r\n";
    let put = key.head("PUT", "/v8/artifacts/abc?slug=x", more) + "tar";
    assert_eq!(exchange(key.at, put.as_bytes()).await.status, 202);
    let got = key.ask("GET", "/v8/artifacts/abc?teamId=y").await;
    for said in ["x-artifact-duration: 1234", "x-artifact-tag: dgfn"] {
        assert!(got.head.contains(said), "{}", got.head);
    }
    let events = key.head("POST", "/v8/artifacts/events", "Content-Length: 2\r\n") + "[]";
    assert_eq!(exchange(key.at, events.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn nx_hears_that_a_record_is_there_already() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    assert_eq!(key.put("/v1/cache/a", b"tar").await.status, 200);
    assert_eq!(key.put("/v1/cache/a", b"other").await.status, 409);
    assert_eq!(key.ask("GET", "/v1/cache/a").await.body, b"tar");
}

#[tokio::test]
async fn webdav_has_every_folder_and_the_length_of_every_file() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    assert_eq!(key.ask("PROPFIND", "/sccache/").await.status, 207);
    assert_eq!(key.ask("PROPFIND", "/sccache/a/b/").await.status, 207);
    assert_eq!(key.ask("MKCOL", "/sccache/a/b/").await.status, 201);
    assert_eq!(key.ask("PROPFIND", "/sccache/a/b/ab1").await.status, 404);
    key.put("/sccache/a/b/ab1", b"object").await;
    let found = key.ask("PROPFIND", "/sccache/a/b/ab1").await;
    assert!(
        found.text().contains("<D:getcontentlength>6<"),
        "{}",
        found.text()
    );
    let strange = key.ask("PROPFIND", "/sccache/%3Cx%3E/").await;
    assert!(!strange.text().contains("<x>"), "{}", strange.text());
    assert_eq!(key.ask("DELETE", "/sccache/a/b/ab1").await.status, 204);
    assert_eq!(key.status("/sccache/a/b/ab1").await, 404);
}

#[tokio::test]
async fn nobody_opens_a_door_where_everybody_could_come_in() {
    let world = world();
    let open = |attempt: &str, address: &str, token: &str| Wanted {
        attempt: attempt.to_owned(),
        address: address.parse().unwrap(),
        token: token.to_owned(),
        scope: trusted(),
        read_only: false,
    };
    let good = "t".repeat(40);
    for wanted in [
        open("A-1", "0.0.0.0", &good),
        open("A-1", "::", &good),
        open("A-1", "224.0.0.1", &good),
        open("A-1", "203.0.113.77", &good),
        open("A-1", "127.0.0.1", "short"),
        open("", "127.0.0.1", &good),
        open("../x", "127.0.0.1", &good),
    ] {
        assert!(world.doors.open(wanted).await.is_err());
    }
}

#[test]
fn a_refusal_says_nothing_but_why() {
    let all = BTreeMap::from([(404, Refused::Miss), (401, Refused::Stranger)]);
    for (status, why) in all {
        assert_eq!(why.answer().status().as_u16(), status);
    }
}
