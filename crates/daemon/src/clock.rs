//! The clock: wall time for what people read, monotonic time for what must not jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use slipway_core::time::Timestamp;

#[derive(Clone)]
enum Source {
    System(Instant),
    Manual(Arc<AtomicI64>),
}

/// A handle to time, passed in wherever time is needed. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

impl Clock {
    /// The real clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// A clock that moves only by [`Clock::advance`], for tests.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.as_millis()))))
    }

    /// Wall time. May jump; never use it to end a lease.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one home of the clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System(_) => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Source::Manual(at) => Timestamp::from_millis(at.load(Ordering::SeqCst)),
        }
    }

    /// Time since this clock was made. Never jumps.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::System(start) => start.elapsed(),
            Source::Manual(at) => {
                Duration::from_millis(u64::try_from(at.load(Ordering::SeqCst)).unwrap_or(0))
            }
        }
    }

    /// Monotonic time in the form core's machines take: milliseconds since this clock was made.
    #[must_use]
    pub fn ticks(&self) -> Timestamp {
        Timestamp::EPOCH.after(self.monotonic())
    }

    /// Moves a manual clock. Does nothing to the real one.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(at) = &self.0 {
            at.fetch_add(
                i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
                Ordering::SeqCst,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_millis(5));
        assert_eq!(clock.now(), Timestamp::from_millis(5));
        clock.advance(Duration::from_millis(7));
        assert_eq!(clock.now(), Timestamp::from_millis(12));
    }
}
