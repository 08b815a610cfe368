//! Packs: made, read back, damaged.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::blobs::Durable;
use crate::index::MemoryIndex;
use crate::noise::noise;

fn disk(folder: &Path) -> Disk {
    let index = Arc::new(MemoryIndex::default());
    Disk::open(folder, index, 1 << 30).unwrap()
}

/// A disk with some blobs, their pack under the first one's name.
fn packed(folder: &Path) -> (Disk, Vec<Vec<u8>>, Digest) {
    let disk = disk(folder);
    let texts = vec![
        b"manifest".to_vec(),
        Vec::new(),
        noise(9 << 20, 3),
        b"shrinks well ".repeat(500_000),
        noise(1_000, 5),
    ];
    let mut batch = disk.batch();
    let names: Vec<Digest> = texts.iter().map(|t| batch.add_bytes(t).unwrap()).collect();
    for (digest, size) in batch.commit(Durable::Later).unwrap() {
        disk.record(
            Kind::Object,
            digest,
            size,
            slipway_core::time::Timestamp::EPOCH,
        );
    }
    let size = make(&disk, &names[0], names[1..].iter().copied(), true).unwrap();
    disk.record(
        Kind::Pack,
        names[0],
        size,
        slipway_core::time::Timestamp::EPOCH,
    );
    assert!(size < 12 << 20, "what shrinks is shrunk: {size}");
    (disk, texts, names[0])
}

#[test]
fn a_pack_comes_apart_into_what_it_was_made_of() {
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (here, texts, layer) = packed(a.path());
    let pack = Pack::open(&here, &layer).unwrap();
    assert_eq!(here.space.reserved(), 0);
    let there = disk(b.path());
    let mut batch = there.batch();
    pack.unpack(&mut batch).unwrap();
    assert_eq!(batch.commit(Durable::Later).unwrap().len(), texts.len());
    for text in &texts {
        let mut out = Vec::new();
        there.read(&Digest::of(text), u64::MAX, &mut out).unwrap();
        assert_eq!(&out, text);
    }
}

#[test]
fn any_decoder_of_zstd_decodes_a_pack() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, texts, layer) = packed(folder.path());
    let size = disk.find(Kind::Pack, &layer).unwrap();
    let path = disk.path(Kind::Pack, &layer, size);
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(zstd::decode_all(bytes.as_slice()).unwrap(), texts.concat());
}

#[test]
fn a_damaged_frame_never_reaches_the_decoder_and_a_damaged_header_is_put_aside() {
    let [a, b] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (here, _, layer) = packed(a.path());
    let size = here.find(Kind::Pack, &layer).unwrap();
    let path = here.path(Kind::Pack, &layer, size);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let pack = Pack::open(&here, &layer).unwrap();
    let there = disk(b.path());
    let mut batch = there.batch();
    assert!(pack.unpack(&mut batch).is_err());
    let mut bad = good;
    bad[20] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert!(Pack::open(&here, &layer).is_err());
    assert!(here.find(Kind::Pack, &layer).is_none());
}

/// A pack of one blob in one frame, whatever the frame's bytes are: each digest is right.
fn made_of(stored: &[u8], raw: u32, blob: (Digest, u64)) -> (tempfile::TempDir, Disk, Digest) {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let header = Header {
        frames: vec![slipway_core::cache::pack::Frame {
            stored: u32::try_from(stored.len()).unwrap(),
            raw,
            digest: Digest::of(stored),
        }],
        blobs: vec![blob],
    };
    let encoded = header.encode();
    let mut bytes = SKIPPABLE.to_le_bytes().to_vec();
    bytes.extend(u32::try_from(encoded.len()).unwrap().to_le_bytes());
    bytes.extend(&encoded);
    bytes.extend(stored);
    let (layer, size) = (blob.0, bytes.len() as u64);
    let path = disk.path(Kind::Pack, &layer, size);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    disk.record(
        Kind::Pack,
        layer,
        size,
        slipway_core::time::Timestamp::EPOCH,
    );
    (folder, disk, layer)
}

fn unpacks(stored: &[u8], text: &[u8]) -> bool {
    let blob = (Digest::of(text), text.len() as u64);
    let raw = u32::try_from(text.len()).unwrap();
    let (_folder, here, layer) = made_of(stored, raw, blob);
    let Ok(pack) = Pack::open(&here, &layer) else {
        return false;
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let there = disk(elsewhere.path());
    let mut batch = there.batch();
    let good = pack.unpack(&mut batch).is_ok();
    drop(batch);
    if !good {
        assert!(
            there.find(Kind::Object, &blob.0).is_none(),
            "something was kept"
        );
    }
    good
}

/// The most memory that this process had, KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn hostile_h071_frames_that_are_not_what_they_should_be_are_refused_without_their_memory() {
    use std::io::Write as _;
    let text = noise(100_000, 9);
    let plain = zstd::bulk::compress(&text, 1).unwrap();
    assert!(unpacks(&plain, &text), "the control");
    // A window of 2 GiB, as `--long=31` announces it: a frame is decoded in one pass into the bytes that were
    // announced for it, no window is made, and nobody's memory is taken.
    let mut long = zstd::Encoder::new(Vec::new(), 1).unwrap();
    long.window_log(31).unwrap();
    long.write_all(&text).unwrap();
    let long = long.finish().unwrap();
    let before = peak();
    assert!(unpacks(&long, &text));
    assert!(
        peak() - before < 512 << 10,
        "KiB, with what other tests take"
    );
    // Two frames where one is announced, a cut one, and a wrong checksum.
    let mut two = plain.clone();
    two.extend(&plain);
    assert!(!unpacks(&two, &text), "trailing data");
    assert!(!unpacks(&plain[..plain.len() - 1], &text), "cut");
    let mut summed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    summed.include_checksum(true).unwrap();
    summed.write_all(&text).unwrap();
    let mut summed = summed.finish().unwrap();
    let last = summed.len() - 1;
    summed[last] ^= 1;
    assert!(!unpacks(&summed, &text), "a wrong checksum");
    // A bomb: more comes out than was announced.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    assert!(!unpacks(&bomb, &text), "a bomb");
    assert!(!unpacks(b"", &text) && !unpacks(b"no zstd at all", &text));
}
