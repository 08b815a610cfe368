//! What leaves the store when it is full or has not been used for long: never what is pinned, never
//! what is young.
//!
//! Whatever was unused for the time to live leaves in any case. Above the high-water mark the highest
//! product of idle time and size goes first, packs before objects: a pack holds what the objects hold
//! as well, in the form for sending.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::digest::Digest;
use crate::time::Timestamp;

/// Younger than this, or used within it, stays: an attempt may be about to need it.
pub const PROTECTED: Duration = Duration::from_secs(600);
/// Unused for so long, it leaves although there is room.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Above this share of the quota (percent) eviction begins …
pub const HIGH_WATER: u64 = 90;
/// … and below this it ends.
pub const LOW_WATER: u64 = 80;
/// What a file system hands out at least.
const BLOCK: u64 = 4_096;

/// What a file of the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A layer or tree with its blobs, in the form for sending; named by that layer or tree.
    Pack,
    /// A blob.
    Object,
}

/// One file as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When it was last written or read.
    pub last_use: Timestamp,
}

impl Entry {
    /// What it takes on the disk.
    #[must_use]
    pub fn on_disk(&self) -> u64 {
        on_disk(self.size)
    }
}

/// What so many bytes take on the disk.
#[must_use]
pub fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes on disk that the store may hold.
    pub quota: u64,
    /// Bytes that the file system lacks to its floor of free space.
    pub missing: u64,
}

/// Chooses what to remove, in this order.
#[must_use]
pub fn plan(
    entries: &[Entry],
    pinned: &BTreeSet<(Kind, Digest)>,
    limits: Limits,
    now: Timestamp,
) -> Vec<(Kind, Digest)> {
    let used = entries
        .iter()
        .map(Entry::on_disk)
        .fold(0, u64::saturating_add);
    let idle = |entry: &Entry| now.since(entry.last_use);
    let (expired, mut rest): (Vec<&Entry>, Vec<&Entry>) = entries
        .iter()
        .filter(|e| idle(e) > PROTECTED && !pinned.contains(&(e.kind, e.digest)))
        .partition(|e| idle(e) > TIME_TO_LIVE);
    let mut victims: Vec<(Kind, Digest)> = expired.iter().map(|e| (e.kind, e.digest)).collect();
    let mut freed = expired
        .iter()
        .map(|e| e.on_disk())
        .fold(0, u64::saturating_add);
    let over = if used.saturating_sub(freed) > share(limits.quota, HIGH_WATER) {
        used.saturating_sub(share(limits.quota, LOW_WATER))
    } else {
        0
    };
    let wanted = over.max(limits.missing);
    rest.sort_by_key(|e| {
        let weight = idle(e).as_millis().saturating_mul(u128::from(e.on_disk()));
        (e.kind, Reverse(weight), e.digest)
    });
    for entry in rest {
        if freed >= wanted {
            break;
        }
        freed = freed.saturating_add(entry.on_disk());
        victims.push((entry.kind, entry.digest));
    }
    victims
}

fn share(quota: u64, percent: u64) -> u64 {
    quota / 100 * percent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: BTreeSet<(Kind, Digest)> = BTreeSet::new();

    fn entry(kind: Kind, name: &str, blocks: u64, minutes_ago: u64) -> Entry {
        Entry {
            kind,
            digest: Digest::of(name.as_bytes()),
            size: blocks * BLOCK,
            last_use: now().before(Duration::from_secs(minutes_ago * 60)),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000)
    }

    fn limits(blocks: u64) -> Limits {
        Limits {
            quota: blocks * BLOCK,
            missing: 0,
        }
    }

    fn object(name: &str) -> (Kind, Digest) {
        (Kind::Object, Digest::of(name.as_bytes()))
    }

    #[test]
    fn the_largest_and_longest_unused_leaves_first_and_only_as_much_as_needed() {
        let all = [
            entry(Kind::Object, "a", 300, 20),
            entry(Kind::Object, "b", 300, 60),
            entry(Kind::Object, "c", 400, 30),
        ];
        assert_eq!(plan(&all, &NONE, limits(1_000), now()), vec![object("b")]);
    }

    #[test]
    fn a_pack_leaves_before_an_object() {
        let all = [
            entry(Kind::Object, "a", 500, 600),
            entry(Kind::Pack, "p", 450, 20),
        ];
        let left = plan(&all, &NONE, limits(1_000), now());
        assert_eq!(left, vec![(Kind::Pack, Digest::of(b"p"))]);
    }

    #[test]
    fn below_the_mark_nothing_leaves_but_what_nobody_used_for_a_week() {
        let week = 7 * 24 * 60;
        let all = [
            entry(Kind::Object, "a", 100, week + 1),
            entry(Kind::Object, "b", 100, week - 1),
        ];
        assert_eq!(plan(&all, &NONE, limits(1_000), now()), vec![object("a")]);
    }

    #[test]
    fn a_disk_below_its_floor_takes_what_it_lacks() {
        let all = [
            entry(Kind::Object, "a", 100, 60),
            entry(Kind::Object, "b", 100, 50),
        ];
        let low = Limits {
            missing: 50 * BLOCK,
            ..limits(100_000)
        };
        assert_eq!(plan(&all, &NONE, low, now()), vec![object("a")]);
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        (any::<bool>(), 0_u8..60, 0_u64..500, 0_u64..20_000).prop_map(
            |(pack, name, blocks, ago)| {
                let kind = if pack { Kind::Pack } else { Kind::Object };
                entry(kind, &name.to_string(), blocks, ago)
            },
        )
    }

    proptest! {
        #[test]
        fn evict_under_lease_nothing_pinned_or_young_ever_leaves(
            entries in proptest::collection::vec(any_entry(), 0..60),
            pins in proptest::collection::vec(0_u8..60, 0..20),
            quota in 0_u64..5_000,
        ) {
            let mut entries = entries;
            entries.sort_by_key(|e| (e.kind, e.digest));
            entries.dedup_by_key(|e| (e.kind, e.digest));
            let pinned: BTreeSet<_> = pins.iter().map(|n| object(&n.to_string())).collect();
            let left = plan(&entries, &pinned, limits(quota), now());
            let gone: BTreeSet<_> = left.iter().copied().collect();
            prop_assert_eq!(gone.len(), left.len(), "nothing leaves twice");
            let mut stays = 0_u64;
            let mut could_leave = false;
            for entry in &entries {
                let name = (entry.kind, entry.digest);
                let held = pinned.contains(&name) || now().since(entry.last_use) <= PROTECTED;
                if gone.contains(&name) {
                    prop_assert!(!held);
                } else {
                    stays += entry.on_disk();
                    could_leave |= !held && entry.size > 0;
                }
            }
            // Full, and yet something could leave: it would have.
            prop_assert!(!(could_leave && stays > share(quota * BLOCK, HIGH_WATER)));
        }
    }
}
