//! Blobs on their way to the disk: written beside, hashed on the way, synced if they must be, renamed.
//! No name ever stands for half a blob, and nothing is in the index before its rename.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use slipway_core::cache::eviction::{Kind, on_disk};
use slipway_core::digest::Digest;

use super::disk::PIECE;
use super::{BlobError, Disk};

/// Files of one batch above which one `syncfs` costs less than a sync of each.
const SYNC_EACH: usize = 4;
/// What a stream of unknown length reserves at a time.
const RESERVE: u64 = 1 << 20;

/// Whether others depend on it from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Before the commit returns: somebody is told that it exists.
    Now,
    /// At the next checkpoint: whoever loses it fetches or makes it again.
    Later,
}

struct Pending {
    from: PathBuf,
    size: u64,
}

/// Blobs that become visible together.
pub struct Batch<'d> {
    disk: &'d Disk,
    pending: BTreeMap<Digest, Pending>,
    /// Blobs that were here already.
    met: BTreeSet<Digest>,
    reserved: u64,
}

impl<'d> Batch<'d> {
    pub(super) fn new(disk: &'d Disk) -> Self {
        Self {
            disk,
            pending: BTreeMap::new(),
            met: BTreeSet::new(),
            reserved: 0,
        }
    }

    fn knows(&mut self, digest: &Digest) -> bool {
        if self.pending.contains_key(digest) {
            return true;
        }
        let met = self.disk.has(digest);
        if met {
            self.met.insert(*digest);
        }
        met
    }

    /// Blobs of it that were here already.
    pub fn met(&self) -> impl Iterator<Item = &Digest> {
        self.met.iter()
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), BlobError> {
        let bytes = on_disk(bytes);
        if !self.disk.has_room(bytes) {
            return Err(BlobError::Full(bytes));
        }
        self.reserved += bytes;
        Ok(())
    }

    /// Adds a blob from memory.
    ///
    /// # Errors
    /// `Full` when there is no room; or the disk refuses.
    pub fn add_bytes(&mut self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of(bytes);
        if !self.knows(&digest) {
            self.reserve(bytes.len() as u64)?;
            let from = self.disk.fresh("tmp");
            let written = std::fs::write(&from, bytes);
            let size = bytes.len() as u64;
            self.keep(digest, from, size);
            written?;
        }
        Ok(digest)
    }

    /// Adds a blob from a reader, and says how long it was.
    ///
    /// # Errors
    /// `Full` when there is no room; or the reader or the disk refuses.
    pub fn add_reader(&mut self, reader: &mut dyn Read) -> Result<(Digest, u64), BlobError> {
        let mut bytes = Vec::new();
        reader
            .take(PIECE as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(BlobError::Io)?;
        if bytes.len() <= PIECE {
            return Ok((self.add_bytes(&bytes)?, bytes.len() as u64));
        }
        self.stream(&mut bytes.chain(reader), u64::MAX)
    }

    /// Adds a blob whose digest and size somebody announced; cut at the first byte too many.
    ///
    /// # Errors
    /// `Mismatch` when it is another one; `Full` when there is no room.
    pub fn add_announced(
        &mut self,
        reader: &mut dyn Read,
        digest: &Digest,
        size: u64,
    ) -> Result<(), BlobError> {
        let (came, length) = self.stream(reader, size)?;
        if length != size {
            self.drop_pending(&came);
            return Err(BlobError::Mismatch("they end early"));
        }
        if came != *digest {
            self.drop_pending(&came);
            return Err(BlobError::Mismatch("their digest is another one"));
        }
        Ok(())
    }

    fn stream(&mut self, reader: &mut dyn Read, max: u64) -> Result<(Digest, u64), BlobError> {
        let from = self.disk.fresh("tmp");
        let outcome = self.stream_to(&from, reader, max);
        match outcome {
            Ok((digest, size)) if !self.knows(&digest) => self.keep(digest, from, size),
            _ => {
                let _gone = std::fs::remove_file(&from);
            }
        }
        outcome
    }

    fn stream_to(
        &mut self,
        from: &Path,
        reader: &mut dyn Read,
        max: u64,
    ) -> Result<(Digest, u64), BlobError> {
        let mut file = File::create(from)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE];
        let mut size = 0_u64;
        let mut room = 0_u64;
        loop {
            let count = reader.read(&mut piece)?;
            let bytes = piece.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            size += bytes.len() as u64;
            if size > max {
                return Err(BlobError::Mismatch("they go on behind their end"));
            }
            while size > room {
                let more = RESERVE.min(max.saturating_sub(room).max(1));
                self.reserve(more)?;
                room += more;
            }
            hasher.update(bytes);
            file.write_all(bytes)?;
        }
        let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
        Ok((digest, size))
    }

    fn keep(&mut self, digest: Digest, from: PathBuf, size: u64) {
        self.pending.insert(digest, Pending { from, size });
    }

    fn drop_pending(&mut self, digest: &Digest) {
        if let Some(blob) = self.pending.remove(digest) {
            let _gone = std::fs::remove_file(blob.from);
        }
    }

    /// Makes everything visible. Answers the new blobs with their sizes.
    ///
    /// # Errors
    /// When the disk refuses; then nothing of it is promised.
    pub fn commit(self, durable: Durable) -> Result<Vec<(Digest, u64)>, BlobError> {
        if self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let many = self.pending.len() > SYNC_EACH;
        if durable == Durable::Now {
            if many {
                self.disk.sync_all_of_it()?;
            } else {
                for blob in self.pending.values() {
                    File::open(&blob.from)?.sync_data()?;
                }
            }
        }
        self.disk.dirty.store(true, Ordering::Release);
        let mut done = Vec::with_capacity(self.pending.len());
        for (digest, blob) in &self.pending {
            let to = self.disk.path(Kind::Object, digest, blob.size);
            std::fs::rename(&blob.from, &to)?;
            if durable == Durable::Now
                && !many
                && let Some(folder) = to.parent()
            {
                File::open(folder)?.sync_all()?;
            }
            done.push((*digest, blob.size));
        }
        if durable == Durable::Now && many {
            self.disk.sync_all_of_it()?;
        }
        Ok(done)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // What was renamed is not there any more.
        for blob in self.pending.values() {
            let _gone = std::fs::remove_file(&blob.from);
        }
        self.disk.space.give_back(self.reserved);
    }
}
