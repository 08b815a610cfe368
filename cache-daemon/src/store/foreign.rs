//! Entries that other build tools left: a key, a name of a blob, one small file each.
//!
//! `foreign/<trusted|outside>/<scope>/<ab>/<name>`, where scope and name are hashes: nothing that anybody
//! chose is part of a path. The first entry of a name stays. An entry pins nothing: when its content was
//! evicted, it is a miss and goes. Does not decide who reads which scope (the door), nor which entries
//! leave (`core::cache::remote`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use slipway_core::cache::remote::{self, Seen};
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

use super::Store;

/// Largest file of the table: a scope, a key and a few short notes at their limits.
const FILE_MAX: u64 = 16 * 1024;
/// New entries after which the table is looked through before its hour.
const SWEEP_AFTER: usize = 20_000;
const TRUST: [(bool, &str); 2] = [(true, "trusted"), (false, "outside")];

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Whose it is.
    pub(crate) scope: String,
    /// Whether builds of trusted code wrote it.
    pub(crate) trusted: bool,
    /// Which protocol's; each has names of its own.
    pub(crate) space: String,
    /// As the tool named it.
    pub(crate) key: String,
    /// Its content.
    pub(crate) blob: Digest,
    /// Bytes of that.
    pub(crate) size: u64,
    /// What else the protocol gives back.
    #[serde(default)]
    pub(crate) notes: BTreeMap<String, String>,
}

fn name_of(space: &str, key: &str) -> Digest {
    let mut all = (space.len() as u64).to_le_bytes().to_vec();
    all.extend_from_slice(space.as_bytes());
    all.extend_from_slice(key.as_bytes());
    Digest::of(&all)
}

impl Store {
    fn foreign_file(&self, trusted: bool, scope: &str, space: &str, key: &str) -> PathBuf {
        let trust = if trusted { "trusted" } else { "outside" };
        let name = name_of(space, key).to_string();
        self.disk
            .root()
            .join("foreign")
            .join(trust)
            .join(Digest::of(scope.as_bytes()).to_string())
            .join(name.get(..2).unwrap_or("00"))
            .join(name)
    }

    /// The entry of this name in the first of these scopes that has one.
    pub(crate) fn foreign(&self, scopes: &[String], space: &str, key: &str) -> Option<Entry> {
        scopes.iter().find_map(|scope| {
            TRUST.iter().find_map(|(trusted, _)| {
                let path = self.foreign_file(*trusted, scope, space, key);
                let entry = read(&path)?;
                let right = entry.scope == *scope && entry.space == space && entry.key == key;
                if !right || !self.is_there(&entry) {
                    let _gone_already = std::fs::remove_file(&path);
                    return None;
                }
                // The time of last use; without it the entry only looks older.
                let now = std::time::UNIX_EPOCH + self.clock.now().since(Timestamp::EPOCH);
                let file = File::options().append(true).open(&path);
                let _unsaid = file.and_then(|file| file.set_modified(now));
                Some(entry)
            })
        })
    }

    /// Whether an entry's content is here whole.
    pub(crate) fn is_there(&self, entry: &Entry) -> bool {
        use slipway_core::cache::eviction::Kind;
        self.disk.find(Kind::Object, &entry.blob) == Some(entry.size)
    }

    /// Keeps an entry. False when its scope has a whole one of this name.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn keep_foreign(&self, entry: &Entry) -> io::Result<bool> {
        let path = self.foreign_file(entry.trusted, &entry.scope, &entry.space, &entry.key);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let beside = self.disk.fresh("tmp");
        std::fs::write(&beside, serde_json::to_vec(entry)?)?;
        let now = std::time::UNIX_EPOCH + self.clock.now().since(Timestamp::EPOCH);
        File::options()
            .append(true)
            .open(&beside)?
            .set_modified(now)?;
        let moved = rustix::fs::renameat_with(
            rustix::fs::CWD,
            &beside,
            rustix::fs::CWD,
            &path,
            rustix::fs::RenameFlags::NOREPLACE,
        );
        match moved {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                if read(&path).is_some_and(|first| self.is_there(&first)) {
                    std::fs::remove_file(&beside)?;
                    return Ok(false);
                }
                std::fs::rename(&beside, &path)?;
            }
            Err(error) => {
                let _gone = std::fs::remove_file(&beside);
                return Err(error.into());
            }
        }
        self.foreign_new.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Whether so many entries came that the table should be looked through.
    pub(crate) fn foreign_is_crowded(&self) -> bool {
        self.foreign_new.load(Ordering::Relaxed) > SWEEP_AFTER
    }

    /// Removes what nobody asked for in long, and what has no room.
    pub(crate) fn sweep_foreign(&self) {
        self.foreign_new.store(0, Ordering::Relaxed);
        let mut files = Vec::new();
        let mut seen = Vec::new();
        for (trusted, name) in TRUST {
            let folder = self.disk.root().join("foreign").join(name);
            for scope in list(&folder) {
                for part in list(&scope) {
                    for file in list(&part) {
                        let Some(used_at) = used(&file) else { continue };
                        files.push(file);
                        seen.push(Seen { trusted, used_at });
                    }
                    // Empty ones only; a new entry makes it again.
                    let _in_use = std::fs::remove_dir(&part);
                }
                let _in_use = std::fs::remove_dir(&scope);
            }
        }
        let gone = remote::leaving(&seen, remote::ENTRIES_MAX, self.clock.now());
        for file in gone.iter().filter_map(|at| files.get(*at)) {
            let _gone_already = std::fs::remove_file(file);
        }
        if !gone.is_empty() {
            tracing::info!(entries = gone.len(), "entries of other tools left");
        }
    }
}

