//! Blobs as files: `objects/ab/<digest>` as they are, `objects/ab/<digest>.z` compressed.
//!
//! Written to a temporary file, hashed on the way, synced, renamed, and the folder synced: a name
//! never stands for half a blob. Read with the hash checked again: a bad blob is removed and counts
//! as a miss.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use slipway_core::digest::Digest;

/// Bytes moved at once.
const PIECE: usize = 256 * 1024;
/// Blobs of this size range are tried with zstd; larger ones are streamed as they are.
const COMPRESS: std::ops::Range<u64> = 4 * 1024..8 * 1024 * 1024;
/// Blobs written together above this count are synced by one `syncfs`.
const SYNC_EACH: usize = 4;

/// Why a blob cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not here, or what was here was damaged and is removed now.
    #[error("blob {0} is not in the cache")]
    Miss(Digest),
    /// It is larger than the caller can take.
    #[error("blob {0} is larger than expected")]
    TooLarge(Digest),
    /// The disk refused.
    #[error("the cache's disk: {0}")]
    Io(#[from] io::Error),
}

/// The blob directory.
pub struct Disk {
    root: PathBuf,
    handle: File,
    next: AtomicU64,
    // Held for the lifetime of the process: two daemons never share a directory.
    _lock: File,
}

impl Disk {
    /// Opens or makes the directory, and clears what a killed process left half-written.
    ///
    /// # Errors
    /// When it cannot be made, or another process uses it.
    pub fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root.join("objects"))?;
        let lock = File::create(root.join("LOCK"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        let tmp = root.join("tmp");
        let _none = std::fs::remove_dir_all(&tmp);
        std::fs::create_dir_all(&tmp)?;
        for byte in 0..=u8::MAX {
            std::fs::create_dir_all(root.join("objects").join(format!("{byte:02x}")))?;
        }
        Ok(Self {
            root: root.to_owned(),
            handle: File::open(root)?,
            next: AtomicU64::new(0),
            _lock: lock,
        })
    }

    fn path(&self, digest: &Digest, compressed: bool) -> PathBuf {
        let name = digest.to_string();
        let folder = self
            .root
            .join("objects")
            .join(name.get(..2).unwrap_or("00"));
        folder.join(if compressed { name + ".z" } else { name })
    }

    fn temporary(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(number.to_string())
    }

    /// Whether a blob of this name is here (its bytes are checked when it is read).
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest, false).exists() || self.path(digest, true).exists()
    }

    /// Removes a blob. Gone is success.
    pub fn remove(&self, digest: &Digest) {
        for compressed in [false, true] {
            let _gone = std::fs::remove_file(self.path(digest, compressed));
        }
    }

    /// All blobs with their sizes on disk.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut all = Vec::new();
        for folder in std::fs::read_dir(self.root.join("objects"))? {
            for file in std::fs::read_dir(folder?.path())? {
                let file = file?;
                let name = file.file_name();
                let name = name.to_string_lossy();
                let plain = name.strip_suffix(".z").unwrap_or(&name);
                if let Ok(digest) = plain.parse() {
                    all.push((digest, file.metadata()?.len()));
                }
            }
        }
        Ok(all)
    }

    /// Copies a blob to `out`, checked. On a mismatch the blob is removed and what was written to
    /// `out` is worthless.
    ///
    /// # Errors
    /// `Miss` when it is not here or damaged; `TooLarge` above `limit` bytes.
    pub fn read(&self, digest: &Digest, limit: u64, out: &mut dyn Write) -> Result<u64, BlobError> {
        match self.copy(digest, limit, out) {
            Err(BlobError::Miss(_)) => {
                self.remove(digest);
                Err(BlobError::Miss(*digest))
            }
            other => other,
        }
    }

    fn copy(&self, digest: &Digest, limit: u64, out: &mut dyn Write) -> Result<u64, BlobError> {
        let mut reader: Box<dyn Read> = match File::open(self.path(digest, false)) {
            Ok(file) => Box::new(file),
            Err(_) => {
                let file = File::open(self.path(digest, true));
                let file = file.map_err(|_| BlobError::Miss(*digest))?;
                Box::new(zstd::Decoder::new(file)?)
            }
        };
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE];
        let mut total = 0_u64;
        loop {
            // Damaged compressed bytes are an error of the reader: the same as a wrong hash.
            let count = reader
                .read(&mut piece)
                .map_err(|_| BlobError::Miss(*digest))?;
            let bytes = piece.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            total += bytes.len() as u64;
            if total > limit {
                return Err(BlobError::TooLarge(*digest));
            }
            hasher.update(bytes);
            out.write_all(bytes)?;
        }
        if hasher.finalize().as_bytes() != digest.as_bytes() {
            tracing::error!(blob = %digest, "damaged blob removed");
            return Err(BlobError::Miss(*digest));
        }
        Ok(total)
    }

    /// Begins writing blobs that become visible together.
    #[must_use]
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            disk: self,
            pending: Vec::new(),
        }
    }
}

struct Pending {
    digest: Digest,
    from: PathBuf,
    to: PathBuf,
    size: u64,
}

/// Blobs on their way to the disk.
pub struct Batch<'d> {
    disk: &'d Disk,
    pending: Vec<Pending>,
}

