//! Blobs on the disk: written whole, read checked.

use super::*;
use crate::blobs::Durable;
use crate::index::MemoryIndex;

fn disk() -> (tempfile::TempDir, Disk) {
    let folder = tempfile::tempdir().unwrap();
    let disk = reopened(folder.path());
    (folder, disk)
}

fn reopened(folder: &Path) -> Disk {
    Disk::open(folder, Arc::new(MemoryIndex::default()), 1 << 30).unwrap()
}

fn read(disk: &Disk, digest: &Digest) -> Result<Vec<u8>, BlobError> {
    let mut out = Vec::new();
    disk.read(digest, u64::MAX, &mut out).map(|_| out)
}

fn put(disk: &Disk, text: &[u8]) -> Digest {
    let mut batch = disk.batch();
    let digest = batch.add_bytes(text).unwrap();
    batch.commit(Durable::Now).unwrap();
    digest
}

fn count(folder: &Path, name: &str) -> usize {
    std::fs::read_dir(folder.join(name)).unwrap().count()
}

#[test]
fn what_was_written_is_read_and_nothing_is_visible_before_the_commit() {
    let (_folder, disk) = disk();
    let texts = [
        Vec::new(),
        b"small".to_vec(),
        vec![7; PIECE],
        vec![7; 9 << 20],
    ];
    for text in &texts {
        let mut batch = disk.batch();
        let (digest, size) = batch.add_reader(&mut text.as_slice()).unwrap();
        assert_eq!((digest, size), (Digest::of(text), text.len() as u64));
        assert!(!disk.has(&digest));
        assert_eq!(batch.commit(Durable::Later).unwrap().len(), 1);
        assert_eq!(&read(&disk, &digest).unwrap(), text);
        let mut batch = disk.batch();
        batch.add_reader(&mut text.as_slice()).unwrap();
        assert!(batch.commit(Durable::Later).unwrap().is_empty(), "known");
    }
    assert_eq!(disk.list().unwrap().len(), texts.len());
    assert_eq!(disk.space.reserved(), 0);
}

#[test]
fn cas_partial_upload_invisible() {
    let (folder, disk) = disk();
    let mut batch = disk.batch();
    let digest = batch.add_bytes(b"half").unwrap();
    drop(batch);
    assert!(!disk.has(&digest));
    assert_eq!(count(folder.path(), "tmp"), 0);
    assert_eq!(disk.space.reserved(), 0);
}

#[test]
fn cas_bitflip_is_miss() {
    let (folder, disk) = disk();
    let text = b"plain bytes".repeat(100_000);
    for damage in 0..3 {
        let digest = put(&disk, &text);
        let path = disk.path(Kind::Object, &digest, text.len() as u64);
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            0 => bytes[500_000] ^= 1,
            1 => bytes.truncate(1_000),
            _ => bytes.swap(0, 5),
        }
        std::fs::write(&path, bytes).unwrap();
        let mut out = Vec::new();
        let answer = disk.read(&digest, u64::MAX, &mut out);
        assert!(matches!(answer, Err(BlobError::Miss(_))));
        assert!(out.len() < text.len(), "it never left as a whole");
        let _also_when_too_short = disk.list().unwrap();
        assert!(!disk.has(&digest), "the damaged blob is gone");
        assert_eq!(count(folder.path(), "quarantine"), 1);
    }
}

#[test]
fn two_swapped_files_are_two_misses() {
    let (_folder, disk) = disk();
    let [a, b] = [b"aaaa", b"bbbb"].map(|text| put(&disk, text));
    let [of_a, of_b] = [a, b].map(|digest| disk.path(Kind::Object, &digest, 4));
    std::fs::write(of_a, b"bbbb").unwrap();
    std::fs::write(of_b, b"aaaa").unwrap();
    assert!(read(&disk, &a).is_err() && read(&disk, &b).is_err());
}

#[test]
fn before_the_listing_is_over_a_blob_is_found_by_its_name_and_a_short_file_is_not() {
    let (folder, disk) = disk();
    let good = put(&disk, b"good");
    let short = put(&disk, b"short");
    std::fs::write(disk.path(Kind::Object, &short, 5), b"sho").unwrap();
    drop(disk);
    let disk = reopened(folder.path());
    assert_eq!(read(&disk, &good).unwrap(), b"good");
    assert!(!disk.has(&short));
    let listed = disk.list().unwrap();
    assert_eq!(listed.len(), 1);
    disk.listing_is_over();
    assert!(!disk.has(&good), "from now on the index is what counts");
}

