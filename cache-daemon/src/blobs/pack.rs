//! Packs on the disk: made from blobs, received frame by frame, taken apart into blobs again.
//!
//! A pack file is a zstd skippable frame with the header, then the frames: any zstd tool decodes it,
//! ours takes only this layout.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use slipway_core::cache::eviction::{Kind, on_disk};
use slipway_core::cache::pack::{FRAME_RAW, Frame, HEADER_MAX, Header, frames_of, header_len};
use slipway_core::digest::Digest;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use super::disk::PIECE;
use super::{Batch, BlobError, Disk};

/// The magic number of a skippable frame that is ours.
const SKIPPABLE: u32 = 0x184D_2A5E;
/// In front of the header: that number, and the header's length.
const PREFIX: u64 = 8;
/// The level that costs less than what it saves on a network of ten gigabits.
const LEVEL: i32 = 1;
/// The level for what does not shrink: as it is, with a checksum.
const STORE: i32 = -50;
/// How much of a frame is tried …
const SAMPLE: usize = 64 * 1024;
/// … and how much of it must go (percent) to be worth the trouble.
const WORTH: usize = 5;
/// A decoder's window: no frame needs more.
const WINDOW_LOG: u32 = 22;
/// What a pack takes at most, of what it holds: zstd's worst case and the header.
const OVERHEAD: u64 = 1 << 20;

/// A pack in the store.
pub(crate) struct Pack {
    file: File,
    pub(crate) header: Header,
    /// The header's encoding and its name.
    pub(crate) encoded: Vec<u8>,
    pub(crate) id: Digest,
}

fn broken(what: &'static str) -> BlobError {
    BlobError::Mismatch(what)
}

impl Pack {
    /// Opens a layer's pack. A damaged header is put aside.
    pub(crate) fn open(disk: &Disk, layer: &Digest) -> Result<Self, BlobError> {
        let miss = || BlobError::Miss(*layer);
        let size = disk.find(Kind::Pack, layer).ok_or_else(miss)?;
        let file = File::open(disk.path(Kind::Pack, layer, size)).map_err(|_| miss())?;
        read_header(file, size).map_err(|_| {
            disk.quarantine(Kind::Pack, layer, size);
            miss()
        })
    }

    fn body(&self) -> u64 {
        PREFIX + self.encoded.len() as u64
    }

    /// Stored bytes from this place of the frames on.
    pub(crate) fn read_at(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, self.body() + at)
    }

    /// Puts every blob that is not here yet into `batch`, each hashed again.
    pub(crate) fn unpack(&self, batch: &mut Batch<'_>) -> Result<(), BlobError> {
        let mut reader = Raw::new(self)?;
        for (digest, size) in &self.header.blobs {
            let mut part = (&mut reader).take(*size);
            batch.add_announced(&mut part, digest, *size)?;
        }
        Ok(())
    }
}

fn read_header(file: File, size: u64) -> Result<Pack, BlobError> {
    let mut prefix = [0; PREFIX as usize];
    file.read_exact_at(&mut prefix, 0)?;
    let (magic, length) = prefix.split_at(4);
    let length = u32::from_le_bytes(length.try_into().map_err(|_| broken("a pack"))?);
    if magic != SKIPPABLE.to_le_bytes() || length as usize > HEADER_MAX {
        return Err(broken("a pack's header"));
    }
    let mut encoded = vec![0; length as usize];
    file.read_exact_at(&mut encoded, PREFIX)?;
    let header = Header::decode(&encoded).map_err(|_| broken("a pack's header"))?;
    if PREFIX + u64::from(length) + header.stored() != size {
        return Err(broken("a pack's length"));
    }
    let id = Digest::of(&encoded);
    Ok(Pack {
        file,
        header,
        encoded,
        id,
    })
}

/// The frames decoded, one after the other, as a reader.
struct Raw<'p> {
    pack: &'p Pack,
    decoder: Decompressor<'static>,
    next: usize,
    at: u64,
    stored: Vec<u8>,
    decoded: Vec<u8>,
    used: usize,
}

impl<'p> Raw<'p> {
    fn new(pack: &'p Pack) -> Result<Self, BlobError> {
        let mut decoder = Decompressor::new()?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Self {
            pack,
            decoder,
            next: 0,
            at: 0,
            stored: Vec::new(),
            decoded: Vec::new(),
            used: 0,
        })
    }

    /// Decodes the next frame; false behind the last.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(frame) = self.pack.header.frames.get(self.next) else {
            return Ok(false);
        };
        self.stored.resize(frame.stored as usize, 0);
        self.pack.read_at(self.at, &mut self.stored)?;
        // Nothing that was not vouched for reaches the decoder, not even after years on a disk.
        if Digest::of(&self.stored) != frame.digest {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        self.decoded = self.decoder.decompress(&self.stored, frame.raw as usize)?;
        if self.decoded.len() != frame.raw as usize {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        self.at += u64::from(frame.stored);
        self.next += 1;
        self.used = 0;
        Ok(true)
    }
}

impl Read for Raw<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.used >= self.decoded.len() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let rest = self.decoded.get(self.used..).unwrap_or_default();
        let count = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.used += count;
        Ok(count)
    }
}

/// A pack on its way to the disk; what is not finished leaves nothing behind.
pub(crate) struct Incoming<'d> {
    disk: &'d Disk,
    path: PathBuf,
    file: File,
    layer: Digest,
    size: u64,
    reserved: u64,
}

