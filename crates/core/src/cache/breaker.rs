//! When a peer is not asked any more: after failures, and after bytes that were not what they should be.

use std::time::Duration;

use crate::time::Timestamp;

/// Failures within the window that open it.
const FAILURES: u32 = 3;
/// The window, and how long it stays open; then one request is let through.
const OPEN: Duration = Duration::from_secs(30);
/// Wrong bytes that shut it.
const MISMATCHES: u32 = 2;
/// How long it is shut then.
const SHUT: Duration = Duration::from_secs(600);

/// What is remembered of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    first: Timestamp,
    mismatches: u32,
    closed_until: Timestamp,
}

impl Breaker {
    /// Whether the peer may be asked. After the time out, each question may be the last: a failure
    /// closes it again at once.
    #[must_use]
    pub fn lets_through(&self, now: Timestamp) -> bool {
        now >= self.closed_until
    }

    /// It answered as it should.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// It did not answer, or not in time.
    pub fn failed(&mut self, now: Timestamp) {
        if now.since(self.first) > OPEN && self.failures < FAILURES {
            self.failures = 0;
        }
        if self.failures == 0 {
            self.first = now;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.closed_until = self.closed_until.max(now.after(OPEN));
        }
    }

    /// It sent bytes that were not what they should be.
    pub fn lied(&mut self, now: Timestamp) {
        self.mismatches = self.mismatches.saturating_add(1);
        if self.mismatches >= MISMATCHES {
            self.mismatches = 0;
            self.closed_until = now.after(SHUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    #[test]
    fn three_failures_in_half_a_minute_are_enough_and_one_more_afterwards() {
        let mut peer = Breaker::default();
        peer.failed(at(0));
        peer.failed(at(1));
        assert!(peer.lets_through(at(1)));
        peer.failed(at(2));
        assert!(!peer.lets_through(at(31)));
        assert!(peer.lets_through(at(32)));
        peer.failed(at(40));
        assert!(!peer.lets_through(at(69)));
        assert!(peer.lets_through(at(70)));
        peer.succeeded();
        peer.failed(at(71));
        assert!(peer.lets_through(at(71)));
    }

    #[test]
    fn failures_far_apart_are_none() {
        let mut peer = Breaker::default();
        for n in 0..10 {
            peer.failed(at(n * 31));
        }
        assert!(peer.lets_through(at(9 * 31)));
    }

    #[test]
    fn who_lied_twice_is_not_asked_for_ten_minutes() {
        let mut peer = Breaker::default();
        peer.lied(at(0));
        assert!(peer.lets_through(at(0)));
        peer.lied(at(500));
        peer.succeeded();
        assert!(!peer.lets_through(at(1_099)));
        assert!(peer.lets_through(at(1_100)));
    }
}
