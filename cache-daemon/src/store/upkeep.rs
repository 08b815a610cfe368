//! What the store does unasked: listing at start, eviction, checks, checkpoints.

use std::collections::BTreeSet;
use std::time::Duration;

use slipway_core::cache::eviction::{self, Kind, Limits};
use slipway_core::cache::manifest::{Layer, Tree};
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

use super::{MANIFEST_MAX, Store, locked};
use crate::blobs::pins::Held;
use crate::blobs::{BlobError, Found, trash};

/// How long a request waits for room before it is refused.
const MAKE_ROOM: Duration = Duration::from_secs(2);
/// A sweep that freed less than a hundredth of the quota is not repeated for this long …
const BACK_OFF: Duration = Duration::from_secs(600);
/// … and twice as long each time, at most this.
const BACK_OFF_MAX: Duration = Duration::from_secs(2 * 3_600);

/// When the next unasked sweep may be.
#[derive(Default)]
pub(crate) struct Sweeps {
    not_before: Option<Timestamp>,
    back_off: Duration,
}

/// What a check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Files whose bytes were hashed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged ones, put aside.
    pub damaged: u64,
}

/// The store in figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Files.
    pub blobs: u64,
    /// What they take on disk.
    pub bytes: u64,
    /// What they may take.
    pub quota: u64,
    /// Bytes that are being written now.
    pub reserved: u64,
    /// Attempts and outputs that hold something.
    pub pins: u64,
}

impl Store {
    /// The directory is the truth: what it holds is known from now on. Then the index of an earlier
    /// process is asked for times of last use.
    pub fn list(&self) {
        let begun = self.clock.monotonic();
        match self.disk.list() {
            Ok(found) => self.take(found),
            Err(error) => tracing::error!(%error, "the blob directory cannot be listed"),
        }
        self.disk.listing_is_over();
        let (files, bytes) = self.disk.index.totals();
        let took_ms = (self.clock.monotonic() - begun).as_millis();
        tracing::info!(files, bytes, took_ms, "cache listed");
        self.disk.index.recall();
    }

    fn take(&self, found: Vec<Found>) {
        let mut suspects = Vec::new();
        for file in found {
            if self.disk.index.get(file.kind, &file.digest).is_none() {
                self.disk
                    .record(file.kind, file.digest, file.size, file.written);
            }
            if file.kind == Kind::Object && self.disk.is_suspect(file.written) {
                suspects.push(file.digest);
            }
        }
        locked(&self.suspects).extend(suspects);
    }