impl Batch<'_> {
    /// Adds a blob from memory.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn add_bytes(&mut self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        if self.disk.has(&digest)
            || self
                .pending
                .iter()
                .rev()
                .take(64)
                .any(|p| p.digest == digest)
        {
            return Ok(digest);
        }
        let compressed = if COMPRESS.contains(&(bytes.len() as u64)) {
            let smaller = zstd::bulk::compress(bytes, 1)?;
            (smaller.len() < bytes.len() / 8 * 7).then_some(smaller)
        } else {
            None
        };
        let from = self.disk.temporary();
        let content = compressed.as_deref().unwrap_or(bytes);
        std::fs::write(&from, content)?;
        let to = self.disk.path(&digest, compressed.is_some());
        self.keep(digest, from, to, content.len() as u64);
        Ok(digest)
    }

    /// Adds a blob from a reader, and says how long it was.
    ///
    /// # Errors
    /// When the reader or the disk refuses.
    pub fn add_reader(
        &mut self,
        reader: &mut dyn Read,
        expected: u64,
    ) -> io::Result<(Digest, u64)> {
        if expected < COMPRESS.end {
            let mut bytes = Vec::new();
            reader.take(COMPRESS.end).read_to_end(&mut bytes)?;
            if (bytes.len() as u64) < COMPRESS.end {
                let size = bytes.len() as u64;
                return Ok((self.add_bytes(&bytes)?, size));
            }
            return self.stream(&mut bytes.chain(reader));
        }
        self.stream(reader)
    }

    fn stream(&mut self, reader: &mut dyn Read) -> io::Result<(Digest, u64)> {
        let from = self.disk.temporary();
        let mut file = File::create(&from)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE];
        let mut size = 0_u64;
        loop {
            let count = reader.read(&mut piece)?;
            let bytes = piece.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            hasher.update(bytes);
            file.write_all(bytes)?;
            size += bytes.len() as u64;
        }
        let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
        if self.disk.has(&digest) {
            std::fs::remove_file(&from)?;
        } else {
            let to = self.disk.path(&digest, false);
            self.keep(digest, from, to, size);
        }
        Ok((digest, size))
    }

    fn keep(&mut self, digest: Digest, from: PathBuf, to: PathBuf, size: u64) {
        self.pending.push(Pending {
            digest,
            from,
            to,
            size,
        });
    }

    /// Makes everything durable, then visible. Answers the new blobs with their sizes on disk.
    ///
    /// # Errors
    /// When the disk refuses; then nothing of it is promised.
    pub fn commit(mut self) -> io::Result<Vec<(Digest, u64)>> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        let many = pending.len() > SYNC_EACH;
        if many {
            rustix::fs::syncfs(&self.disk.handle)?;
        } else {
            for blob in &pending {
                File::open(&blob.from)?.sync_all()?;
            }
        }
        for blob in &pending {
            std::fs::rename(&blob.from, &blob.to)?;
        }
        if many {
            rustix::fs::syncfs(&self.disk.handle)?;
        } else {
            for folder in pending.iter().filter_map(|blob| blob.to.parent()) {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok(pending
            .iter()
            .map(|blob| (blob.digest, blob.size))
            .collect())
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for blob in &self.pending {
            let _gone = std::fs::remove_file(&blob.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        (folder, disk)
    }

    fn read(disk: &Disk, digest: &Digest) -> Result<Vec<u8>, BlobError> {
        let mut out = Vec::new();
        disk.read(digest, u64::MAX, &mut out).map(|_| out)
    }

    #[test]
    fn what_was_written_is_read_and_nothing_is_visible_before_the_commit() {
        let (_folder, disk) = disk();
        let texts = [
            b"small".to_vec(),
            b"compressible ".repeat(5_000),
            vec![7; 9 << 20],
        ];
        for text in &texts {
            let mut batch = disk.batch();
            let (digest, size) = batch
                .add_reader(&mut text.as_slice(), text.len() as u64)
                .unwrap();
            assert_eq!((digest, size), (Digest::of(text), text.len() as u64));
            assert!(!disk.has(&digest));
            assert_eq!(batch.commit().unwrap().len(), 1);
            assert_eq!(&read(&disk, &digest).unwrap(), text);
        }
        assert_eq!(disk.list().unwrap().len(), texts.len());
    }

    #[test]
    fn cas_partial_upload_invisible() {
        let (folder, disk) = disk();
        let mut batch = disk.batch();
        let digest = batch.add_bytes(b"half").unwrap();
        drop(batch);
        assert!(!disk.has(&digest));
        assert_eq!(
            std::fs::read_dir(folder.path().join("tmp"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn cas_bitflip_is_miss() {
        let (_folder, disk) = disk();
        for text in [b"plain bytes".to_vec(), b"compressed bytes ".repeat(1_000)] {
            let mut batch = disk.batch();
            let digest = batch.add_bytes(&text).unwrap();
            batch.commit().unwrap();
            let path = [false, true].map(|z| disk.path(&digest, z));
            let path = path.iter().find(|p| p.exists()).unwrap();
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
            assert!(matches!(read(&disk, &digest), Err(BlobError::Miss(_))));
            assert!(!disk.has(&digest), "the damaged blob is gone");
        }
    }

    #[test]
    fn two_daemons_never_share_a_directory() {
        let (folder, _disk) = disk();
        assert!(Disk::open(folder.path()).is_err());
    }
}
