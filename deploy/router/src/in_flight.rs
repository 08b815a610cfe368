//! How many requests are at a version, and whether it still takes any. What makes a drain safe is here alone, so that
//! every order of two threads' steps can be tried (`tests/every_order.rs` includes this file).
//!
//! A request counts itself and then looks; a drain says so and then counts. Both count by changing the same
//! number, so one comes first: if the request does, the drain sees it, and if the drain does, the request sees that
//! and goes elsewhere.

use super::atomics::{AtomicBool, AtomicU64, Ordering};

/// The requests at one version; at first nobody is there, and everybody may come.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    count: AtomicU64,
    draining: AtomicBool,
}

impl InFlight {
    /// Counts a request in. False: the version drains, and the request, which is counted all the same until it
    /// [leaves](Self::leave), must not be sent there.
    pub(crate) fn enter(&self) -> bool {
        self.count.fetch_add(1, Ordering::AcqRel);
        !self.is_draining()
    }

    /// Counts a request out; true when it was the last one.
    pub(crate) fn leave(&self) -> bool {
        self.count.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Takes nobody any more, or everybody again. What it was before.
    pub(crate) fn drain(&self, draining: bool) -> bool {
        self.draining.swap(draining, Ordering::AcqRel)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// How many there are. After [`Self::drain`], 0 means that there is nobody and that nobody comes.
    pub(crate) fn count(&self) -> u64 {
        // A change of nothing: a mere look could miss a request that does not see the drain yet.
        self.count.fetch_add(0, Ordering::AcqRel)
    }
}
