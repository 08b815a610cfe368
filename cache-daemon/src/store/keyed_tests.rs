//! Entries by key: kept once, found by whom they are for, gone with their content.
use std::sync::Arc;
use std::time::Duration;

use slipway_core::cache::eviction::Kind;
use slipway_core::time::Timestamp;
use slipway_daemon::Clock;

use super::*;
use crate::blobs::Disk;
use crate::index::MemoryIndex;

struct World {
    folder: tempfile::TempDir,
    clock: Clock,
    store: Store,
    paths: Vec<String>,
    next: std::cell::Cell<u32>,
}

fn open(folder: &Path, quota: u64, clock: &Clock) -> Store {
    let disk = Disk::open(
        &folder.join("cache"),
        Arc::new(MemoryIndex::default()),
        quota,
    );
    let store = Store::open(disk.unwrap(), clock.clone());
    store.list();
    store
}

fn world(quota: u64) -> World {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let store = open(folder.path(), quota, &clock);
    World {
        folder,
        clock,
        store,
        paths: vec!["deps/x".to_owned(), "target".to_owned()],
        next: std::cell::Cell::new(0),
    }
}

impl World {
    fn dir(&self) -> PathBuf {
        self.next.set(self.next.get() + 1);
        let dir = self.folder.path().join(format!("w{}", self.next.get()));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn keys<'a>(&'a self, scopes: &'a [String], key: &'a str, prefixes: &'a [String]) -> Keys<'a> {
        Keys {
            scopes,
            key,
            restore_keys: prefixes,
            paths: &self.paths,
        }
    }

    fn save(&self, scopes: &[&str], key: &str, text: &[u8]) -> Result<Saved, StoreError> {
        let dir = self.dir();
        std::fs::create_dir_all(dir.join("target/deep")).unwrap();
        std::fs::create_dir_all(dir.join("deps/x")).unwrap();
        std::fs::write(dir.join("target/deep/file"), text).unwrap();
        std::fs::write(dir.join("deps/not-kept"), "n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join("target/out")).unwrap();
        self.save_from(&dir, scopes, key)
    }

    fn save_from(&self, dir: &Path, scopes: &[&str], key: &str) -> Result<Saved, StoreError> {
        let scopes: Vec<String> = scopes.iter().map(|s| (*s).to_owned()).collect();
        self.store.save_keyed(Keep {
            directory: dir,
            keys: self.keys(&scopes, key, &[]),
            scope: &scopes[0],
            trusted: !scopes[0].contains("outside"),
        })
    }

    /// What a stage begins with: the key that was found, and its file.
    fn find(&self, scopes: &[&str], key: &str, prefixes: &[&str]) -> Option<(String, String)> {
        let texts = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let dir = self.dir();
        let (scopes, prefixes) = (texts(scopes), texts(prefixes));
        let keys = self.keys(&scopes, key, &prefixes);
        let hit = self.store.restore_keyed(&dir, keys, "stage-1-cache-0");
        let hit = hit.unwrap()?;
        assert!(!dir.join("target/out").exists() && !dir.join("deps/not-kept").exists());
        assert!(dir.join("deps/x").is_dir());
        let text = std::fs::read_to_string(dir.join("target/deep/file")).unwrap();
        assert_eq!((hit.files, hit.bytes), (1, text.len() as u64));
        Some((hit.key, text))
    }
}

const OURS: &[&str] = &["r/trusted"];
const FORK: &[&str] = &["r/outside:refs/pull/7/head", "r/trusted"];

fn some(key: &str, text: &str) -> Option<(String, String)> {
    Some((key.to_owned(), text.to_owned()))
}

#[test]
fn what_was_kept_is_found_by_its_key_and_the_first_write_wins() {
    let world = world(1 << 30);
    assert_eq!(world.find(OURS, "k-1", &["k-"]), None);
    let saved = world.save(OURS, "k-1", b"one").unwrap();
    assert!(
        saved.saved && saved.files == 1 && saved.bytes == 3,
        "{saved:?}"
    );
    assert_eq!(saved.notes.len(), 1, "the link out: {saved:?}");
    assert_eq!(world.find(OURS, "k-1", &[]), some("k-1", "one"));
    assert!(!world.save(OURS, "k-1", b"two").unwrap().saved);
    assert_eq!(world.find(OURS, "k-1", &[]), some("k-1", "one"));
    world.clock.advance(Duration::from_secs(1));
    assert!(world.save(OURS, "k-2", b"two").unwrap().saved);
    assert_eq!(world.find(OURS, "k-3", &["k-"]), some("k-2", "two"));
    assert_eq!(world.store.stats().pins, 0, "nothing stays pinned");
}

#[test]
fn hostile_h061_no_trusted_build_finds_what_a_fork_kept_and_no_repository_anothers() {
    let world = world(1 << 30);
    assert!(world.save(FORK, "k-1", b"poison").unwrap().saved);
    assert_eq!(world.find(OURS, "k-1", &["k-", "k", "r", "outside"]), None);
    assert_eq!(
        world.find(&["r/outside:refs/pull/8/head", "r/trusted"], "k-1", &["k"]),
        None
    );
    assert_eq!(world.find(&["s/trusted"], "k-1", &["k"]), None);
    assert_eq!(world.find(FORK, "k-1", &[]), some("k-1", "poison"));
    // The fork's key is no first write for anybody else.
    assert!(world.save(OURS, "k-1", b"good").unwrap().saved);
    assert_eq!(world.find(OURS, "k-1", &[]), some("k-1", "good"));
    // What trusted builds kept a fork reads, and does not write again.
    assert!(world.save(OURS, "k-9", b"nine").unwrap().saved);
    assert_eq!(world.find(FORK, "k-9", &[]), some("k-9", "nine"));
    assert!(!world.save(FORK, "k-9", b"poison").unwrap().saved);
}

#[test]
fn hostile_a_fork_that_fills_its_share_pushes_out_its_own_entries_only() {
    let world = world(100 << 20);
    assert!(world.save(OURS, "ours", b"good").unwrap().saved);
    let large = |n: u8| vec![b'a' + n; 9 << 20];
    for n in 0..4 {
        world.clock.advance(Duration::from_secs(1));
        assert!(
            world
                .save(FORK, &format!("k-{n}"), &large(n))
                .unwrap()
                .saved
        );
    }
    assert_eq!(world.find(OURS, "ours", &[]), some("ours", "good"));
    let newest = world.find(FORK, "k-", &["k-"]).map(|(key, _)| key);
    assert_eq!(newest.as_deref(), Some("k-3"));
    assert_eq!(world.find(FORK, "k-0", &[]), None);
}

#[test]
fn what_is_too_large_or_empty_is_not_kept() {
    let world = world(100 << 20);
    let refused = world.save(OURS, "k", &vec![0; 11 << 20]).unwrap_err();
    assert!(refused.to_string().contains("10 MiB"), "{refused}");
    assert_eq!(world.store.stats().reserved, 0);
    let empty = world.save_from(&world.dir(), OURS, "k").unwrap();
    assert!(!empty.saved && empty.notes.len() == 2, "{empty:?}");
    assert_eq!(world.find(OURS, "k", &["k"]), None);
}

#[test]
fn hostile_h095_no_folder_is_kept_through_a_link() {
    let world = world(1 << 30);
    let dir = world.dir();
    let outside = world.dir();
    std::fs::create_dir(outside.join("x")).unwrap();
    std::fs::write(outside.join("x/secret"), "s").unwrap();
    std::os::unix::fs::symlink(&outside, dir.join("deps")).unwrap();
    std::os::unix::fs::symlink(outside.join("x"), dir.join("target")).unwrap();
    let saved = world.save_from(&dir, OURS, "k").unwrap();
    assert!(!saved.saved && saved.files == 0, "{saved:?}");
}

#[test]
fn entries_outlive_the_process_and_not_their_content() {
    let mut world = world(1 << 30);
    assert!(world.save(OURS, "k-1", b"one").unwrap().saved);
    world.clock.advance(Duration::from_secs(1));
    assert!(world.save(OURS, "k-2", b"two").unwrap().saved);
    let keyed = world.folder.path().join("cache/keyed");
    std::fs::write(keyed.join("broken"), "{").unwrap();
    let World {
        store,
        folder,
        clock,
        ..
    } = world;
    drop(store);
    world = World {
        store: open(folder.path(), 1 << 30, &clock),
        folder,
        clock,
        paths: vec!["deps/x".to_owned(), "target".to_owned()],
        next: std::cell::Cell::new(100),
    };
    assert!(!keyed.join("broken").exists());
    assert_eq!(world.find(OURS, "k-", &["k-"]), some("k-2", "two"));
    // A file of the newest is evicted: the entry goes, and the next best is found.
    world.store.disk.discard(Kind::Object, &Digest::of(b"two"));
    assert_eq!(world.find(OURS, "k-2", &["k-"]), some("k-1", "one"));
    assert_eq!(std::fs::read_dir(&keyed).unwrap().count(), 1);
    assert!(world.save(OURS, "k-2", b"two").unwrap().saved, "kept anew");
}
