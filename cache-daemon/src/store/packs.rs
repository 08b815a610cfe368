//! Layers as packs: made of what a stage left, kept when they came from elsewhere, taken apart.

use std::sync::atomic::Ordering;

use slipway_core::cache::eviction::Kind;
use slipway_core::digest::Digest;

use super::{Store, StoreError, locked};
use crate::blobs::{BlobError, Durable, Pack, pack};

/// Packs that are told to the dispatcher, the most recently used first.
const HOLDINGS_MAX: usize = 20_000;

impl Store {
    /// From now on what stages leave is packed: somebody may ask for it.
    pub(crate) fn pack_outputs(&self) {
        self.packs_outputs.store(true, Ordering::Relaxed);
    }

    pub(crate) fn packs(&self) -> bool {
        self.packs_outputs.load(Ordering::Relaxed)
    }

    /// Whether a layer is here as a pack.
    #[must_use]
    pub fn has_pack(&self, layer: &Digest) -> bool {
        self.disk.find(Kind::Pack, layer).is_some()
    }

    pub(crate) fn pack(&self, layer: &Digest) -> Result<Pack, StoreError> {
        let pack = Pack::open(&self.disk, layer)?;
        self.disk.index.touch(Kind::Pack, layer, self.clock.now());
        Ok(pack)
    }

    /// Packs a manifest and what it names. Answers the pack's id.
    ///
    /// # Errors
    /// When something of it is not here, or there is no room.
    pub fn make_pack(&self, layer: &Digest, durable: bool) -> Result<Digest, StoreError> {
        if !self.has_pack(layer) {
            let named = self.named_by(layer).into_iter().skip(1);
            let size = pack::make(&self.disk, layer, named, durable)?;
            self.keep_pack(layer, size);
        }
        let id = self.pack(layer)?.id;
        locked(&self.pack_ids).insert(*layer, id);
        Ok(id)
    }

    pub(crate) fn keep_pack(&self, layer: &Digest, size: u64) {
        let now = self.clock.now();
        self.disk.record(Kind::Pack, *layer, size, now);
    }

    /// Makes every blob of a pack one of the store.
    ///
    /// # Errors
    /// When it is damaged, or there is no room.
    pub fn unpack(&self, layer: &Digest) -> Result<(), StoreError> {
        self.with_room(|| {
            let pack = self.pack(layer)?;
            let mut batch = self.disk.batch();
            if let Err(error) = pack.unpack(&mut batch) {
                if matches!(error, BlobError::Mismatch(_) | BlobError::Io(_)) {
                    self.disk.discard(Kind::Pack, layer);
                }
                return Err(error.into());
            }
            self.commit(batch, Durable::Later)?;
            Ok(())
        })
    }

    /// Whether a manifest, or anything it names, is not here. What is here as a pack alone is taken out
    /// of it.
    pub(crate) fn lacks(&self, layer: &Digest) -> bool {
        let lacking = || {
            let known = |d: &Digest| self.disk.index.get(Kind::Object, d).is_some();
            !self.disk.has(layer) || !self.named_by(layer).iter().all(known)
        };
        lacking() && !(self.has_pack(layer) && self.unpack(layer).is_ok() && !lacking())
    }

    /// The packs that others can ask for.
    pub(crate) fn holdings(&self) -> Vec<(Digest, Digest)> {
        let mut packs = self.disk.index.entries();
        packs.retain(|entry| entry.kind == Kind::Pack);
        packs.sort_by_key(|entry| std::cmp::Reverse(entry.last_use));
        packs.truncate(HOLDINGS_MAX);
        let mut ids = std::mem::take(&mut *locked(&self.pack_ids));
        let all: Vec<(Digest, Digest)> = packs
            .iter()
            .filter_map(|entry| {
                let known = ids.remove(&entry.digest);
                let id = known.or_else(|| Pack::open(&self.disk, &entry.digest).ok().map(|p| p.id));
                Some((entry.digest, id?))
            })
            .collect();
        locked(&self.pack_ids).extend(all.iter().copied());
        all
    }
}
