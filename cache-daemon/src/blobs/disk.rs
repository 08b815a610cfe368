//! Blobs as files: `objects/ab/<digest>.<size>`, `packs/ab/<digest>.<size>`.
//!
//! The size is in the name, so that a listing knows everything without opening a file, and a file of
//! another length is recognised at once. Read with the hash checked while the bytes pass: a bad file is
//! put aside in `quarantine/` and counts as a miss.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use slipway_core::cache::eviction::{Entry, Kind};
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

use super::batch::Batch;
use super::space::Space;
use crate::index::BlobIndex;

/// Bytes moved at once.
pub(crate) const PIECE: usize = 256 * 1024;
/// The layout of the directory; another one is emptied, because everything in it can be made again.
const FORMAT: &str = "slipway cache 2\n";
/// Damaged files that are kept for whoever wants to know why; more are removed.
const QUARANTINE_MAX: usize = 64;

/// Why a blob cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not here, or what was here was damaged and is put aside now.
    #[error("blob {0} is not in the cache")]
    Miss(Digest),
    /// It is larger than the caller can take.
    #[error("blob {0} is larger than expected")]
    TooLarge(Digest),
    /// What came is not what was announced.
    #[error("the bytes are not what was announced: {0}")]
    Mismatch(&'static str),
    /// The quota or the disk has no room, also after eviction.
    #[error("the cache is full: {0} bytes more do not fit")]
    Full(u64),
    /// The disk refused.
    #[error("the cache's disk: {0}")]
    Io(#[from] io::Error),
}

/// A file that a listing found.
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) written: Timestamp,
}

/// The blob directory.
pub struct Disk {
    root: PathBuf,
    handle: File,
    next: AtomicU64,
    pub(crate) index: Arc<dyn BlobIndex>,
    pub(crate) space: Space,
    /// Until the first listing is over, what the index does not know may be there all the same.
    listed: AtomicBool,
    /// Whether something was written since the last sync.
    pub(super) dirty: AtomicBool,
    damaged: AtomicU64,
    /// Files newer than this were perhaps not on the disk when the machine stopped.
    synced: Option<Timestamp>,
    // Held for the lifetime of the process: two daemons never share a directory.
    _lock: File,
}

