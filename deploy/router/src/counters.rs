//! What is counted for one version, and who is in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use slipway_core::gate::{BUCKETS, bucket_of};
use tokio::sync::Notify;

use crate::in_flight::InFlight;

/// How one attempt at an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole answer was passed on; with its status.
    Answered(u16),
    /// No connection: nothing was sent.
    ConnectFailed,
    /// The connection ended before the answer did.
    Reset,
    /// No first byte in time.
    TimedOut,
}

/// How long a new version may warm up before its answers count as slow or not.
const WARM_UP_MS: i64 = 30_000;

/// Answers by how long they took.
#[derive(Debug)]
pub(crate) struct Latency(Box<[AtomicU64]>);

impl Default for Latency {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Latency {
    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.0.get(usize::from(bucket_of(micros))) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is not empty.
    pub(crate) fn read(&self) -> HashMap<u32, u64> {
        let counts = (0_u32..).zip(self.0.iter());
        counts
            .map(|(bucket, count)| (bucket, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// One version of one service, for as long as the router knows it. Counters only grow.
#[derive(Debug, Default)]
pub(crate) struct VersionState {
    pub(crate) name: String,
    pub(crate) completed: AtomicU64,
    pub(crate) status_5xx: AtomicU64,
    pub(crate) connect_failed: AtomicU64,
    pub(crate) reset: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) client_aborted: AtomicU64,
    pub(crate) in_flight: InFlight,
    pub(crate) long_lived: AtomicU64,
    /// Of all, and of the bad ones, those of the second half of clients.
    pub(crate) half_completed: AtomicU64,
    pub(crate) half_bad: AtomicU64,
    pub(crate) latency: Latency,
    /// Monotonic milliseconds since when it has had traffic; 0 = never.
    serves_since: AtomicI64,
    /// Monotonic milliseconds since when; 0 = not draining.
    draining_since: AtomicI64,
    emptied: Notify,
}

impl VersionState {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Enters a request; `None` when the version is draining, and the caller looks at the table
    /// again.
    pub(crate) fn enter(self: &Arc<Self>, second_half: bool) -> Option<Ticket> {
        let let_in = self.in_flight.enter();
        let ticket = Ticket {
            version: Arc::clone(self),
            settled: false,
            second_half,
        };
        if !let_in {
            ticket.withdraw();
            return None;
        }
        Some(ticket)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.in_flight.is_draining()
    }

    /// Monotonic milliseconds since when it drains.
    pub(crate) fn draining_since(&self) -> Option<i64> {
        let since = self.draining_since.load(Ordering::SeqCst);
        (since != 0).then_some(since)
    }

    /// Monotonic milliseconds since when it has had traffic.
    pub(crate) fn serves_since(&self) -> Option<i64> {
        let since = self.serves_since.load(Ordering::Relaxed);
        (since != 0).then_some(since)
    }

    pub(crate) fn set_draining(&self, draining: bool, now_ms: i64) {
        let since = if draining { now_ms.max(1) } else { 0 };
        if !draining {
            let first = (0, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed);
            let _known = self
                .serves_since
                .compare_exchange(first.0, first.1, first.2, first.3);
        }
        if self.in_flight.drain(draining) != draining {
            self.draining_since.store(since, Ordering::SeqCst);
        }
    }

    /// Resolves when nothing is in flight.
    pub(crate) async fn emptied(&self) {
        loop {
            let notified = self.emptied.notified();
            tokio::pin!(notified);
            // Registered before the look, so that no last request slips between.
            notified.as_mut().enable();
            if self.in_flight.count() == 0 {
                return;
            }
            notified.await;
        }
    }

    fn leave(&self) {
        if self.in_flight.leave() {
            self.emptied.notify_waiters();
        }
    }

    fn count(&self, outcome: Outcome, second_half: bool) {
        let add = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        let bad = !matches!(outcome, Outcome::Answered(status) if status < 500);
        // The whole before its parts, and read the other way round: no part is larger than its whole.
        add(&self.completed);
        match outcome {
            Outcome::Answered(status) if status >= 500 => add(&self.status_5xx),
            Outcome::Answered(_) => {}
            Outcome::ConnectFailed => add(&self.connect_failed),
            Outcome::Reset => add(&self.reset),
            Outcome::TimedOut => add(&self.timed_out),
        }
        if second_half {
            add(&self.half_completed);
            if bad {
                add(&self.half_bad);
            }
        }
    }
}

/// A request in a version. Dropped without an outcome, it was the client who went away.
#[derive(Debug)]
pub(crate) struct Ticket {
    version: Arc<VersionState>,
    settled: bool,
    second_half: bool,
}

impl Ticket {
    pub(crate) fn version(&self) -> &Arc<VersionState> {
        &self.version
    }

    /// Counts how it ended and leaves.
    pub(crate) fn settle(mut self, outcome: Outcome) {
        self.settled = true;
        self.version.count(outcome, self.second_half);
    }

    /// The head of an answer came after this time.
    pub(crate) fn answered_after(&self, took: Duration, now_ms: i64) {
        let since = self.version.serves_since.load(Ordering::Relaxed);
        if since != 0 && now_ms.saturating_sub(since) >= WARM_UP_MS {
            self.version.latency.record(took);
        }
    }

    /// Leaves uncounted: it never was an attempt.
    pub(crate) fn withdraw(mut self) {
        self.settled = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.version.client_aborted.fetch_add(1, Ordering::Relaxed);
        }
        self.version.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_draining_version_takes_nobody_and_empties_with_its_last_request() {
        let version = Arc::new(VersionState::default());
        let ticket = version.enter(true).unwrap();
        version.set_draining(true, 5);
        assert!(version.enter(true).is_none());
        assert_eq!(version.in_flight.count(), 1);
        let waiting = {
            let version = Arc::clone(&version);
            async move { version.emptied().await }
        };
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        ticket.settle(Outcome::Answered(503));
        waiting.await;
        assert_eq!(version.status_5xx.load(Ordering::Relaxed), 1);
        assert_eq!(version.half_bad.load(Ordering::Relaxed), 1);
        version.set_draining(false, 9);
        drop(version.enter(true).unwrap());
        assert_eq!(version.client_aborted.load(Ordering::Relaxed), 1);
    }
}
