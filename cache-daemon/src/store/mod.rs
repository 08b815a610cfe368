//! Blobs, their index, and what is known about laid-out workspaces, as one thing.

mod foreign;
mod keyed;
mod packs;
mod upkeep;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, MutexGuard, PoisonError};

use slipway_core::cache::eviction::Kind;
use slipway_core::cache::manifest::{Layer, ManifestError, Tree};
use slipway_core::digest::Digest;
use slipway_daemon::Clock;

use crate::blobs::pins::{self, Held, Pins};
use crate::blobs::{self, Batch, BlobError, CaptureError, Disk, Durable, Known, Restored};
use crate::counters::Counters;

pub(crate) use foreign::Entry as ForeignEntry;
pub use keyed::{Hit, Keep, Saved};
use upkeep::Sweeps;
pub use upkeep::{Checked, Stats};

/// Largest manifest.
const MANIFEST_MAX: u64 = 64 << 20;
/// Laid-out workspaces whose files are remembered; the oldest are forgotten (and hashed again).
const WORKSPACES_MAX: usize = 64;
/// Layers over one root.
const LAYERS_MAX: usize = 500;

/// Why a request cannot be fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A blob is missing, or the disk refused.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A workspace cannot be captured.
    #[error(transparent)]
    Capture(CaptureError),
    /// A blob that should be a manifest is not one.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Too many layers.
    #[error("at most {LAYERS_MAX} layers can be laid over a workspace")]
    TooManyLayers,
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Blob(BlobError::Io(error))
    }
}

impl From<CaptureError> for StoreError {
    fn from(error: CaptureError) -> Self {
        match error {
            CaptureError::Blob(error) => Self::Blob(error),
            other => Self::Capture(other),
        }
    }
}

/// A captured layer.
pub struct LayerSummary {
    /// Its name.
    pub layer: Digest,
    /// Paths put.
    pub changed: u64,
    /// Paths removed.
    pub removed: u64,
    /// Bytes that were not there before.
    pub new_bytes: u64,
    /// What was left out.
    pub notes: Vec<String>,
    /// The id of its pack, where others can ask for it.
    pub pack: Option<Digest>,
}

/// A workspace that is to be laid out.
pub struct Wanted<'a> {
    /// The empty directory.
    pub directory: &'a Path,
    /// The source tree.
    pub root: &'a Digest,
    /// Layers over it, in order.
    pub layers: &'a [Digest],
    /// For which attempt all of it is pinned.
    pub attempt: Option<&'a str>,
}