fn read(path: &Path) -> Option<Entry> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn used(file: &Path) -> Option<Timestamp> {
    let at = std::fs::symlink_metadata(file).ok()?.modified().ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::EPOCH.after(since))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use slipway_daemon::Clock;

    use super::*;
    use crate::blobs::Disk;
    use crate::index::MemoryIndex;

    fn store() -> (tempfile::TempDir, Clock, Store) {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let disk = Disk::open(folder.path(), Arc::new(MemoryIndex::default()), 1 << 30);
        let store = Store::open(disk.unwrap(), clock.clone());
        store.list();
        (folder, clock, store)
    }

    fn entry(store: &Store, scope: &str, key: &str, content: &[u8]) -> Entry {
        let (blob, size) = store.put(&mut { content }, None).unwrap();
        Entry {
            scope: scope.to_owned(),
            trusted: scope.ends_with("trusted"),
            space: "x".to_owned(),
            key: key.to_owned(),
            blob,
            size,
            notes: BTreeMap::new(),
        }
    }

    fn scopes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_first_entry_of_a_name_stays_and_is_found_in_its_scope_alone() {
        let (_folder, _, store) = store();
        let first = entry(&store, "r/trusted", "k", b"one");
        assert!(store.keep_foreign(&first).unwrap());
        let second = entry(&store, "r/trusted", "k", b"two");
        assert!(!store.keep_foreign(&second).unwrap());
        let outside = entry(&store, "r/outside:7", "k", b"three");
        assert!(store.keep_foreign(&outside).unwrap());
        let find = |names: &[&str]| store.foreign(&scopes(names), "x", "k");
        assert_eq!(find(&["r/trusted"]), Some(first.clone()));
        assert_eq!(find(&["r/outside:7", "r/trusted"]), Some(outside));
        assert_eq!(find(&["r/outside:8", "r/trusted"]), Some(first));
        assert_eq!(find(&["q/trusted"]), None);
        let elsewhere = store.foreign(&scopes(&["r/trusted"]), "y", "k");
        assert_eq!(elsewhere, None, "each protocol has its own names");
    }

    #[test]
    fn an_entry_without_its_content_is_a_miss_and_makes_room_for_the_next() {
        let (_folder, _, store) = store();
        let first = entry(&store, "r/trusted", "k", b"one");
        store.keep_foreign(&first).unwrap();
        store
            .disk
            .discard(slipway_core::cache::eviction::Kind::Object, &first.blob);
        let second = entry(&store, "r/trusted", "k", b"two");
        assert!(store.keep_foreign(&second).unwrap());
        let found = store.foreign(&scopes(&["r/trusted"]), "x", "k");
        assert_eq!(found, Some(second));
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_leaves_in_time() {
        let (_folder, clock, store) = store();
        for key in ["used", "unused"] {
            let one = entry(&store, "r/trusted", key, key.as_bytes());
            store.keep_foreign(&one).unwrap();
        }
        let find = |key: &str| store.foreign(&scopes(&["r/trusted"]), "x", key);
        clock.advance(Duration::from_secs(5 * 24 * 3_600));
        assert!(find("used").is_some());
        clock.advance(Duration::from_secs(5 * 24 * 3_600));
        store.sweep_foreign();
        assert!(find("used").is_some());
        assert!(find("unused").is_none());
    }

    #[test]
    fn a_file_that_is_no_entry_is_a_miss() {
        let (_folder, _, store) = store();
        let one = entry(&store, "r/trusted", "k", b"one");
        store.keep_foreign(&one).unwrap();
        let path = store.foreign_file(true, "r/trusted", "x", "k");
        std::fs::write(&path, b"{\"scope\":").unwrap();
        assert_eq!(store.foreign(&scopes(&["r/trusted"]), "x", "k"), None);
        let other = entry(&store, "r/trusted", "other", b"one");
        std::fs::write(&path, serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(store.foreign(&scopes(&["r/trusted"]), "x", "k"), None);
    }
}
