//! The form in which a layer or a tree travels: independent frames, and a header that says what is in
//! them.
//!
//! The header names every frame by the hash of its *compressed* bytes, and is itself named by its hash:
//! whoever knows that name hands nothing to a decoder that the header does not vouch for. Each blob is
//! hashed again after decoding. The first blob is the manifest that names the pack's content.

use crate::digest::Digest;

/// Bytes of a frame before compression: the unit of checking and of resuming.
pub const FRAME_RAW: u64 = 4 << 20;
/// What compression may add to a frame that it cannot shrink.
const FRAME_SLACK: u64 = 64 * 1024;
/// Blobs of one pack: a manifest and what it names.
pub const BLOBS_MAX: usize = 200_001;
/// Bytes of a pack before compression.
pub const RAW_MAX: u64 = 1 << 40;
/// Bytes of a header: every blob and every frame has a row of 40.
pub const HEADER_MAX: usize = 24 << 20;

const MAGIC: &[u8; 4] = b"SLP1";
const ROW: usize = 40;
const FIXED: usize = 20;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes as they are stored and sent.
    pub stored: u32,
    /// Bytes after decoding.
    pub raw: u32,
    /// The hash of the stored bytes.
    pub digest: Digest,
}

/// What is in a pack, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The frames.
    pub frames: Vec<Frame>,
    /// The blobs with their sizes, laid end to end over the frames.
    pub blobs: Vec<(Digest, u64)>,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pack's header is refused: {0}")]
pub struct PackError(&'static str);

/// Frames that so many bytes need.
#[must_use]
pub fn frames_of(raw: u64) -> u64 {
    raw.div_ceil(FRAME_RAW)
}

/// Bytes of the header of a pack with so many frames and blobs.
#[must_use]
pub fn header_len(frames: u64, blobs: usize) -> u64 {
    (FIXED + blobs * ROW) as u64 + frames * ROW as u64
}

impl Header {
    /// Bytes before compression.
    #[must_use]
    pub fn raw(&self) -> u64 {
        let sizes = self.blobs.iter().map(|(_, size)| *size);
        sizes.fold(0, u64::saturating_add)
    }

    /// Bytes of all frames as they are stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored_before(self.frames.len())
    }

    /// Bytes of the frames before this one.
    #[must_use]
    pub fn stored_before(&self, frame: usize) -> u64 {
        let frames = self.frames.iter().take(frame);
        frames.map(|f| u64::from(f.stored)).sum()
    }

    /// The one encoding; its digest names the pack.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(count(self.frames.len()).to_le_bytes());
        out.extend(count(self.blobs.len()).to_le_bytes());
        out.extend(self.raw().to_le_bytes());
        for frame in &self.frames {
            out.extend(frame.stored.to_le_bytes());
            out.extend(frame.raw.to_le_bytes());
            out.extend(frame.digest.as_bytes());
        }
        for (digest, size) in &self.blobs {
            out.extend(digest.as_bytes());
            out.extend(size.to_le_bytes());
        }
        out
    }

    /// Reads an encoding and checks that its sums agree.
    ///
    /// # Errors
    /// When they do not, or anything in it is out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, PackError> {
        let short = PackError("it ends early");
        let (fixed, rows) = bytes.split_at_checked(FIXED).ok_or(short)?;
        if fixed.get(..4) != Some(MAGIC) {
            return Err(PackError("another kind of file"));
        }
        let frames = u64::from(u32_at(fixed, 4).ok_or(short)?);
        let blobs = u32_at(fixed, 8).ok_or(short)? as usize;
        let raw = u64_at(fixed, 12).ok_or(short)?;
        if blobs == 0 || blobs > BLOBS_MAX || raw > RAW_MAX || frames != frames_of(raw) {
            return Err(PackError("its counts are out of bounds"));
        }
        if bytes.len() as u64 != header_len(frames, blobs) {
            return Err(PackError("its length is not that of its rows"));
        }
        let split = usize::try_from(frames).map_err(|_| short)? * ROW;
        let (frame_rows, blob_rows) = rows.split_at_checked(split).ok_or(short)?;
        let mut header = Self {
            frames: Vec::new(),
            blobs: Vec::new(),
        };
        let mut left = raw;
        for row in frame_rows.chunks_exact(ROW) {
            let frame = Frame {
                stored: u32_at(row, 0).ok_or(short)?,
                raw: u32_at(row, 4).ok_or(short)?,
                digest: digest_at(row, 8).ok_or(short)?,
            };
            if u64::from(frame.raw) != left.min(FRAME_RAW)
                || frame.stored == 0
                || u64::from(frame.stored) > FRAME_RAW + FRAME_SLACK
            {
                return Err(PackError("a frame is out of bounds"));
            }
            left -= u64::from(frame.raw);
            header.frames.push(frame);
        }
        let mut sum = 0_u64;
        for row in blob_rows.chunks_exact(ROW) {
            let digest = digest_at(row, 0).ok_or(short)?;
            let size = u64_at(row, 32).ok_or(short)?;
            sum = sum
                .checked_add(size)
                .ok_or(PackError("its sums disagree"))?;
            header.blobs.push((digest, size));
        }
        if sum != raw {
            return Err(PackError("its sums disagree"));
        }
        Ok(header)
    }
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn digest_at(bytes: &[u8], at: usize) -> Option<Digest> {
    let digest = bytes.get(at..at + 32)?.try_into().ok()?;
    Some(Digest::from_bytes(digest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(sizes: &[u64]) -> Header {
        let raw: u64 = sizes.iter().sum();
        let mut left = raw;
        let mut frames = Vec::new();
        while left > 0 {
            let part = left.min(FRAME_RAW);
            left -= part;
            frames.push(Frame {
                stored: 7,
                raw: part as u32,
                digest: Digest::of(&left.to_le_bytes()),
            });
        }
        let blobs = sizes.iter().map(|s| (Digest::of(&s.to_le_bytes()), *s));
        Header {
            frames,
            blobs: blobs.collect(),
        }
    }

    proptest! {
        #[test]
        fn a_header_is_read_back(sizes in proptest::collection::vec(0_u64..9_000_000, 1..20)) {
            let header = header(&sizes);
            let bytes = header.encode();
            prop_assert_eq!(bytes.len() as u64, header_len(frames_of(header.raw()), sizes.len()));
            prop_assert_eq!(Header::decode(&bytes), Ok(header));
        }

        #[test]
        fn a_changed_header_is_never_read_as_the_same(
            sizes in proptest::collection::vec(0_u64..9_000_000, 1..8),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let before = header(&sizes);
            let mut bytes = before.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(Header::decode(&bytes), Ok(before));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _whatever = Header::decode(&bytes);
            let _with_magic = Header::decode(&[MAGIC.as_slice(), &bytes].concat());
        }
    }

    #[test]
    fn sums_that_lie_are_refused() {
        let good = header(&[5_000_000, 3]);
        let lie = |change: &dyn Fn(&mut Header)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(Header::decode(&bad.encode()).is_err());
        };
        lie(&|h| h.frames[0].raw -= 1);
        lie(&|h| h.frames[1].raw += 1);
        lie(&|h| h.frames[0].stored = u32::MAX);
        lie(&|h| h.frames.truncate(1));
        lie(&|h| h.blobs[0].1 = u64::MAX);
        lie(&|h| h.blobs.clear());
        let mut longer = good.encode();
        longer.push(0);
        assert!(Header::decode(&longer).is_err());
    }
}
