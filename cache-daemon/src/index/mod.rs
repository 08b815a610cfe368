//! Which files the store has, how large they are, and when each was last used.
//!
//! Disposable: everything here can be read from the directory again, so whatever is wrong with an
//! index costs a listing, never a blob.

mod memory;
mod sled;

pub use memory::MemoryIndex;
pub use sled::SledIndex;

use slipway_core::cache::eviction::{Entry, Kind};
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

/// The index of a store. All methods but `recall` are quick, and none fails: what cannot be kept is
/// lost.
pub trait BlobIndex: Send + Sync {
    /// A file was written, or found.
    fn record(&self, entry: Entry);
    /// A file was used.
    fn touch(&self, kind: Kind, digest: &Digest, now: Timestamp);
    /// A file is gone.
    fn forget(&self, kind: Kind, digest: &Digest);
    /// One file.
    fn get(&self, kind: Kind, digest: &Digest) -> Option<Entry>;
    /// All files.
    fn entries(&self) -> Vec<Entry>;
    /// How many files, and the bytes they take on disk.
    fn totals(&self) -> (u64, u64);
    /// Called once the directory was listed: takes the times of last use that an earlier process
    /// wrote down for what is there, and forgets the rest. May take seconds.
    fn recall(&self);
    /// Puts on disk what only memory has.
    fn flush(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], size: u64) -> Entry {
        Entry {
            kind: Kind::Object,
            digest: Digest::of(name),
            size,
            last_use: Timestamp::from_millis(5),
        }
    }

    fn contract(index: &dyn BlobIndex) {
        index.record(entry(b"a", 10));
        index.record(entry(b"b", 20));
        index.record(entry(b"b", 4_097));
        assert_eq!(index.totals(), (2, 3 * 4_096));
        let later = Timestamp::from_millis(90_000_000);
        index.touch(Kind::Object, &Digest::of(b"a"), later);
        index.touch(Kind::Object, &Digest::of(b"never"), later);
        index.touch(Kind::Pack, &Digest::of(b"b"), later);
        let used = index.get(Kind::Object, &Digest::of(b"a"));
        assert_eq!(used.map(|e| e.last_use), Some(later));
        index.forget(Kind::Object, &Digest::of(b"b"));
        assert_eq!(index.totals(), (1, 4_096));
        assert_eq!(index.get(Kind::Object, &Digest::of(b"b")), None);
    }

    #[test]
    fn the_memory_index_keeps_the_contract() {
        contract(&MemoryIndex::default());
    }

    #[test]
    fn the_sled_index_keeps_the_contract_and_the_times_of_what_is_still_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let index = SledIndex::new(&path);
        index.recall();
        contract(&index);
        index.record(entry(b"gone", 7));
        index.flush();
        drop(index);
        let index = SledIndex::new(&path);
        // The listing finds one of the two, with the time of its file.
        index.record(entry(b"a", 10));
        index.recall();
        assert_eq!(index.totals(), (1, 4_096));
        let used = index.get(Kind::Object, &Digest::of(b"a"));
        assert_eq!(used.map(|e| e.last_use.as_millis()), Some(90_000_000));
    }

    #[test]
    fn a_broken_sled_index_is_set_aside_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let index = SledIndex::new(&path);
        index.recall();
        contract(&index);
        index.flush();
        drop(index);
        for file in std::fs::read_dir(&path).unwrap() {
            let file = file.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, b"\xff garbage where pages were \xff".repeat(50)).unwrap();
            }
        }
        let index = SledIndex::new(&path);
        index.record(entry(b"x", 1));
        index.recall();
        assert_eq!(index.totals(), (1, 4_096));
        assert!(path.with_extension("broken").exists());
        index.flush();
        drop(index);
        let index = SledIndex::new(&path);
        index.record(entry(b"x", 1));
        index.recall();
        assert_eq!(index.totals(), (1, 4_096));
    }
}