    /// The store in figures.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (blobs, bytes) = self.disk.index.totals();
        Stats {
            blobs,
            bytes,
            quota: self.disk.space.quota(),
            reserved: self.disk.space.reserved(),
            pins: self.pins.holding(self.clock.now()).len() as u64,
        }
    }

    /// Evicts what the plan says, unless the last sweeps found nothing worth it.
    pub fn evict(&self) {
        let now = self.clock.now();
        let mut sweeps = locked(&self.sweeps);
        if sweeps.not_before.is_some_and(|until| now < until) {
            return;
        }
        let freed = self.evict_now(0);
        let full =
            self.disk.index.totals().1 > self.disk.space.quota() / 100 * eviction::HIGH_WATER;
        if full && freed < self.disk.space.quota() / 100 {
            sweeps.back_off = (sweeps.back_off * 2).clamp(BACK_OFF, BACK_OFF_MAX);
            sweeps.not_before = Some(now.after(sweeps.back_off));
        } else {
            *sweeps = Sweeps::default();
        }
    }

    /// Whether the next sweep has something to do before its time.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.disk.index.totals().1 > self.disk.space.quota() / 100 * eviction::HIGH_WATER
    }

    /// Makes room for so many bytes, now, and waits for it a little.
    pub(super) fn make_room(&self, bytes: u64) {
        // Nobody knows how much more comes after what did not fit.
        let floor = self.disk.space.quota() / 5;
        self.evict_now(bytes.max(floor));
        let until = self.clock.monotonic() + MAKE_ROOM;
        trash::sweep(self.disk.root(), true, || self.clock.monotonic() > until);
    }

    fn evict_now(&self, wanted: u64) -> u64 {
        let now = self.clock.now();
        let entries = self.disk.index.entries();
        let limits = Limits {
            quota: self.disk.space.quota(),
            missing: self.disk.missing().max(wanted),
        };
        let victims = eviction::plan(&entries, &self.pinned(now), limits, now);
        let mut freed = 0;
        for (kind, digest) in &victims {
            let entry = self.disk.index.get(*kind, digest);
            freed += entry.map_or(0, |entry| entry.on_disk());
            self.disk.discard(*kind, digest);
        }
        if !victims.is_empty() {
            tracing::info!(files = victims.len(), bytes = freed, "evicted");
            self.counters.evicted.inc_by(victims.len() as u64);
            self.counters.evicted_bytes.inc_by(freed);
        }
        freed
    }

    /// Everything that a pin names, with what that names. Outputs hold at most half of the quota, the
    /// newest first: else a day of builds would leave no room for the next.
    fn pinned(&self, now: Timestamp) -> BTreeSet<(Kind, Digest)> {
        let mut pins = self.pins.holding(now);
        pins.sort_by_key(|pin| (pin.held == Held::Output, std::cmp::Reverse(pin.until)));
        let mut all = BTreeSet::new();
        let mut outputs = 0_u64;
        for pin in pins {
            for digest in &pin.digests {
                let names = self.named_by(digest);
                if pin.held == Held::Output {
                    let sizes = names.iter().filter(|d| !all.contains(&(Kind::Object, **d)));
                    let sizes = sizes.filter_map(|d| self.disk.index.get(Kind::Object, d));
                    outputs += sizes.map(|entry| entry.on_disk()).sum::<u64>();
                    if outputs > self.disk.space.quota() / 2 {
                        return all;
                    }
                }
                all.insert((Kind::Pack, *digest));
                all.extend(names.into_iter().map(|digest| (Kind::Object, digest)));
            }
        }
        all
    }

    /// A manifest and the blobs it names.
    pub(super) fn named_by(&self, digest: &Digest) -> Vec<Digest> {
        let mut bytes = Vec::new();
        let mut all = vec![*digest];
        if self.disk.read(digest, MANIFEST_MAX, &mut bytes).is_ok() {
            if let Ok(tree) = Tree::decode(&bytes) {
                all.extend(tree.blobs());
            } else if let Ok(layer) = Layer::decode(&bytes) {
                all.extend(layer.blobs());
            }
        }
        all
    }

    /// Removes for good what was evicted. Slow on purpose.
    pub fn sweep(&self, stopping: impl Fn() -> bool) {
        trash::sweep(self.disk.root(), false, stopping);
    }

    /// Hashes one blob; a damaged one is put aside.
    pub fn check_one(&self, digest: &Digest) -> Checked {
        let answer = self.disk.read(digest, u64::MAX, &mut std::io::sink());
        let mut checked = Checked {
            files: 1,
            ..Checked::default()
        };
        match answer {
            Ok(bytes) => checked.bytes = bytes,
            Err(BlobError::Miss(_)) => {
                self.counters.damaged.inc();
                checked.damaged = 1;
            }
            // Not a word about the blob.
            Err(_) => checked.files = 0,
        }
        checked
    }

    /// Hashes everything. With `rebuild`, the index is made from the directory first.
    pub fn check(&self, rebuild: bool) -> Checked {
        let damaged = self.disk.damaged();
        if rebuild {
            for entry in self.disk.index.entries() {
                if self.disk.find(entry.kind, &entry.digest).is_none() {
                    self.disk.index.forget(entry.kind, &entry.digest);
                }
            }
            match self.disk.list() {
                Ok(found) => self.take(found),
                Err(error) => tracing::error!(%error, "the blob directory cannot be listed"),
            }
        }
        let mut all = Checked::default();
        for digest in self.next_to_check() {
            let one = self.check_one(&digest);
            all.files += one.files;
            all.bytes += one.bytes;
        }
        // Files of a wrong length were put aside by the listing.
        all.damaged = self.disk.damaged() - damaged;
        self.disk.index.flush();
        all
    }

    /// Every blob, those first that perhaps never reached the disk.
    pub(crate) fn next_to_check(&self) -> Vec<Digest> {
        let mut all = std::mem::take(&mut *locked(&self.suspects));
        let first: BTreeSet<Digest> = all.iter().copied().collect();
        let entries = self.disk.index.entries().into_iter();
        let objects = entries.filter(|entry| entry.kind == Kind::Object);
        let rest = objects.map(|entry| entry.digest);
        all.extend(rest.filter(|digest| !first.contains(digest)));
        all
    }

    /// Everything written so far is on the disk from now on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checkpoint(&self) -> std::io::Result<()> {
        self.disk.checkpoint(self.clock.now())
    }

    /// The last word of a process that stops in order.
    pub fn close(&self) {
        self.disk.index.flush();
        if let Err(error) = self.disk.mark_clean(self.clock.now()) {
            tracing::warn!(%error, "the cache was not closed cleanly");
        }
    }
}