/// The store.
pub struct Store {
    pub(crate) disk: Disk,
    pins: Pins,
    keyed: keyed::Table,
    /// Entries of other tools since they were last looked through.
    foreign_new: AtomicUsize,
    clock: Clock,
    counters: Counters,
    workspaces: Mutex<Vec<(PathBuf, Known)>>,
    sweeps: Mutex<Sweeps>,
    /// Files that perhaps never reached the disk: looked at before all others.
    suspects: Mutex<Vec<Digest>>,
    /// Whether other daemons can ask for what stages leave.
    packs_outputs: AtomicBool,
    /// The ids of packs, by layer: read from their headers once.
    pack_ids: Mutex<BTreeMap<Digest, Digest>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Takes the parts. [`Self::list`] follows; until then every miss is looked up in the directory.
    #[must_use]
    pub fn open(disk: Disk, clock: Clock) -> Self {
        Self {
            pins: Pins::new(disk.root()),
            keyed: keyed::Table::open(disk.root()),
            foreign_new: AtomicUsize::new(0),
            disk,
            clock,
            counters: Counters::default(),
            workspaces: Mutex::default(),
            sweeps: Mutex::default(),
            suspects: Mutex::default(),
            packs_outputs: AtomicBool::new(false),
            pack_ids: Mutex::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    fn commit(&self, batch: Batch<'_>, durable: Durable) -> Result<u64, StoreError> {
        let now = self.clock.now();
        // Blobs that were here already are as young now as the new ones: something names them again.
        for digest in batch.met() {
            self.disk.index.touch(Kind::Object, digest, now);
        }
        let new = batch.commit(durable)?;
        for &(digest, size) in &new {
            self.disk.record(Kind::Object, digest, size, now);
        }
        Ok(new.iter().map(|(_, size)| size).sum())
    }

    /// Does it again after making room, once, when there was none.
    fn with_room<T>(&self, work: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match work() {
            Err(StoreError::Blob(BlobError::Full(bytes))) => {
                self.make_room(bytes);
                work().inspect_err(|error| self.noticed(error))
            }
            Err(StoreError::Blob(BlobError::Io(error))) if is_full(&error) => {
                self.make_room(0);
                work().inspect_err(|error| self.noticed(error))
            }
            other => other,
        }
    }

    fn noticed(&self, error: &StoreError) {
        let full = match error {
            StoreError::Blob(BlobError::Full(_)) => true,
            StoreError::Blob(BlobError::Io(error)) => is_full(error),
            _ => false,
        };
        if full {
            self.counters.full.inc();
        }
    }

    /// Copies a blob to `out`, checked; the last piece of a damaged one is never written.
    ///
    /// # Errors
    /// `Miss` when it is not here.
    pub fn read(
        &self,
        digest: &Digest,
        limit: u64,
        out: &mut dyn Write,
    ) -> Result<u64, StoreError> {
        match self.disk.read(digest, limit, out) {
            Ok(size) => {
                self.counters.hits.inc();
                let now = self.clock.now();
                self.disk.index.touch(Kind::Object, digest, now);
                Ok(size)
            }
            Err(error) => {
                self.missed(&error);
                Err(error.into())
            }
        }
    }

    /// A small blob's bytes.
    ///
    /// # Errors
    /// `Miss` when it is not here.
    pub fn get(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        self.read(digest, limit, &mut bytes)?;
        Ok(bytes)
    }

    fn missed(&self, error: &BlobError) {
        if let BlobError::Miss(digest) = error {
            self.counters.misses.inc();
            // A file that somebody removed by hand.
            if self.disk.find(Kind::Object, digest).is_none() {
                self.disk.index.forget(Kind::Object, digest);
            }
        }
    }

    /// Whether a blob is here.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.disk.has(digest)
    }

    /// Stores one blob. With `announced`, it must be exactly that.
    ///
    /// # Errors
    /// When the reader or the disk refuses, or something else came.
    pub fn put(
        &self,
        reader: &mut dyn Read,
        announced: Option<(Digest, u64)>,
    ) -> Result<(Digest, u64), StoreError> {
        let mut batch = self.disk.batch();
        let stored = match announced {
            None => batch.add_reader(reader),
            Some((digest, size)) => {
                let taken = batch.add_announced(reader, &digest, size);
                taken.map(|()| (digest, size))
            }
        };
        let stored = stored.map_err(StoreError::from);
        let stored = stored.inspect_err(|error| self.noticed(error))?;
        self.commit(batch, Durable::Later)?;
        Ok(stored)
    }

    /// The tree of `root` with `layers` laid over it, in order.
    ///
    /// # Errors
    /// `Miss` when a manifest is not here.
    pub fn merged(&self, root: &Digest, layers: &[Digest]) -> Result<Tree, StoreError> {
        if layers.len() > LAYERS_MAX {
            return Err(StoreError::TooManyLayers);
        }
        let mut tree = Tree::decode(&self.get(root, MANIFEST_MAX)?)?;
        for layer in layers {
            let layer = Layer::decode(&self.get(layer, MANIFEST_MAX)?)?;
            tree = tree.with_layer(&layer)?;
        }
        Ok(tree)
    }

    /// Lays a workspace out in an empty directory. Answers the merged tree's name, files and bytes.
    ///
    /// # Errors
    /// `Miss` when anything of it is not here; the directory must then be thrown away.
    pub fn restore(&self, wanted: &Wanted<'_>) -> Result<(Digest, u64, u64), StoreError> {
        // Before the first look: from here on nothing of it leaves.
        self.pin(wanted, &[])?;
        let tree = self.merged(wanted.root, wanted.layers)?;
        let restored = blobs::restore(&self.disk, &tree, wanted.directory);
        let Restored {
            files,
            bytes,
            known,
        } = restored.inspect_err(|error| self.missed(error))?;
        self.counters.hits.inc_by(files);
        let now = self.clock.now();
        for (_, digest) in known.values() {
            self.disk.index.touch(Kind::Object, digest, now);
        }
        let merged = if wanted.layers.is_empty() {
            *wanted.root
        } else {
            let merged = self.with_room(|| {
                let mut batch = self.disk.batch();
                let merged = batch.add_bytes(&tree.encode())?;
                self.commit(batch, Durable::Later)?;
                Ok(merged)
            })?;
            self.pin(wanted, &[merged])?;
            merged
        };
        let mut workspaces = locked(&self.workspaces);
        workspaces.retain(|(path, _)| path != wanted.directory);
        if workspaces.len() >= WORKSPACES_MAX {
            workspaces.remove(0);
        }
        workspaces.push((wanted.directory.to_owned(), known));
        Ok((merged, files, bytes))
    }

    fn pin(&self, wanted: &Wanted<'_>, more: &[Digest]) -> Result<(), StoreError> {
        let Some(attempt) = wanted.attempt else {
            return Ok(());
        };
        let digests = [&[*wanted.root], wanted.layers, more].concat();
        let until = self.clock.now().after(pins::PIN);
        Ok(self.pins.hold(attempt, Held::Input, &digests, until)?)
    }

    /// Keeps what these attempts were laid out from for longer.
    pub fn renew(&self, attempts: &[String]) {
        let until = self.clock.now().after(pins::PIN);
        for attempt in attempts {
            self.pins.renew(attempt, until);
        }
    }

    /// An attempt is over.
    pub fn release(&self, attempt: &str) {
        self.pins.release(attempt);
    }

    fn known(&self, directory: &Path) -> Known {
        let workspaces = locked(&self.workspaces);
        let found = workspaces.iter().find(|(path, _)| path == directory);
        found.map(|(_, known)| known.clone()).unwrap_or_default()
    }

    /// Stores what a directory holds as a tree.
    ///
    /// # Errors
    /// When the directory cannot be read or the disk refuses.
    pub fn capture_tree(
        &self,
        directory: &Path,
        keep_git: bool,
    ) -> Result<(Digest, u64, u64), StoreError> {
        self.with_room(|| {
            let mut batch = self.disk.batch();
            let captured = blobs::capture(directory, &Known::new(), keep_git, &mut batch)?;
            let root = batch.add_bytes(&captured.tree.encode())?;
            self.commit(batch, Durable::Later)?;
            Ok((root, captured.tree.files(), captured.tree.bytes()))
        })
    }

    /// Stores what changed in a directory against `base`, durably; kept for a while as the output of
    /// `attempt`.
    ///
    /// # Errors
    /// When the base is not here, the directory cannot be read, or the disk refuses.
    pub fn capture_layer(
        &self,
        directory: &Path,
        base: &Digest,
        attempt: Option<&str>,
    ) -> Result<LayerSummary, StoreError> {
        let before = self.merged(base, &[])?;
        let known = self.known(directory);
        // `.git` is part of a workspace only when the source brought it along.
        let keep_git = before.get(".git").is_some();
        let summary = self.with_room(|| {
            let mut batch = self.disk.batch();
            let captured = blobs::capture(directory, &known, keep_git, &mut batch)?;
            let layer = before.diff(&captured.tree);
            let (changed, removed) = layer.counts();
            let name = batch.add_bytes(&layer.encode())?;
            // The pack is what the promise rests on, where there is one: two syncs for any number of
            // files.
            let packs = self.packs();
            let durable = if packs { Durable::Later } else { Durable::Now };
            let new_bytes = self.commit(batch, durable)?;
            let pack = packs.then(|| self.make_pack(&name, true)).transpose()?;
            Ok(LayerSummary {
                pack,
                layer: name,
                changed,
                removed,
                new_bytes,
                notes: captured.notes,
            })
        })?;
        locked(&self.workspaces).retain(|(path, _)| path != directory);
        if let Some(attempt) = attempt {
            let until = self.clock.now().after(pins::OUTPUT);
            let held = Held::Output;
            self.pins.hold(attempt, held, &[summary.layer], until)?;
        }
        Ok(summary)
    }
}

/// Whether the disk said that nothing more fits.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
