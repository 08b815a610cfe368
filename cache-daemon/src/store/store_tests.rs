//! The store under pressure: pins, eviction, refusals, checks.
use std::sync::Arc;
use std::time::Duration;

use slipway_core::time::Timestamp;

use super::*;
use crate::index::MemoryIndex;

const BLOB: usize = 64 * 1024;

fn store(folder: &Path, quota: u64, clock: &Clock) -> Store {
    let disk = Disk::open(folder, Arc::new(MemoryIndex::default()), quota).unwrap();
    let store = Store::open(disk, clock.clone());
    store.list();
    store
}

fn blob(n: u8) -> Vec<u8> {
    vec![n; BLOB]
}

fn put(store: &Store, n: u8) -> Digest {
    store.put(&mut blob(n).as_slice(), None).unwrap().0
}

fn workspace(folder: &Path, name: &str, files: std::ops::Range<u8>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir(&path).unwrap();
    for n in files {
        std::fs::write(path.join(n.to_string()), blob(n)).unwrap();
    }
    path
}

#[test]
fn evict_under_lease() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let store = store(&folder.path().join("cache"), 40 * BLOB as u64, &clock);
    let source = workspace(folder.path(), "source", 0..10);
    let (root, ..) = store.capture_tree(&source, false).unwrap();
    let work = folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let wanted = |directory| Wanted {
        directory,
        root: &root,
        layers: &[],
        attempt: Some("stage-1"),
    };
    store.restore(&wanted(&work)).unwrap();
    // Half an hour in which the attempt renews, while others fill the cache to its quota.
    for round in 0..30_u8 {
        clock.advance(Duration::from_secs(60));
        store.renew(&["stage-1".to_owned()]);
        put(&store, 100 + round);
        store.evict();
    }
    let again = folder.path().join("again");
    std::fs::create_dir(&again).unwrap();
    store.restore(&wanted(&again)).unwrap();
    assert!(store.stats().bytes <= 40 * BLOB as u64);
    assert!(store.counters().evicted.get() > 0, "something had to leave");
    // The attempt is over: nothing holds its workspace any more.
    store.release("stage-1");
    clock.advance(Duration::from_secs(8 * 24 * 3_600));
    store.evict();
    assert!(!store.has(&root));
    store.sweep(|| false);
    let left = std::fs::read_dir(folder.path().join("cache/trash")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn what_a_stage_left_is_kept_for_the_stages_that_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let store = store(&folder.path().join("cache"), 60 * BLOB as u64, &clock);
    let source = workspace(folder.path(), "source", 0..1);
    let (root, ..) = store.capture_tree(&source, false).unwrap();
    for n in 1..8 {
        std::fs::write(source.join(n.to_string()), blob(n)).unwrap();
    }
    let layer = store
        .capture_layer(&source, &root, Some("stage-1"))
        .unwrap();
    assert_eq!(layer.changed, 7);
    for round in 0..100_u8 {
        clock.advance(Duration::from_secs(120));
        put(&store, 100 + round);
        store.evict();
    }
    let tree = Layer::decode(&store.get(&layer.layer, MANIFEST_MAX).unwrap()).unwrap();
    assert!(tree.blobs().all(|blob| store.has(&blob)));
}

#[test]
fn a_full_cache_makes_room_once_and_then_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let store = store(&folder.path().join("cache"), 20 * BLOB as u64, &clock);
    for n in 0..18 {
        put(&store, n);
    }
    let source = workspace(folder.path(), "source", 100..105);
    // All of it is young: nothing may leave.
    let refused = store.capture_tree(&source, false);
    let full = matches!(refused, Err(StoreError::Blob(BlobError::Full(_))));
    assert!(full && store.counters().full.get() == 1);
    assert_eq!(store.stats().reserved, 0);
    clock.advance(Duration::from_secs(601));
    store.capture_tree(&source, false).unwrap();
}

#[test]
fn a_sweep_that_finds_nothing_is_not_repeated_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let store = store(&folder.path().join("cache"), 10 * BLOB as u64, &clock);
    for n in 0..10 {
        // Young: nothing of it can leave.
        put(&store, n);
    }
    store.evict();
    clock.advance(Duration::from_secs(599));
    store.evict();
    assert_eq!(store.counters().evicted.get(), 0, "it backs off");
    clock.advance(Duration::from_secs(3));
    store.evict();
    assert!(store.counters().evicted.get() > 0);
}

#[test]
fn fsck_puts_damage_aside_and_makes_the_index_anew() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let store = store(folder.path(), 1 << 30, &clock);
    let [good, bad, short, gone] = [1, 2, 3, 4].map(|n| put(&store, n));
    let path = |digest: &Digest| store.disk.path(Kind::Object, digest, BLOB as u64);
    let mut bytes = blob(2);
    bytes[77] = 0;
    std::fs::write(path(&bad), bytes).unwrap();
    std::fs::write(path(&short), b"x").unwrap();
    std::fs::remove_file(path(&gone)).unwrap();
    let unknown = Digest::of(b"copied in by hand");
    let at = store.disk.path(Kind::Object, &unknown, 17);
    std::fs::write(at, b"copied in by hand").unwrap();
    let checked = store.check(true);
    assert_eq!((checked.files, checked.damaged), (3, 2), "{checked:?}");
    assert_eq!(store.stats().blobs, 2);
    assert!(store.has(&good) && store.has(&unknown));
    assert_eq!(store.check(false).damaged, 0);
}
