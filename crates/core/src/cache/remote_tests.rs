//! Keys, tokens, variables, and who makes room for whom.
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn every_tool_has_its_name() {
    for tool in Tool::ALL {
        assert_eq!(Tool::named(tool.name()), Some(tool));
        let json = serde_json::to_string(&tool).unwrap();
        assert_eq!(json, format!("\"{}\"", tool.name()));
    }
    assert_eq!(Tool::named("make"), None);
}

#[test]
fn hostile_h073_keys_that_no_tool_sends_are_refused() {
    for good in ["0123abcd", "ab/cdef.R", "sccache/a/b/c/abc", "a=b+c~d"] {
        assert_eq!(key_problem(good), None, "{good}");
    }
    let long = "a".repeat(KEY_MAX + 1);
    let all = [
        "", "..", "../x", "a/../b", "a/./b", "a//b", "/a", "a/", "a\0b", "a\nb", "a\\b", "ä",
        "a b", "a%2e", &long,
    ];
    for bad in all {
        assert!(key_problem(bad).is_some(), "{bad:?}");
    }
    assert_eq!(key_problem(&"a".repeat(KEY_MAX)), None);
}

#[test]
fn a_token_is_of_one_attempt_and_gives_nothing_away() {
    let one = token("secret", "A-1").unwrap();
    assert_eq!(token("secret", "A-1").unwrap(), one, "it can be made again");
    assert_ne!(token("secret", "A-2").unwrap(), one);
    assert_ne!(token("secretA", "-1").unwrap(), one);
    assert!(one.len() == 64 && !one.contains("secret"));
    assert_eq!(token("", "A-1"), None);
}

#[test]
fn what_holds_a_secret_or_acts_outside_leaves_nothing() {
    assert_eq!(rights(false, false), Rights::ReadWrite);
    for (secret, once) in [(true, false), (false, true), (true, true)] {
        assert_eq!(rights(secret, once), Rights::ReadOnly);
    }
}

#[test]
fn tools_are_told_in_their_own_words_and_only_those_that_were_asked_for() {
    let at = "172.18.0.1:4000".parse().unwrap();
    let told = environment(&[], at, "t0ken", Rights::ReadWrite);
    assert_eq!(told.len(), 2);
    assert_eq!(told["SLIPWAY_CACHE_URL"], "http://172.18.0.1:4000");
    let told = environment(&Tool::ALL, at, "t0ken", Rights::ReadWrite);
    assert_eq!(
        told["CCACHE_REMOTE_STORAGE"],
        "http://slipway:t0ken@172.18.0.1:4000/ccache"
    );
    assert_eq!(told["TURBO_TEAM"], "slipway");
    assert!(!told.contains_key("TURBO_REMOTE_CACHE_READ_ONLY"));
    let told = environment(&Tool::ALL, at, "t0ken", Rights::ReadOnly);
    assert!(told["CCACHE_REMOTE_STORAGE"].ends_with("|read-only=true"));
    assert_eq!(told["TURBO_REMOTE_CACHE_READ_ONLY"], "true");
}

#[test]
fn an_attempt_brings_a_share_of_the_store_and_one_of_outside_a_smaller_one() {
    assert_eq!(attempt_bytes(100 << 30, true), 10 << 30);
    assert_eq!(attempt_bytes(100 << 30, false), 2 << 30);
    assert_eq!(attempt_bytes(u64::MAX, true), ATTEMPT_BYTES_MAX);
    assert_eq!(attempt_bytes(0, true), 0);
}

fn at(hours: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000).after(Duration::from_secs(hours * 3_600))
}

#[test]
fn what_nobody_asks_for_leaves() {
    let seen = [0, 10, 300].map(|hours| Seen {
        trusted: true,
        used_at: at(hours),
    });
    assert_eq!(leaving(&seen, 100, at(8 * 24)), [0; 0]);
    assert_eq!(leaving(&seen, 100, at(8 * 24 + 1)), [0]);
}

proptest! {
    #[test]
    fn entries_of_outside_never_push_trusted_ones_out(
        all in proptest::collection::vec((any::<bool>(), 0_u64..100), 0..400),
    ) {
        let seen: Vec<Seen> = all
            .iter()
            .map(|&(trusted, hours)| Seen { trusted, used_at: at(hours) })
            .collect();
        let max = 200;
        let out = leaving(&seen, max, at(100));
        let trusted = seen.iter().filter(|s| s.trusted).count();
        let gone = out.iter().filter(|at| seen[**at].trusted).count();
        prop_assert_eq!(gone, trusted.saturating_sub(max));
        prop_assert!(seen.len() - out.len() <= max);
        let outside = seen.len() - trusted - (out.len() - gone);
        prop_assert!(outside <= max / 100 * OUTSIDE_SHARE);
    }
}
