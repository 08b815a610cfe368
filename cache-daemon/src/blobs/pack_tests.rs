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
