//! Blobs, their index, and what is known about laid-out workspaces, as one thing.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use slipway_core::cache::eviction::{self, Entry};
use slipway_core::cache::manifest::{Layer, ManifestError, Tree};
use slipway_core::digest::Digest;
use slipway_daemon::Clock;

use crate::blobs::{self, Batch, BlobError, CaptureError, Disk, Known, Restored};
use crate::index::BlobIndex;

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
    Capture(#[from] CaptureError),
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

/// A captured layer.
pub struct LayerSummary {
    /// Its name.
    pub layer: Digest,
    /// Paths put.
    pub changed: u64,
    /// Paths removed.
    pub removed: u64,
    /// Bytes on disk that were not there before.
    pub new_bytes: u64,
    /// What was left out.
    pub notes: Vec<String>,
}

/// The store.
pub struct Store {
    disk: Disk,
    index: Box<dyn BlobIndex>,
    clock: Clock,
    quota: u64,
    hits: AtomicU64,
    misses: AtomicU64,
    workspaces: Mutex<Vec<(PathBuf, Known)>>,
}

impl Store {
    /// Takes the parts, and brings the index in line with the directory.
    #[must_use]
    pub fn open(disk: Disk, index: Box<dyn BlobIndex>, clock: Clock, quota: u64) -> Self {
        let store = Self {
            disk,
            index,
            clock,
            quota,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            workspaces: Mutex::default(),
        };
        store.reconcile();
        store
    }

    /// The directory is the truth: blobs that the index does not know are added, others dropped.
    fn reconcile(&self) {
        let Ok(listed) = self.disk.list() else {
            tracing::error!("the blob directory cannot be listed");
            return;
        };
        let mut known: BTreeMap<Digest, Entry> = self
            .index
            .entries()
            .into_iter()
            .map(|entry| (entry.digest, entry))
            .collect();
        for (digest, size) in listed {
            if known.remove(&digest).is_none_or(|entry| entry.size != size) {
                self.record(&[(digest, size)]);
            }
        }
        for digest in known.keys() {
            self.index.forget(digest);
        }
    }

    fn record(&self, new: &[(Digest, u64)]) {
        let last_use = self.clock.now();
        for &(digest, size) in new {
            self.index.record(Entry {
                digest,
                size,
                last_use,
            });
        }
    }

    fn commit(&self, batch: Batch<'_>) -> Result<u64, StoreError> {
        let new = batch.commit()?;
        self.record(&new);
        let bytes = new.iter().map(|(_, size)| size).sum();
        if self.index.totals().1 > self.quota {
            self.evict();
        }
        Ok(bytes)
    }

    fn workspaces(&self) -> MutexGuard<'_, Vec<(PathBuf, Known)>> {
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob's bytes, at most `limit` of them.
    ///
    /// # Errors
    /// `Miss` when it is not here.
    pub fn get(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        match self.disk.read(digest, limit, &mut bytes) {
            Ok(_) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                self.index.touch(digest, self.clock.now());
                Ok(bytes)
            }
            Err(error) => {
                self.missed(&error);
                Err(error.into())
            }
        }
    }

    fn missed(&self, error: &BlobError) {
        if let BlobError::Miss(digest) = error {
            self.misses.fetch_add(1, Ordering::Relaxed);
            self.index.forget(digest);
        }
    }

    /// Whether a blob is here.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.disk.has(digest)
    }

    /// Stores one blob.
    ///
    /// # Errors
    /// When the reader or the disk refuses.
    pub fn put(&self, reader: &mut dyn Read) -> Result<(Digest, u64), StoreError> {
        let mut batch = self.disk.batch();
        let stored = batch.add_reader(reader, 0)?;
        self.commit(batch)?;
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
    pub fn restore(
        &self,
        directory: &Path,
        root: &Digest,
        layers: &[Digest],
    ) -> Result<(Digest, u64, u64), StoreError> {
        let tree = self.merged(root, layers)?;
        let restored = blobs::restore(&self.disk, &tree, directory);
        let Restored {
            files,
            bytes,
            known,
        } = restored.inspect_err(|error| self.missed(error))?;
        let now = self.clock.now();
        for (_, digest) in known.values() {
            self.index.touch(digest, now);
        }
        let merged = if layers.is_empty() {
            *root
        } else {
            let mut batch = self.disk.batch();
            let merged = batch.add_bytes(&tree.encode())?;
            self.commit(batch)?;
            merged
        };
        let mut workspaces = self.workspaces();
        workspaces.retain(|(path, _)| path != directory);
        if workspaces.len() >= WORKSPACES_MAX {
            workspaces.remove(0);
        }
        workspaces.push((directory.to_owned(), known));
        Ok((merged, files, bytes))
    }

    fn known(&self, directory: &Path) -> Known {
        let mut workspaces = self.workspaces();
        let at = workspaces.iter().position(|(path, _)| path == directory);
        at.map(|at| workspaces.remove(at).1).unwrap_or_default()
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
        let mut batch = self.disk.batch();
        let captured = blobs::capture(directory, &Known::new(), keep_git, &mut batch)?;
        let root = batch.add_bytes(&captured.tree.encode())?;
        self.commit(batch)?;
        Ok((root, captured.tree.files(), captured.tree.bytes()))
    }

    /// Stores what changed in a directory against `base`.
    ///
    /// # Errors
    /// When the base is not here, the directory cannot be read, or the disk refuses.
    pub fn capture_layer(
        &self,
        directory: &Path,
        base: &Digest,
    ) -> Result<LayerSummary, StoreError> {
        let before = self.merged(base, &[])?;
        let known = self.known(directory);
        // `.git` is part of a workspace only when the source brought it along.
        let keep_git = before.get(".git").is_some();
        let mut batch = self.disk.batch();
        let captured = blobs::capture(directory, &known, keep_git, &mut batch)?;
        let layer = before.diff(&captured.tree);
        let (changed, removed) = layer.counts();
        let name = batch.add_bytes(&layer.encode())?;
        let new_bytes = self.commit(batch)?;
        Ok(LayerSummary {
            layer: name,
            changed,
            removed,
            new_bytes,
            notes: captured.notes,
        })
    }

    /// Blobs, bytes, quota, hits, misses.
    #[must_use]
    pub fn stats(&self) -> [u64; 5] {
        let (blobs, bytes) = self.index.totals();
        let hits = self.hits.load(Ordering::Relaxed);
        let misses = self.misses.load(Ordering::Relaxed);
        [blobs, bytes, self.quota, hits, misses]
    }

    /// Removes the longest unused blobs when the store is too full.
    pub fn evict(&self) {
        let victims = eviction::plan(&self.index.entries(), self.quota, self.clock.now());
        if victims.is_empty() {
            return;
        }
        tracing::info!(
            blobs = victims.len(),
            "cache is full: the longest unused leave"
        );
        for digest in victims {
            self.disk.remove(&digest);
            self.index.forget(&digest);
        }
    }

    /// Puts the index on disk.
    pub fn flush(&self) {
        self.index.flush();
    }
}
