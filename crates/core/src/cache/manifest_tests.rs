//! Manifests that must be refused, and those that must not.

use proptest::prelude::*;

use super::*;

fn file(text: &str) -> Entry {
    Entry::File {
        digest: Digest::of(text.as_bytes()),
        size: text.len() as u64,
        executable: text.len().is_multiple_of(2),
        mtime_ns: 1_700_000_000_123_456_789,
    }
}

fn tree(entries: &[(&str, Entry)]) -> Tree {
    let entries = entries.iter().map(|(p, e)| ((*p).to_owned(), e.clone()));
    Tree::new(entries.collect()).unwrap()
}

#[test]
fn a_layer_over_its_base_is_the_later_tree() {
    let link = Entry::Link {
        target: "../a".to_owned(),
    };
    let base = tree(&[
        ("a", file("one")),
        ("d", Entry::Directory),
        ("d/gone", file("x")),
        ("dir", Entry::Directory),
        ("dir/deep", Entry::Directory),
        ("dir/deep/f", file("y")),
    ]);
    let now = tree(&[
        ("a", file("two!")),
        ("d", Entry::Directory),
        ("d/l", link),
        ("dir", file("a file now")),
        ("new", Entry::Directory),
    ]);
    let layer = base.diff(&now);
    assert_eq!(base.with_layer(&layer), Ok(now.clone()));
    let again = Layer::decode(&layer.encode()).unwrap();
    assert_eq!(again, layer);
    assert!(base.diff(&base).changes.is_empty());
    let back = now.diff(&base);
    assert_eq!(now.with_layer(&back), Ok(base));
}

#[test]
fn hostile_entries_refuse_the_whole() {
    let outside = |target: &str| Entry::Link {
        target: target.to_owned(),
    };
    for (path, entry) in [
        ("../x", file("x")),
        ("/etc/passwd", file("x")),
        ("a//b", file("x")),
        (".", Entry::Directory),
        ("a\n", file("x")),
        ("missing/child", file("x")),
        ("l", outside("/etc/passwd")),
        ("l", outside("..")),
        ("l", outside("a/../../b")),
        ("l", outside("")),
    ] {
        let entries = BTreeMap::from([(path.to_owned(), entry)]);
        assert!(Tree::new(entries).is_err(), "{path} was accepted");
    }
    let through_link = BTreeMap::from([
        ("l".to_owned(), outside("d")),
        ("l/x".to_owned(), file("x")),
    ]);
    assert!(Tree::new(through_link).is_err());
}

#[test]
fn every_cut_and_every_flipped_byte_is_an_error_or_another_good_tree() {
    let good = tree(&[("a", file("one")), ("b", Entry::Directory)]).encode();
    for end in 0..good.len() {
        assert!(Tree::decode(&good[..end]).is_err());
    }
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        if let Ok(other) = Tree::decode(&bytes) {
            assert_eq!(other.encode(), bytes, "one encoding per tree");
        }
    }
}

fn link(target: &str) -> Entry {
    Entry::Link {
        target: target.to_owned(),
    }
}

/// Refused when it is made, and when it comes as bytes that nobody checked before they were encoded.
fn is_refused(entries: &[(&str, Entry)]) {
    let all: BTreeMap<String, Entry> = entries
        .iter()
        .map(|(path, entry)| ((*path).to_owned(), entry.clone()))
        .collect();
    assert!(Tree::new(all.clone()).is_err(), "{entries:?} was accepted");
    let unchecked = Tree { entries: all }.encode();
    assert!(Tree::decode(&unchecked).is_err(), "{entries:?} was read");
    let changes = entries
        .iter()
        .map(|(path, entry)| ((*path).to_owned(), Some(entry.clone())));
    let layer = Layer {
        changes: changes.collect(),
    };
    let read = Layer::decode(&layer.encode()).and_then(|layer| Tree::default().with_layer(&layer));
    assert!(read.is_err(), "{entries:?} was laid over nothing");
}

// No archive is read here: workspaces are manifests. What a hostile archive may say, a hostile manifest
// may say too.

#[test]
fn hostile_h063_a_name_that_climbs_out_refuses_the_whole() {
    for path in ["../evil", "..", "a/../../evil", "a/..", "./evil", "a/./b"] {
        is_refused(&[
            ("a", Entry::Directory),
            ("good", file("x")),
            (path, file("x")),
        ]);
    }
}

#[test]
fn hostile_h064_an_absolute_name_refuses_the_whole_and_is_not_made_relative() {
    for path in ["/etc/passwd", "//etc/passwd", "/"] {
        is_refused(&[("good", file("x")), (path, file("x"))]);
    }
}

#[test]
fn hostile_h065_nothing_is_written_through_a_link() {
    is_refused(&[("d", link("../outside"))]);
    is_refused(&[("d", link("/outside"))]);
    is_refused(&[
        ("e", Entry::Directory),
        ("d", link("e")),
        ("d/pwned", file("x")),
    ]);
}

#[test]
fn hostile_h066_a_name_is_one_thing() {
    // Twice in the bytes, as a link and as a folder: names come in strictly rising order.
    let once = tree(&[("s", Entry::Directory)]).encode();
    let again = tree(&[("s", link("t"))]).encode();
    let count = TREE_MAGIC.len() + 4;
    let mut twice = once.clone();
    twice.extend(&again[count..]);
    twice[TREE_MAGIC.len()..count].copy_from_slice(&2_u32.to_le_bytes());
    assert!(Tree::decode(&twice).is_err());
    is_refused(&[("s", link("t")), ("s/x", file("x"))]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = TREE_MAGIC.to_vec();
        framed.extend(&bytes);
        let _either = Tree::decode(&framed);
        let _either = Layer::decode(&bytes);
    }
}
