//! Which blobs there are, how large they are on disk, and when each was last used.
//!
//! Disposable: everything here can be read from the blob directory again, so whatever is wrong with
//! an index costs a listing, never a blob.

mod memory;
mod sled;

pub use memory::MemoryIndex;
pub use sled::SledIndex;

use slipway_core::cache::eviction::Entry;
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

/// The index of a blob store. All methods are quick and never fail: what cannot be kept is lost.
pub trait BlobIndex: Send + Sync {
    /// A blob was written, or found.
    fn record(&self, entry: Entry);
    /// A blob was used.
    fn touch(&self, digest: &Digest, now: Timestamp);
    /// A blob is gone.
    fn forget(&self, digest: &Digest);
    /// All blobs.
    fn entries(&self) -> Vec<Entry>;
    /// How many blobs, and their bytes on disk.
    fn totals(&self) -> (u64, u64);
    /// Puts on disk what only memory has.
    fn flush(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(index: &dyn BlobIndex) {
        let entry = |name: &[u8], size| Entry {
            digest: Digest::of(name),
            size,
            last_use: Timestamp::from_millis(5),
        };
        index.record(entry(b"a", 10));
        index.record(entry(b"b", 20));
        index.record(entry(b"b", 21));
        assert_eq!(index.totals(), (2, 31));
        index.touch(&Digest::of(b"a"), Timestamp::from_millis(9));
        index.touch(&Digest::of(b"never"), Timestamp::from_millis(9));
        let used = index.entries().into_iter().find(|e| e.size == 10);
        assert_eq!(used.map(|e| e.last_use), Some(Timestamp::from_millis(9)));
        index.forget(&Digest::of(b"b"));
        assert_eq!(index.totals(), (1, 10));
    }

    #[test]
    fn the_memory_index_keeps_the_contract() {
        contract(&MemoryIndex::default());
    }

    #[tokio::test]
    async fn the_sled_index_keeps_the_contract_and_what_it_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let index = SledIndex::open(&path).await;
        contract(&index);
        index.flush();
        drop(index);
        assert_eq!(SledIndex::open(&path).await.totals(), (1, 10));
    }

    #[tokio::test]
    async fn a_broken_sled_index_is_set_aside_and_the_daemon_starts_with_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let index = SledIndex::open(&path).await;
        contract(&index);
        drop(index);
        for file in std::fs::read_dir(&path).unwrap() {
            let file = file.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, b"\xff garbage where pages were \xff".repeat(50)).unwrap();
            }
        }
        let index = SledIndex::open(&path).await;
        index.record(Entry {
            digest: Digest::of(b"x"),
            size: 1,
            last_use: Timestamp::EPOCH,
        });
        assert!(index.totals().0 >= 1);
    }
}
