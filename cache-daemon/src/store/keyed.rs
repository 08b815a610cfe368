//! The table of `cache:` entries: `keyed/<name>`, one small file each, and their content in the store.
//!
//! Owns finding, laying out and keeping entries. Does not decide which entry is the best or which leaves
//! (`core::cache::keyed`). An entry pins nothing: when its content was evicted, it is a miss and goes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use slipway_core::cache::keyed::{self, Kept, Wanted as Keys};
use slipway_core::digest::Digest;

use super::{Store, StoreError, Wanted, locked};
use crate::blobs::{self, BlobError, Durable};

/// Largest file of the table: a scope, a key and all paths at their limits.
const FILE_MAX: u64 = 256 * 1024;

/// The table, as it is on the disk and in memory.
pub(super) struct Table {
    folder: PathBuf,
    kept: Mutex<Vec<Kept>>,
}

/// A laid-out entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The key it was kept under.
    pub key: String,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep<'a> {
    /// The workspace.
    pub directory: &'a Path,
    /// Where it is looked for, and the key and paths it gets.
    pub keys: Keys<'a>,
    /// The scope it gets.
    pub scope: &'a str,
    /// Whether builds of trusted code write that scope.
    pub trusted: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// False: the key was there, or nothing was.
    pub saved: bool,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out.
    pub notes: Vec<String>,
}

fn name(entry: &Kept) -> String {
    let mut all = Vec::new();
    for part in [&entry.scope, &entry.key].into_iter().chain(&entry.paths) {
        all.extend_from_slice(&(part.len() as u64).to_le_bytes());
        all.extend_from_slice(part.as_bytes());
    }
    Digest::of(&all).to_string()
}

impl Table {
    /// Reads what an earlier process left; a file that is none of ours is removed.
    pub(super) fn open(root: &Path) -> Self {
        let folder = root.join("keyed");
        let mut kept = Vec::new();
        if let Err(error) = std::fs::create_dir_all(&folder) {
            tracing::warn!(%error, "cache entries cannot be kept");
        }
        for file in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let small = file.metadata().is_ok_and(|m| m.len() <= FILE_MAX);
            let bytes = small.then(|| std::fs::read(file.path()).ok()).flatten();
            let entry = bytes.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
            match entry.filter(|entry| file.file_name().to_str() == Some(&name(entry))) {
                Some(entry) if kept.len() < keyed::ENTRIES_MAX => kept.push(entry),
                _ => drop(std::fs::remove_file(file.path())),
            }
        }
        Self {
            folder,
            kept: Mutex::new(kept),
        }
    }

    fn write(&self, entry: &Kept) -> std::io::Result<()> {
        let path = self.folder.join(name(entry));
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(entry)?)?;
        std::fs::rename(beside, path)
    }

    fn matching(&self, keys: Keys<'_>) -> Vec<Kept> {
        let kept = locked(&self.kept);
        keyed::matching(&kept, keys).into_iter().cloned().collect()
    }

    fn forget(&self, entry: &Kept) {
        let mut kept = locked(&self.kept);
        kept.retain(|other| name(other) != name(entry) || other.root != entry.root);
        let _gone_already = std::fs::remove_file(self.folder.join(name(entry)));
    }

    fn touch(&self, used: &Kept, now: slipway_core::time::Timestamp) {
        let mut kept = locked(&self.kept);
        for entry in kept.iter_mut().filter(|entry| **entry == *used) {
            entry.used_at = now;
            // Without it the entry only looks older after a restart.
            let _unsaid = self.write(entry);
        }
    }

    /// Adds an entry and removes those that have no room beside it. The first of a name stays.
    fn add(&self, entry: Kept, quota: u64) -> std::io::Result<bool> {
        let mut kept = locked(&self.kept);
        if kept.iter().any(|other| name(other) == name(&entry)) {
            return Ok(false);
        }
        self.write(&entry)?;
        kept.push(entry);
        let mut leaving = keyed::leaving(&kept, quota);
        leaving.sort_unstable();
        for at in leaving.into_iter().rev() {
            let gone = kept.remove(at);
            let _gone_already = std::fs::remove_file(self.folder.join(name(&gone)));
        }
        Ok(true)
    }
}

impl Store {
    fn is_whole(&self, entry: &Kept) -> bool {
        self.has(&entry.root) && self.named_by(&entry.root).iter().all(|d| self.has(d))
    }

    /// Lays the best entry out in an empty directory. `None` = there is none.
    ///
    /// # Errors
    /// When the disk refuses, or content turns out to be damaged; the directory must then be thrown away.
    pub fn restore_keyed(
        &self,
        directory: &Path,
        keys: Keys<'_>,
        attempt: &str,
    ) -> Result<Option<Hit>, StoreError> {
        for entry in self.keyed.matching(keys) {
            let wanted = Wanted {
                directory,
                root: &entry.root,
                layers: &[],
                attempt: Some(attempt),
            };
            self.pin(&wanted, &[])?;
            if !self.is_whole(&entry) {
                self.keyed.forget(&entry);
                continue;
            }
            let restored = self.restore(&wanted).inspect_err(|error| {
                if matches!(error, StoreError::Blob(BlobError::Miss(_))) {
                    self.keyed.forget(&entry);
                }
            });
            // It is a copy from here on.
            self.release(attempt);
            let (_, files, bytes) = restored?;
            self.keyed.touch(&entry, self.clock.now());
            let key = entry.key;
            return Ok(Some(Hit { key, files, bytes }));
        }
        self.release(attempt);
        Ok(None)
    }

    /// Keeps folders of a workspace under a key, unless it can be read already.
    ///
    /// # Errors
    /// When the folders are too large, cannot be read, or the disk refuses.
    pub fn save_keyed(&self, keep: Keep<'_>) -> Result<Saved, StoreError> {
        let exact = Keys {
            restore_keys: &[],
            ..keep.keys
        };
        for entry in self.keyed.matching(exact) {
            if self.is_whole(&entry) {
                return Ok(Saved::default());
            }
            self.keyed.forget(&entry);
        }
        let quota = self.disk.space.quota();
        let limit = keyed::bytes_max(quota);
        let (root, tree, notes) = self.with_room(|| {
            let mut batch = self.disk.batch();
            let paths = keep.keys.paths;
            let captured = blobs::capture_paths(keep.directory, paths, limit, &mut batch)?;
            let root = batch.add_bytes(&captured.tree.encode())?;
            if captured.tree.files() > 0 {
                self.commit(batch, Durable::Later)?;
            }
            Ok((root, captured.tree, captured.notes))
        })?;
        let (files, bytes, now) = (tree.files(), tree.bytes(), self.clock.now());
        let entry = Kept {
            scope: keep.scope.to_owned(),
            trusted: keep.trusted,
            key: keep.keys.key.to_owned(),
            paths: keep.keys.paths.to_vec(),
            root,
            bytes,
            saved_at: now,
            used_at: now,
        };
        let saved = files > 0 && self.keyed.add(entry, quota)?;
        Ok(Saved {
            saved,
            files,
            bytes,
            notes,
        })
    }
}

#[cfg(test)]
#[path = "keyed_tests.rs"]
mod tests;
