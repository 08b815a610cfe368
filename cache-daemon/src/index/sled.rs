//! The index in sled, read into memory at start and answered from there.
//!
//! sled can panic while it opens damaged files, so it is opened on a thread of its own with a time
//! limit; what does not open is set aside and made anew. Losing it costs one listing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_core::cache::eviction::Entry;
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

use super::{BlobIndex, MemoryIndex};

/// How long opening may take before the files are given up.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Kept on disk by sled; without a usable file it works from memory alone.
pub struct SledIndex {
    memory: MemoryIndex,
    disk: Option<sled::Db>,
}

impl SledIndex {
    /// Opens or makes the index at `path`.
    pub async fn open(path: &Path) -> Self {
        for _try in 0..2 {
            if let Some(opened) = guarded_open(path.to_owned()).await {
                let (disk, entries) = opened;
                let memory = MemoryIndex::default();
                for entry in entries {
                    memory.record(entry);
                }
                let disk = Some(disk);
                return Self { memory, disk };
            }
            let aside = path.with_extension("broken");
            tracing::error!(path = %path.display(), "the cache index does not open; it is made anew");
            let _old = std::fs::remove_dir_all(&aside);
            let _moved = std::fs::rename(path, &aside);
        }
        Self {
            memory: MemoryIndex::default(),
            disk: None,
        }
    }

    fn write(&self, digest: &Digest) {
        let Some(disk) = &self.disk else { return };
        let outcome = match self.memory.get(digest) {
            Some(entry) => disk.insert(digest.as_bytes(), encode(&entry).to_vec()),
            None => disk.remove(digest.as_bytes()),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the cache index cannot be written");
        }
    }
}

async fn guarded_open(path: PathBuf) -> Option<(sled::Db, Vec<Entry>)> {
    let opening = tokio::task::spawn_blocking(move || {
        std::panic::catch_unwind(move || {
            let disk = sled::Config::default()
                .path(path)
                .cache_capacity(16 << 20)
                .open()
                .ok()?;
            let mut entries = Vec::new();
            for item in disk.iter() {
                let (key, value) = item.ok()?;
                entries.push(decode(&key, &value)?);
            }
            Some((disk, entries))
        })
        .ok()
        .flatten()
    });
    tokio::time::timeout(OPEN_LIMIT, opening).await.ok()?.ok()?
}

fn encode(entry: &Entry) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (size, used) = bytes.split_at_mut(8);
    size.copy_from_slice(&entry.size.to_be_bytes());
    used.copy_from_slice(&entry.last_use.as_millis().to_be_bytes());
    bytes
}

fn decode(key: &[u8], value: &[u8]) -> Option<Entry> {
    let (size, used) = value.split_at_checked(8)?;
    Some(Entry {
        digest: Digest::from_bytes(key.try_into().ok()?),
        size: u64::from_be_bytes(size.try_into().ok()?),
        last_use: Timestamp::from_millis(i64::from_be_bytes(used.try_into().ok()?)),
    })
}

impl BlobIndex for SledIndex {
    fn record(&self, entry: Entry) {
        self.memory.record(entry);
        self.write(&entry.digest);
    }

    fn touch(&self, digest: &Digest, now: Timestamp) {
        self.memory.touch(digest, now);
        self.write(digest);
    }

    fn forget(&self, digest: &Digest) {
        self.memory.forget(digest);
        self.write(digest);
    }

    fn entries(&self) -> Vec<Entry> {
        self.memory.entries()
    }

    fn totals(&self) -> (u64, u64) {
        self.memory.totals()
    }

    fn flush(&self) {
        if let Some(disk) = &self.disk
            && let Err(error) = disk.flush()
        {
            tracing::warn!(%error, "the cache index cannot be flushed");
        }
    }
}
