//! What one attempt has left so far, and what it may read: its own first, then its scopes in order.
//!
//! Nothing of it is anybody else's before the attempt passed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use slipway_core::cache::remote;
use slipway_core::digest::Digest;
use slipway_proto::v1::CacheScope;

use super::Refused;
use crate::Store;
use crate::store::{ForeignEntry as Entry, locked};

/// The entries of one attempt, under (protocol, key).
pub(super) struct Own {
    scope: CacheScope,
    read_only: bool,
    closed: AtomicBool,
    entries: Mutex<BTreeMap<(String, String), Entry>>,
    /// Bytes that came, refused ones too.
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Own {
    pub(super) fn new(scope: CacheScope, read_only: bool, quota: u64) -> Self {
        let bytes_max = remote::attempt_bytes(quota, scope.trusted);
        Self {
            scope,
            read_only,
            closed: AtomicBool::new(false),
            entries: Mutex::default(),
            bytes: AtomicU64::new(0),
            bytes_max,
        }
    }

    /// Whether something may be put at all.
    pub(super) fn may_write(&self) -> Result<(), Refused> {
        if self.closed.load(Ordering::Acquire) {
            Err(Refused::Closed)
        } else if self.read_only {
            Err(Refused::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// Takes so many bytes of what the attempt may bring.
    pub(super) fn take(&self, bytes: u64) -> Result<(), Refused> {
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if before.saturating_add(bytes) > self.bytes_max {
            Err(Refused::Full)
        } else {
            Ok(())
        }
    }

    pub(super) fn find(&self, store: &Store, space: &str, key: &str) -> Option<Entry> {
        let name = (space.to_owned(), key.to_owned());
        let own = locked(&self.entries).get(&name).cloned();
        own.filter(|entry| store.is_there(entry))
            .or_else(|| store.foreign(&self.scope.read, space, key))
    }

    pub(super) fn put(
        &self,
        (space, key): (&str, &str),
        (blob, size): (Digest, u64),
        notes: BTreeMap<String, String>,
    ) -> Result<(), Refused> {
        self.may_write()?;
        let entry = Entry {
            scope: self.scope.write.clone(),
            trusted: self.scope.trusted,
            space: space.to_owned(),
            key: key.to_owned(),
            blob,
            size,
            notes,
        };
        let mut entries = locked(&self.entries);
        let name = (space.to_owned(), key.to_owned());
        if entries.len() >= remote::ATTEMPT_ENTRIES_MAX && !entries.contains_key(&name) {
            return Err(Refused::Full);
        }
        entries.insert(name, entry);
        Ok(())
    }

    /// Whether there was one.
    pub(super) fn remove(&self, space: &str, key: &str) -> bool {
        let name = (space.to_owned(), key.to_owned());
        locked(&self.entries).remove(&name).is_some()
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Entries, and their bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        let entries = locked(&self.entries);
        let bytes = entries.values().map(|entry| entry.size).sum();
        (entries.len() as u64, bytes)
    }

    /// The attempt passed: what it left is its scope's, where that has nothing under the key. How many are.
    pub(super) fn promote(&self, store: &Store) -> u64 {
        let entries = std::mem::take(&mut *locked(&self.entries));
        let mut kept = 0;
        for entry in entries.values().filter(|entry| store.is_there(entry)) {
            match store.keep_foreign(entry) {
                Ok(new) => kept += u64::from(new),
                Err(error) => {
                    tracing::warn!(%error, "entries of a stage's tools cannot be kept");
                    break;
                }
            }
        }
        kept
    }
}
