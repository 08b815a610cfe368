//! What was moved here for each attempt: an attempt may ask for its workspace more than once, and is told
//! the sum.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Attempts that are remembered: more never execute on one host.
const ATTEMPTS_MAX: usize = 1_000;

/// Bytes by attempt.
#[derive(Default)]
pub(super) struct Moved(Mutex<BTreeMap<String, u64>>);

impl Moved {
    /// Adds bytes; the sum so far. Of nobody's attempt nothing is remembered.
    pub(super) fn add(&self, attempt: &str, bytes: u64) -> u64 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempt.is_empty() || (all.len() >= ATTEMPTS_MAX && !all.contains_key(attempt)) {
            return bytes;
        }
        let sum = all.entry(attempt.to_owned()).or_default();
        *sum = sum.saturating_add(bytes);
        *sum
    }

    /// The attempt is over.
    pub(super) fn forget(&self, attempt: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(attempt);
    }
}
