//! Entries of `cache:` by their keys: which one a stage begins with, and which leave the table first.
//!
//! Owns the rule that an entry is found in the scopes that a build may read, its own first, and nowhere
//! else. Does not own who gets which scopes (`memo`, on the dispatcher), nor the content that an entry
//! names: that leaves as all content does (`eviction`), and an entry without its content is none.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::time::Timestamp;

use super::manifest;

/// Characters of a key, as in a pipeline file.
pub const KEY_MAX: usize = 512;
/// Bytes of a scope's name: a repository's id and a ref.
pub const SCOPE_MAX: usize = 2_048;
/// Paths of one entry, and prefixes of one question: more is no cache but a workspace.
pub const PATHS_MAX: usize = 32;
/// Entries of one table, which is looked through as a whole for each stage: a few hundred repositories.
pub const ENTRIES_MAX: usize = 4_096;
/// Bytes of one entry, however large the store is: it is laid out anew for each stage.
pub const BYTES_MAX: u64 = 8 << 30;
/// One entry is at most this share of the store (percent), so that one save never empties it.
pub const ENTRY_SHARE: u64 = 10;
/// All entries that builds of code from outside left (percent of the store).
pub const OUTSIDE_SHARE: u64 = 20;
/// All entries (percent of the store): workspaces need the rest.
pub const ALL_SHARE: u64 = 50;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose it is; the dispatcher says so.
    pub scope: String,
    /// Whether builds of trusted code wrote it.
    pub trusted: bool,
    /// Its exact key.
    pub key: String,
    /// What it holds, sorted.
    pub paths: Vec<String>,
    /// The tree with its content.
    pub root: Digest,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was written.
    pub saved_at: Timestamp,
    /// When it was last laid out or written.
    pub used_at: Timestamp,
}

/// What a stage asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The scopes it may read, its own first.
    pub scopes: &'a [String],
    /// Exact key.
    pub key: &'a str,
    /// Prefixes tried in order when no entry has the key.
    pub restore_keys: &'a [String],
    /// What it keeps, sorted: an entry of other paths would be laid out where nobody asked for it.
    pub paths: &'a [String],
}

/// The entries that a stage may begin with, the best first: the exact key, then each prefix with its
/// newest entry first; each in the stage's own scope before others.
#[must_use]
pub fn matching<'k>(kept: &'k [Kept], wanted: Wanted<'_>) -> Vec<&'k Kept> {
    let rank = |entry: &Kept| {
        let scope = wanted.scopes.iter().position(|s| *s == entry.scope)?;
        if entry.paths != wanted.paths {
            return None;
        }
        if entry.key == wanted.key {
            return Some((0, scope, Reverse(entry.saved_at)));
        }
        let prefixes = wanted.restore_keys.iter();
        let prefix = prefixes
            .filter(|prefix| !prefix.is_empty())
            .position(|prefix| entry.key.starts_with(prefix.as_str()))?;
        Some((prefix + 1, scope, Reverse(entry.saved_at)))
    };
    let mut found: Vec<_> = kept
        .iter()
        .filter_map(|entry| Some((rank(entry)?, entry)))
        .collect();
    found.sort_by(|a, b| (&a.0, &a.1.key).cmp(&(&b.0, &b.1.key)));
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// Bytes that one entry of a store of this quota may have.
#[must_use]
pub fn bytes_max(quota: u64) -> u64 {
    share(quota, ENTRY_SHARE).min(BYTES_MAX)
}

/// The places of those entries that leave the table, the least recently used first: those of outside
/// builds make room for each other only, so that no fork empties the table of trusted ones.
#[must_use]
pub fn leaving(kept: &[Kept], quota: u64) -> Vec<usize> {
    let mut order: Vec<(usize, &Kept)> = kept.iter().enumerate().collect();
    order.sort_by_key(|(at, entry)| (Reverse(entry.used_at), Reverse(entry.saved_at), *at));
    let (mut outside, mut all, mut count) = (0_u64, 0_u64, 0_usize);
    let mut out = Vec::new();
    // Trusted ones take their share first; what outside builds left gets what remains of it.
    let (trusted, foreign): (Vec<_>, Vec<_>) = order.into_iter().partition(|(_, e)| e.trusted);
    for (at, entry) in trusted.into_iter().chain(foreign) {
        let mine = all.saturating_add(entry.bytes);
        let theirs = outside.saturating_add(entry.bytes);
        let crowded = !entry.trusted && theirs > share(quota, OUTSIDE_SHARE);
        if crowded || mine > share(quota, ALL_SHARE) || count >= ENTRIES_MAX {
            out.push(at);
            continue;
        }
        (all, count) = (mine, count + 1);
        if !entry.trusted {
            outside = theirs;
        }
    }
    out
}

fn share(quota: u64, percent: u64) -> u64 {
    quota / 100 * percent
}

/// What is wrong with a path of an entry, if anything.
#[must_use]
pub fn path_problem(path: &str) -> Option<&'static str> {
    if path.starts_with("~/") || path == "~" {
        Some("folders of the home directory are not kept: name a folder of the workspace")
    } else if manifest::check_path(path).is_err() {
        Some("it is not a folder of the workspace")
    } else if path.split('/').any(|part| part == ".git") {
        Some("`.git` is never kept")
    } else {
        None
    }
}

/// The paths of an entry as they are compared: written one way, sorted, each once; and what is wrong with
/// those that are left out.
#[must_use]
pub fn paths(written: &[String]) -> (Vec<String>, Vec<(String, &'static str)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for text in written {
        let parts = text.split('/').filter(|part| !matches!(*part, "" | "."));
        let path = parts.collect::<Vec<_>>().join("/");
        match path_problem(&path) {
            Some(problem) => bad.push((text.clone(), problem)),
            None if good.len() >= PATHS_MAX => bad.push((text.clone(), "there are too many")),
            None => good.push(path),
        }
    }
    good.sort();
    good.dedup();
    (good, bad)
}

#[cfg(test)]
#[path = "keyed_tests.rs"]
mod tests;