impl Disk {
    /// Opens or makes the directory, and puts away what a killed process left half-written.
    ///
    /// # Errors
    /// When it cannot be made, or another process uses it.
    pub fn open(root: &Path, index: Arc<dyn BlobIndex>, quota: u64) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir_all(root)?;
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))?;
        let lock = File::create(root.join("LOCK"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        let known = std::fs::read_to_string(root.join("FORMAT"));
        if known.ok().as_deref() != Some(FORMAT) {
            for old in ["objects", "packs", "index.sled"] {
                let _none = std::fs::remove_dir_all(root.join(old));
            }
            std::fs::write(root.join("FORMAT"), FORMAT)?;
        }
        let tmp = root.join("tmp");
        let _none = std::fs::remove_dir_all(&tmp);
        for folder in ["tmp", "trash", "quarantine", "attempts"] {
            std::fs::create_dir_all(root.join(folder))?;
        }
        for byte in 0..=u8::MAX {
            let byte = format!("{byte:02x}");
            std::fs::create_dir_all(root.join("objects").join(&byte))?;
            std::fs::create_dir_all(root.join("packs").join(&byte))?;
        }
        // Removed now, written when all went well: its absence says that it did not.
        let clean = std::fs::remove_file(root.join("CLEAN")).is_ok();
        let handle = File::open(root)?;
        let space = Space::new(&handle, quota);
        Ok(Self {
            root: root.to_owned(),
            handle,
            // Numbers go on where trash of an earlier process may end.
            next: AtomicU64::new(first_number(&root.join("trash"))),
            index,
            space,
            listed: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            synced: (!clean).then(|| checkpoint_of(root)),
            _lock: lock,
        })
    }

    /// Where the store lives.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Damaged files met since the start.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    fn folder(&self, kind: Kind, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        let of = match kind {
            Kind::Object => "objects",
            Kind::Pack => "packs",
        };
        self.root.join(of).join(name.get(..2).unwrap_or("00"))
    }

    /// The path of a file of this size.
    pub(crate) fn path(&self, kind: Kind, digest: &Digest, size: u64) -> PathBuf {
        self.folder(kind, digest).join(format!("{digest}.{size}"))
    }

    /// A new name below `folder`.
    pub(crate) fn fresh(&self, folder: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join(folder).join(number.to_string())
    }

    /// The size of a file that is here with its full length (its bytes are checked when it is read).
    #[must_use]
    pub fn find(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        // Before the index is asked: what it did not know while the listing went on, it may know once that is over.
        let listed = self.listed.load(Ordering::Acquire);
        let size = match self.index.get(kind, digest) {
            Some(entry) => entry.size,
            None if listed => return None,
            None => self.look_for(kind, digest)?,
        };
        let there = std::fs::symlink_metadata(self.path(kind, digest, size));
        match there {
            Ok(file) if file.is_file() && file.len() == size => Some(size),
            _ => None,
        }
    }

    fn look_for(&self, kind: Kind, digest: &Digest) -> Option<u64> {
        let prefix = format!("{digest}.");
        std::fs::read_dir(self.folder(kind, digest))
            .ok()?
            .find_map(|file| {
                let name = file.ok()?.file_name();
                name.to_str()?.strip_prefix(&prefix)?.parse().ok()
            })
    }

    /// Whether a blob is here.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.find(Kind::Object, digest).is_some()
    }

    /// Moves a file out of sight; `sweep` removes it for good. Gone is success.
    pub(crate) fn discard(&self, kind: Kind, digest: &Digest) {
        if let Some(entry) = self.index.get(kind, digest) {
            let path = self.path(kind, digest, entry.size);
            let _gone = std::fs::rename(path, self.fresh("trash"));
        }
        self.index.forget(kind, digest);
    }

    /// Puts a damaged file aside.
    pub(crate) fn quarantine(&self, kind: Kind, digest: &Digest, size: u64) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let kept = std::fs::read_dir(self.root.join("quarantine")).map_or(0, Iterator::count);
        let to = if kept < QUARANTINE_MAX {
            self.root
                .join("quarantine")
                .join(format!("{digest}.{size}"))
        } else {
            self.fresh("trash")
        };
        let _gone = std::fs::rename(self.path(kind, digest, size), to);
        self.index.forget(kind, digest);
        tracing::error!(blob = %digest, ?kind, "a damaged file of the cache was put aside");
    }

    /// Lists what is there; a file whose length is not that of its name is put aside.
    pub(crate) fn list(&self) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        for (kind, folder) in [(Kind::Object, "objects"), (Kind::Pack, "packs")] {
            for folder in std::fs::read_dir(self.root.join(folder))? {
                for file in std::fs::read_dir(folder?.path())? {
                    let file = file?;
                    // What is not named as we name things is not ours, and not served.
                    let Some((digest, size)) = parse(&file.file_name()) else {
                        continue;
                    };
                    let Ok(stat) = file.metadata() else { continue };
                    if stat.len() != size {
                        self.quarantine(kind, &digest, size);
                        continue;
                    }
                    let written = written(&stat);
                    all.push(Found {
                        kind,
                        digest,
                        size,
                        written,
                    });
                }
            }
        }
        Ok(all)
    }

    /// From now on the index knows everything.
    pub(crate) fn listing_is_over(&self) {
        self.listed.store(true, Ordering::Release);
    }

    /// Whether it may be that a file of this age never reached the disk.
    pub(crate) fn is_suspect(&self, written: Timestamp) -> bool {
        self.synced.is_some_and(|synced| written >= synced)
    }

    /// Copies a blob to `out`, checked while the bytes pass. On a miss, what was written to `out` is
    /// worthless.
    ///
    /// # Errors
    /// `Miss` when it is not here or damaged; `TooLarge` above `limit` bytes.
    pub fn read(&self, digest: &Digest, limit: u64, out: &mut dyn Write) -> Result<u64, BlobError> {
        let miss = || BlobError::Miss(*digest);
        let size = self.find(Kind::Object, digest).ok_or_else(miss)?;
        if size > limit {
            return Err(BlobError::TooLarge(*digest));
        }
        let path = self.path(Kind::Object, digest, size);
        let file = File::open(path).map_err(|_| miss())?;
        match checked_copy(file, digest, size, out) {
            Err(Copied::Damaged) => {
                self.quarantine(Kind::Object, digest, size);
                Err(miss())
            }
            Err(Copied::Out(error)) => Err(error.into()),
            Ok(()) => Ok(size),
        }
    }

    /// Puts everything written so far on the disk, and writes down when.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn checkpoint(&self, now: Timestamp) -> io::Result<()> {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let done = rustix::fs::syncfs(&self.handle).map_err(io::Error::from);
        let done = done.and_then(|()| {
            let beside = self.root.join("CHECKPOINT.new");
            std::fs::write(&beside, now.as_millis().to_string())?;
            std::fs::rename(beside, self.root.join("CHECKPOINT"))
        });
        if done.is_err() {
            self.dirty.store(true, Ordering::Release);
        }
        done
    }

    /// The last word of a process that stops in order.
    pub(crate) fn mark_clean(&self, now: Timestamp) -> io::Result<()> {
        self.dirty.store(true, Ordering::Release);
        self.checkpoint(now)?;
        File::create(self.root.join("CLEAN"))?.sync_all()?;
        self.handle.sync_all()
    }

    /// Begins writing blobs that become visible together.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    pub(super) fn sync_all_of_it(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.handle)?)
    }

    /// Bytes that the file system lacks to its floor of free space.
    pub(crate) fn missing(&self) -> u64 {
        self.space.missing(&self.handle)
    }

    /// Whether so many bytes may be written: by the quota, and by what the disk has left.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.space
            .reserve(&self.handle, self.index.totals().1, bytes)
    }

    pub(crate) fn record(&self, kind: Kind, digest: Digest, size: u64, last_use: Timestamp) {
        self.index.record(Entry {
            kind,
            digest,
            size,
            last_use,
        });
    }
}