#[test]
fn only_an_orderly_end_leaves_nothing_suspect() {
    let (folder, disk) = disk();
    let at = Timestamp::from_millis;
    disk.mark_clean(at(1_000)).unwrap();
    drop(disk);
    let disk = reopened(folder.path());
    assert!(!disk.is_suspect(at(2_000)));
    put(&disk, b"written");
    disk.checkpoint(at(5_000)).unwrap();
    drop(disk);
    let disk = reopened(folder.path());
    assert!(disk.is_suspect(at(5_001)) && !disk.is_suspect(at(4_999)));
}

#[test]
fn hostile_h059_what_was_announced_is_all_that_is_taken() {
    let (folder, disk) = disk();
    let text = vec![1_u8; 1 << 20];
    let digest = Digest::of(&text);
    let announce = |size: u64, digest: &Digest| {
        let mut batch = disk.batch();
        let answer = batch.add_announced(&mut text.as_slice(), digest, size);
        assert!(matches!(answer, Err(BlobError::Mismatch(_))), "{answer:?}");
        assert!(batch.commit(Durable::Later).unwrap().is_empty());
        assert_eq!(count(folder.path(), "tmp"), 0);
        assert_eq!(disk.space.reserved(), 0);
    };
    announce(10, &digest);
    announce(10 << 20, &digest);
    announce(1 << 20, &Digest::of(b"another"));
    let mut batch = disk.batch();
    let good = batch.add_announced(&mut text.as_slice(), &digest, 1 << 20);
    good.unwrap();
    batch.commit(Durable::Later).unwrap();
    assert_eq!(read(&disk, &digest).unwrap(), text);
}

#[test]
fn above_the_quota_is_full_and_what_was_reserved_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let index = Arc::new(MemoryIndex::default());
    let disk = Disk::open(folder.path(), index, 1 << 20).unwrap();
    let mut batch = disk.batch();
    let endless = batch.add_reader(&mut std::io::repeat(7));
    assert!(matches!(endless, Err(BlobError::Full(_))));
    drop(batch);
    assert_eq!(disk.space.reserved(), 0);
    assert_eq!(count(folder.path(), "tmp"), 0);
    let mut batch = disk.batch();
    batch.add_bytes(&[1; 500_000]).unwrap();
    assert!(matches!(
        batch.add_bytes(&[2; 700_000]),
        Err(BlobError::Full(_))
    ));
}

#[test]
fn two_daemons_never_share_a_directory() {
    let (folder, _disk) = disk();
    let index = Arc::new(MemoryIndex::default());
    assert!(Disk::open(folder.path(), index, 0).is_err());
}

/// An index that is asked at the worst moment: once it has said that it knows nothing, something happens.
#[derive(Default)]
struct Interrupted {
    index: MemoryIndex,
    then: std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl BlobIndex for Interrupted {
    fn record(&self, entry: Entry) {
        self.index.record(entry);
    }
    fn touch(&self, kind: Kind, digest: &Digest, now: Timestamp) {
        self.index.touch(kind, digest, now);
    }
    fn forget(&self, kind: Kind, digest: &Digest) {
        self.index.forget(kind, digest);
    }
    fn get(&self, kind: Kind, digest: &Digest) -> Option<Entry> {
        let known = self.index.get(kind, digest);
        let then = self.then.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
        known
    }
    fn entries(&self) -> Vec<Entry> {
        self.index.entries()
    }
    fn totals(&self) -> (u64, u64) {
        self.index.totals()
    }
    fn recall(&self) {}
    fn flush(&self) {}
}

#[test]
fn a_blob_is_no_miss_when_the_listing_ends_while_it_is_looked_for() {
    let (folder, disk) = disk();
    let digest = put(&disk, b"here all along");
    drop(disk);
    let index = Arc::new(Interrupted::default());
    let known = Arc::clone(&index) as Arc<dyn BlobIndex>;
    let disk = Arc::new(Disk::open(folder.path(), known, 1 << 30).unwrap());
    let listing = Arc::clone(&disk);
    *index.then.lock().unwrap() = Some(Box::new(move || listing.listing_is_over()));
    assert_eq!(disk.find(Kind::Object, &digest), Some(14));
}