impl<'d> Incoming<'d> {
    /// Reserves room for `size` bytes, on the disk as well.
    pub(crate) fn begin(disk: &'d Disk, layer: &Digest, size: u64) -> Result<Self, BlobError> {
        let reserved = on_disk(size);
        if !disk.has_room(reserved) {
            return Err(BlobError::Full(reserved));
        }
        let path = disk.fresh("tmp");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let file = file.inspect_err(|_| disk.space.give_back(reserved))?;
        let incoming = Self {
            disk,
            path,
            file,
            layer: *layer,
            size,
            reserved,
        };
        // Not every file system can; then the blocks are found while writing.
        let none = rustix::fs::FallocateFlags::empty();
        let _slower = rustix::fs::fallocate(&incoming.file, none, 0, size.max(1));
        Ok(incoming)
    }

    /// The same for a pack whose header is known, which is written at once.
    pub(crate) fn with_header(
        disk: &'d Disk,
        layer: &Digest,
        header: &Header,
        encoded: &[u8],
    ) -> Result<Self, BlobError> {
        let size = PREFIX + encoded.len() as u64 + header.stored();
        let incoming = Self::begin(disk, layer, size)?;
        incoming.put_header(encoded)?;
        Ok(incoming)
    }

    fn put_header(&self, encoded: &[u8]) -> io::Result<()> {
        let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        let prefix = [SKIPPABLE.to_le_bytes(), length.to_le_bytes()].concat();
        self.file.write_all_at(&prefix, 0)?;
        self.file.write_all_at(encoded, PREFIX)
    }

    /// Where the frames begin.
    pub(crate) fn body(header: &Header) -> u64 {
        PREFIX + header_len(header.frames.len() as u64, header.blobs.len())
    }

    /// Bytes at a place of the file.
    pub(crate) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// Makes it visible; with `durable`, only once it is on the disk. Answers its size.
    pub(crate) fn finish(mut self, durable: bool) -> Result<u64, BlobError> {
        self.file.set_len(self.size)?;
        if durable {
            self.file.sync_data()?;
        }
        let to = self.disk.path(Kind::Pack, &self.layer, self.size);
        std::fs::rename(&self.path, &to)?;
        self.path = PathBuf::new();
        if durable && let Some(folder) = to.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.disk.dirty.store(true, Ordering::Release);
        Ok(self.size)
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _gone = std::fs::remove_file(&self.path);
        }
        self.disk.space.give_back(self.reserved);
    }
}

/// Makes the pack of a manifest and the blobs it names, which are all here. Answers its size.
pub(crate) fn make(
    disk: &Disk,
    layer: &Digest,
    named: impl Iterator<Item = Digest>,
    durable: bool,
) -> Result<u64, BlobError> {
    let mut blobs = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for digest in std::iter::once(*layer).chain(named) {
        if seen.insert(digest) {
            let size = disk.find(Kind::Object, &digest);
            blobs.push((digest, size.ok_or(BlobError::Miss(digest))?));
        }
    }
    let raw: u64 = blobs.iter().map(|(_, size)| *size).sum();
    let frames = frames_of(raw);
    let body = PREFIX + header_len(frames, blobs.len());
    let incoming = Incoming::begin(disk, layer, body + raw + raw / 200 + OVERHEAD)?;
    let mut packing = Packing::new(&incoming, body)?;
    for (digest, size) in &blobs {
        disk.read(digest, *size, &mut packing)?;
    }
    let (frames, end) = packing.end()?;
    let header = Header { frames, blobs };
    incoming.put_header(&header.encode())?;
    let mut incoming = incoming;
    incoming.size = end;
    incoming.finish(durable)
}

/// Collects raw bytes into frames.
struct Packing<'i, 'd> {
    incoming: &'i Incoming<'d>,
    shrink: Compressor<'static>,
    store: Compressor<'static>,
    raw: Vec<u8>,
    frames: Vec<Frame>,
    at: u64,
}

impl<'i, 'd> Packing<'i, 'd> {
    fn new(incoming: &'i Incoming<'d>, at: u64) -> io::Result<Self> {
        let compressor = |level| {
            let mut compressor = Compressor::new(level)?;
            compressor.set_parameter(CParameter::ChecksumFlag(true))?;
            Ok::<_, io::Error>(compressor)
        };
        Ok(Self {
            incoming,
            shrink: compressor(LEVEL)?,
            store: compressor(STORE)?,
            raw: Vec::new(),
            frames: Vec::new(),
            at,
        })
    }

    fn frame(&mut self) -> io::Result<()> {
        let sample = self.raw.get(..SAMPLE).unwrap_or(&self.raw);
        let tried = self.shrink.compress(sample)?.len();
        let shrinks = tried + sample.len() / 100 * WORTH < sample.len();
        let compressor = if shrinks {
            &mut self.shrink
        } else {
            &mut self.store
        };
        let stored = compressor.compress(&self.raw)?;
        self.incoming.write_at(&stored, self.at)?;
        let short = |length: usize| u32::try_from(length).map_err(io::Error::other);
        self.frames.push(Frame {
            stored: short(stored.len())?,
            raw: short(self.raw.len())?,
            digest: Digest::of(&stored),
        });
        self.at += stored.len() as u64;
        self.raw.clear();
        Ok(())
    }

    fn end(mut self) -> io::Result<(Vec<Frame>, u64)> {
        if !self.raw.is_empty() {
            self.frame()?;
        }
        Ok((self.frames, self.at))
    }
}

impl Write for Packing<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (FRAME_RAW as usize).saturating_sub(self.raw.len());
        let taken = bytes.get(..room.min(PIECE)).unwrap_or(bytes);
        self.raw.extend_from_slice(taken);
        if self.raw.len() as u64 >= FRAME_RAW {
            self.frame()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
