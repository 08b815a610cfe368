//! The index in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slipway_core::cache::eviction::Entry;
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

use super::BlobIndex;

/// Forgotten with the process.
#[derive(Default)]
pub struct MemoryIndex {
    blobs: Mutex<BTreeMap<Digest, Entry>>,
}

impl MemoryIndex {
    fn blobs(&self) -> MutexGuard<'_, BTreeMap<Digest, Entry>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Entry> {
        self.blobs().get(digest).copied()
    }
}

impl BlobIndex for MemoryIndex {
    fn record(&self, entry: Entry) {
        self.blobs().insert(entry.digest, entry);
    }

    fn touch(&self, digest: &Digest, now: Timestamp) {
        if let Some(entry) = self.blobs().get_mut(digest) {
            entry.last_use = now;
        }
    }

    fn forget(&self, digest: &Digest) {
        self.blobs().remove(digest);
    }

    fn entries(&self) -> Vec<Entry> {
        self.blobs().values().copied().collect()
    }

    fn totals(&self) -> (u64, u64) {
        let blobs = self.blobs();
        let bytes = blobs.values().map(|e| e.size).fold(0, u64::saturating_add);
        (blobs.len() as u64, bytes)
    }

    fn flush(&self) {}
}