enum Copied {
    Damaged,
    Out(io::Error),
}

fn checked_copy(
    mut file: File,
    digest: &Digest,
    size: u64,
    out: &mut dyn Write,
) -> Result<(), Copied> {
    let mut hasher = blake3::Hasher::new();
    let mut left = size;
    let room = usize::try_from(size.saturating_add(1)).unwrap_or(PIECE);
    let mut piece = vec![0; room.min(PIECE)];
    loop {
        // A sector that cannot be read is the same as a wrong one.
        let count = file.read(&mut piece).map_err(|_| Copied::Damaged)?;
        let bytes = piece.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or(Copied::Damaged)?;
        hasher.update(bytes);
        if left == 0 && hasher.finalize().as_bytes() != digest.as_bytes() {
            // The last piece of a wrong blob leaves nobody: not even who forgets to check gets it whole.
            return Err(Copied::Damaged);
        }
        out.write_all(bytes).map_err(Copied::Out)?;
    }
    let good = left == 0 && (size > 0 || *digest == Digest::of(&[]));
    if good { Ok(()) } else { Err(Copied::Damaged) }
}

fn parse(name: &std::ffi::OsStr) -> Option<(Digest, u64)> {
    let (digest, size) = name.to_str()?.split_once('.')?;
    Some((digest.parse().ok()?, size.parse().ok()?))
}

fn written(stat: &std::fs::Metadata) -> Timestamp {
    let at = stat.modified().ok();
    let since = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(Timestamp::EPOCH, |since| Timestamp::EPOCH.after(since))
}

fn checkpoint_of(root: &Path) -> Timestamp {
    let text = std::fs::read_to_string(root.join("CHECKPOINT")).unwrap_or_default();
    Timestamp::from_millis(text.trim().parse().unwrap_or(0))
}

fn first_number(trash: &Path) -> u64 {
    let names = std::fs::read_dir(trash).into_iter().flatten().flatten();
    let numbers = names.filter_map(|file| file.file_name().to_str()?.parse::<u64>().ok());
    numbers.max().map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
