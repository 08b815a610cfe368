//! Which blobs leave the store when it is full: the least recently used first, never a young one.

use std::time::Duration;

use crate::digest::Digest;
use crate::time::Timestamp;

/// A blob younger than this, or used within it, stays: an attempt may be about to need it.
pub const PROTECTED: Duration = Duration::from_secs(600);
/// Above this share of the quota (percent) eviction begins …
pub const HIGH_WATER: u64 = 90;
/// … and below this it ends.
pub const LOW_WATER: u64 = 80;

/// One blob as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub digest: Digest,
    /// Bytes on disk.
    pub size: u64,
    /// When it was last written or read.
    pub last_use: Timestamp,
}

/// Chooses what to remove so that the store falls below the low-water mark.
#[must_use]
pub fn plan(entries: &[Entry], quota: u64, now: Timestamp) -> Vec<Digest> {
    let used: u64 = entries.iter().map(|e| e.size).fold(0, u64::saturating_add);
    if used <= share(quota, HIGH_WATER) {
        return Vec::new();
    }
    let mut candidates: Vec<&Entry> = entries
        .iter()
        .filter(|e| now.since(e.last_use) > PROTECTED)
        .collect();
    candidates.sort_by_key(|e| (e.last_use, e.digest));
    let mut left = used;
    let mut victims = Vec::new();
    for entry in candidates {
        if left <= share(quota, LOW_WATER) {
            break;
        }
        left = left.saturating_sub(entry.size);
        victims.push(entry.digest);
    }
    victims
}

fn share(quota: u64, percent: u64) -> u64 {
    quota / 100 * percent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, size: u64, minutes_ago: u64) -> Entry {
        Entry {
            digest: Digest::of(name.as_bytes()),
            size,
            last_use: now().before(Duration::from_secs(minutes_ago * 60)),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000_000)
    }

    #[test]
    fn the_longest_unused_leaves_first_and_only_as_much_as_needed() {
        let all = [
            entry("a", 300, 20),
            entry("b", 300, 60),
            entry("c", 400, 30),
        ];
        assert_eq!(plan(&all, 1_000, now()), vec![Digest::of(b"b")]);
    }

    #[test]
    fn below_the_mark_nothing_leaves_and_young_blobs_never_do() {
        assert!(plan(&[entry("a", 900, 60)], 1_000, now()).is_empty());
        assert!(plan(&[entry("a", 5_000, 9)], 1_000, now()).is_empty());
    }
}
