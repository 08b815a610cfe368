//! The index in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use slipway_core::cache::eviction::{Entry, Kind};
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

use super::BlobIndex;

/// Forgotten with the process.
#[derive(Default)]
pub struct MemoryIndex {
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    by_name: BTreeMap<(Kind, Digest), Entry>,
    on_disk: u64,
}

impl MemoryIndex {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobIndex for MemoryIndex {
    fn record(&self, entry: Entry) {
        let mut files = self.files();
        let before = files.by_name.insert((entry.kind, entry.digest), entry);
        files.on_disk = files
            .on_disk
            .saturating_sub(before.map_or(0, |e| e.on_disk()))
            .saturating_add(entry.on_disk());
    }

    fn touch(&self, kind: Kind, digest: &Digest, now: Timestamp) {
        if let Some(entry) = self.files().by_name.get_mut(&(kind, *digest)) {
            entry.last_use = entry.last_use.max(now);
        }
    }

    fn forget(&self, kind: Kind, digest: &Digest) {
        let mut files = self.files();
        if let Some(gone) = files.by_name.remove(&(kind, *digest)) {
            files.on_disk = files.on_disk.saturating_sub(gone.on_disk());
        }
    }

    fn get(&self, kind: Kind, digest: &Digest) -> Option<Entry> {
        self.files().by_name.get(&(kind, *digest)).copied()
    }

    fn entries(&self) -> Vec<Entry> {
        self.files().by_name.values().copied().collect()
    }

    fn totals(&self) -> (u64, u64) {
        let files = self.files();
        (files.by_name.len() as u64, files.on_disk)
    }

    fn recall(&self) {}

    fn flush(&self) {}
}
