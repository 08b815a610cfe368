//! The index in sled. Answers come from memory; sled only remembers when each file was last used.
//!
//! sled panics while it opens some damaged files, hangs on others, and misses keys of yet others
//! without a word. So it is opened on a thread of its own with a time limit, what does not open is set
//! aside and made anew, and what it says counts only for files that the directory really has.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use slipway_core::cache::eviction::{Entry, Kind};
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

use super::{BlobIndex, MemoryIndex};

/// How long opening may take before the files are given up.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Uses closer together than this are one: eviction thinks in hours.
const TOUCH_EVERY: Duration = Duration::from_secs(3_600);

/// Kept on disk by sled; without a usable file it works from memory alone.
pub struct SledIndex {
    path: PathBuf,
    memory: MemoryIndex,
    disk: OnceLock<sled::Db>,
}

impl SledIndex {
    /// The index at `path`, which is not opened before [`BlobIndex::recall`].
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            memory: MemoryIndex::default(),
            disk: OnceLock::new(),
        }
    }

    fn open(&self) -> Option<(sled::Db, Vec<Entry>)> {
        for _try in 0..2 {
            if let Some(opened) = guarded_open(self.path.clone()) {
                return Some(opened);
            }
            let aside = self.path.with_extension("broken");
            let path = self.path.display();
            tracing::error!(%path, "the cache index does not open; it is made anew");
            let _old = std::fs::remove_dir_all(&aside);
            let _moved = std::fs::rename(&self.path, &aside);
        }
        None
    }

    fn write(&self, kind: Kind, digest: &Digest) {
        if let Some(disk) = self.disk.get() {
            put(disk, kind, digest, self.memory.get(kind, digest));
        }
    }
}

fn put(disk: &sled::Db, kind: Kind, digest: &Digest, entry: Option<Entry>) {
    let key = key(kind, digest);
    let outcome = match entry {
        Some(entry) => disk.insert(key, encode(&entry).to_vec()),
        None => disk.remove(key),
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, "the cache index cannot be written");
    }
}

fn guarded_open(path: PathBuf) -> Option<(sled::Db, Vec<Entry>)> {
    let (send, receive) = mpsc::sync_channel(1);
    let opening = move || {
        let opened = std::panic::catch_unwind(move || {
            let disk = sled::Config::default()
                .path(path)
                .cache_capacity(16 << 20)
                .open()
                .ok()?;
            let mut entries = Vec::new();
            for item in disk.iter() {
                let (key, value) = item.ok()?;
                // A key of another layout is as good as none.
                entries.extend(decode(&key, &value));
            }
            Some((disk, entries))
        });
        // Nobody waits any more: what was opened is closed again.
        let _late = send.send(opened.ok().flatten());
    };
    // A thread that hangs is left behind; nothing can end it.
    std::thread::Builder::new()
        .name("open index".to_owned())
        .spawn(opening)
        .ok()?;
    receive.recv_timeout(OPEN_LIMIT).ok()?
}

fn key(kind: Kind, digest: &Digest) -> [u8; 33] {
    let mut key = [0; 33];
    let (first, rest) = key.split_at_mut(1);
    first.fill(match kind {
        Kind::Object => 0,
        Kind::Pack => 1,
    });
    rest.copy_from_slice(digest.as_bytes());
    key
}

fn encode(entry: &Entry) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (size, used) = bytes.split_at_mut(8);
    size.copy_from_slice(&entry.size.to_be_bytes());
    used.copy_from_slice(&entry.last_use.as_millis().to_be_bytes());
    bytes
}

fn decode(key: &[u8], value: &[u8]) -> Option<Entry> {
    let (kind, digest) = key.split_first()?;
    let (size, used) = value.split_at_checked(8)?;
    Some(Entry {
        kind: match kind {
            0 => Kind::Object,
            1 => Kind::Pack,
            _ => return None,
        },
        digest: Digest::from_bytes(digest.try_into().ok()?),
        size: u64::from_be_bytes(size.try_into().ok()?),
        last_use: Timestamp::from_millis(i64::from_be_bytes(used.try_into().ok()?)),
    })
}

impl BlobIndex for SledIndex {
    fn record(&self, entry: Entry) {
        self.memory.record(entry);
        self.write(entry.kind, &entry.digest);
    }

    fn touch(&self, kind: Kind, digest: &Digest, now: Timestamp) {
        let Some(before) = self.memory.get(kind, digest) else {
            return;
        };
        if now.since(before.last_use) > TOUCH_EVERY {
            self.memory.touch(kind, digest, now);
            self.write(kind, digest);
        }
    }

    fn forget(&self, kind: Kind, digest: &Digest) {
        self.memory.forget(kind, digest);
        self.write(kind, digest);
    }

    fn get(&self, kind: Kind, digest: &Digest) -> Option<Entry> {
        self.memory.get(kind, digest)
    }

    fn entries(&self) -> Vec<Entry> {
        self.memory.entries()
    }

    fn totals(&self) -> (u64, u64) {
        self.memory.totals()
    }

    fn recall(&self) {
        let Some((disk, written)) = self.open() else {
            return;
        };
        for old in written {
            match self.memory.get(old.kind, &old.digest) {
                Some(there) if there.size == old.size => {
                    self.memory.touch(old.kind, &old.digest, old.last_use);
                }
                Some(_) => {}
                None => put(&disk, old.kind, &old.digest, None),
            }
        }
        for entry in self.memory.entries() {
            put(&disk, entry.kind, &entry.digest, Some(entry));
        }
        let _once = self.disk.set(disk);
    }

    fn flush(&self) {
        if let Some(disk) = self.disk.get()
            && let Err(error) = disk.flush()
        {
            tracing::warn!(%error, "the cache index cannot be flushed");
        }
    }
}
