//! Randomness: ids, secrets and jitter. Seeded in tests, the operating system's otherwise.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use slipway_core::time::Timestamp;

/// A handle to randomness. Cheap to clone; clones share one stream.
#[derive(Clone)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// Seeded by the operating system.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one home of randomness")]
    pub fn system() -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_rng(&mut rand::rng()))))
    }

    /// The same numbers for the same seed, for tests.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// `N` random bytes, good enough for a key: the generator is cryptographic (ChaCha).
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut out);
        out
    }

    /// A random number.
    #[must_use]
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Full jitter: uniform in `0..limit`.
    #[must_use]
    pub fn jitter(&self, limit: Duration) -> Duration {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.number() % millis)
    }

    /// A new ULID in canonical text, for ids made at `now`.
    #[must_use]
    pub fn ulid(&self, now: Timestamp) -> String {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        ulid::Ulid::from_parts(millis, u128::from_le_bytes(self.bytes())).to_string()
    }

    /// A new id of any of core's id types.
    #[must_use]
    pub fn id<T: std::str::FromStr>(&self, now: Timestamp) -> T {
        match self.ulid(now).parse() {
            Ok(id) => id,
            Err(_) => unreachable!("a fresh ULID is a canonical ULID"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_core::id::BuildId;

    #[test]
    fn ids_are_canonical_and_sort_by_time() {
        let rng = Rng::seeded(1);
        let early: BuildId = rng.id(Timestamp::from_millis(1_700_000_000_000));
        let late: BuildId = rng.id(Timestamp::from_millis(1_700_000_000_001));
        assert!(early < late);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(Rng::seeded(7).bytes::<32>(), Rng::seeded(7).bytes::<32>());
    }
}
