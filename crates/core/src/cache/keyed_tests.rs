//! Which entry is found, and which leaves.
use proptest::prelude::*;

use super::*;

fn entry(scope: &str, key: &str, saved: i64) -> Kept {
    Kept {
        scope: scope.to_owned(),
        trusted: !scope.contains("outside"),
        key: key.to_owned(),
        paths: vec!["target".to_owned()],
        root: Digest::of(key.as_bytes()),
        bytes: 10,
        saved_at: Timestamp::from_millis(saved),
        used_at: Timestamp::from_millis(saved),
    }
}

fn found<'k>(kept: &'k [Kept], scopes: &[&str], key: &str, prefixes: &[&str]) -> Vec<&'k str> {
    let texts = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let wanted = Wanted {
        scopes: &texts(scopes),
        key,
        restore_keys: &texts(prefixes),
        paths: &["target".to_owned()],
    };
    let found = matching(kept, wanted);
    found.into_iter().map(|e| e.key.as_str()).collect()
}

#[test]
fn the_exact_key_wins_then_prefixes_in_their_order_with_the_newest_first() {
    let kept = [
        entry("r/trusted", "cargo-old", 1),
        entry("r/trusted", "cargo-new", 3),
        entry("r/trusted", "cargo-exact", 2),
        entry("r/trusted", "c", 9),
        entry("r/trusted", "npm-1", 8),
    ];
    assert_eq!(
        found(&kept, &["r/trusted"], "cargo-exact", &["cargo-", "c"]),
        ["cargo-exact", "cargo-new", "cargo-old", "c"]
    );
    assert_eq!(found(&kept, &["r/trusted"], "cargo-", &[]), [""; 0]);
    assert_eq!(
        found(&kept, &["r/trusted"], "none", &[""]),
        [""; 0],
        "an empty prefix would take another stage's entry"
    );
}

#[test]
fn an_entry_of_other_paths_is_not_found() {
    let mut other = entry("r/trusted", "k", 1);
    other.paths = vec!["target".to_owned(), "vendor".to_owned()];
    assert_eq!(found(&[other], &["r/trusted"], "k", &["k"]), [""; 0]);
}

#[test]
fn the_own_scope_goes_before_others_and_no_further_scope_is_read() {
    let kept = [
        entry("r/trusted", "k-1", 9),
        entry("r/outside:refs/pull/7/head", "k-2", 1),
        entry("r/outside:refs/pull/8/head", "k-3", 20),
        entry("s/trusted", "k-4", 30),
    ];
    let fork = ["r/outside:refs/pull/7/head", "r/trusted"];
    assert_eq!(found(&kept, &fork, "k", &["k-"]), ["k-2", "k-1"]);
    assert_eq!(found(&kept, &["r/trusted"], "k-2", &["k"]), ["k-1"]);
}

#[test]
fn paths_are_compared_as_one_writing_and_bad_ones_are_left_out() {
    let written = [
        "./target/",
        "target",
        "a//b",
        "~/.cargo",
        "x/.git/hooks",
        "../up",
        ".",
    ];
    let written: Vec<String> = written.iter().map(|s| (*s).to_owned()).collect();
    let (good, bad) = paths(&written);
    assert_eq!(good, ["a/b", "target"]);
    let bad: Vec<&str> = bad.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(bad, ["~/.cargo", "x/.git/hooks", "../up", "."]);
}

#[test]
fn the_least_recently_used_leave_and_outside_builds_push_out_their_own_only() {
    // A quota of 1,000: 500 for all, 200 for what outside builds left.
    let mut kept: Vec<Kept> = (0..30).map(|n| entry("r/trusted", "t", n)).collect();
    kept.extend((0..60).map(|n| entry("r/outside:x", "o", 1_000 + n)));
    let gone = leaving(&kept, 1_000);
    assert!(gone.iter().all(|at| !kept[*at].trusted), "{gone:?}");
    assert_eq!(gone.len(), 40);
    let oldest = gone.iter().map(|at| kept[*at].saved_at.as_millis());
    assert_eq!(oldest.max(), Some(1_039), "the newest stay");
    let many: Vec<Kept> = (0..60).map(|n| entry("r/trusted", "t", n)).collect();
    assert_eq!(leaving(&many, 1_000), (0..10).rev().collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn hostile_h073_no_key_and_no_prefix_reads_another_scope(
        key in "[ -~]{0,20}",
        prefixes in proptest::collection::vec("[ -~]{0,6}", 0..5),
        names in proptest::collection::vec("[a-d/:]{0,6}", 1..20),
    ) {
        let kept: Vec<Kept> = names.iter().map(|n| entry(n, &format!("{key}{n}"), 1)).collect();
        let mine = names.first().cloned().unwrap_or_default();
        let scopes = [mine.clone()];
        let paths = ["target".to_owned()];
        let wanted = Wanted { scopes: &scopes, key: &key, restore_keys: &prefixes, paths: &paths };
        for found in matching(&kept, wanted) {
            prop_assert_eq!(&found.scope, &mine);
        }
    }

    #[test]
    fn what_stays_fits_its_shares(sizes in proptest::collection::vec((0_u64..400, any::<bool>()), 0..60)) {
        let kept: Vec<Kept> = sizes.iter().enumerate().map(|(n, (bytes, trusted))| Kept {
            bytes: *bytes,
            trusted: *trusted,
            ..entry("s", "k", n as i64)
        }).collect();
        let gone = leaving(&kept, 1_000);
        let stay = |outside: bool| kept.iter().enumerate()
            .filter(|(at, e)| !gone.contains(at) && (!outside || !e.trusted))
            .map(|(_, e)| e.bytes).sum::<u64>();
        prop_assert!(stay(false) <= 500 && stay(true) <= 200);
    }
}
