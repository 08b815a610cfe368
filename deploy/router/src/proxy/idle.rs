//! How long an idle connection to an instance may be used again.
//!
//! An instance that closes idle connections races with our next request on it. An idempotent request
//! is simply sent again elsewhere; a POST must not be, so it takes only connections that are idle for
//! far less than anything this instance was ever seen to close.

/// Nobody closes faster than this on purpose.
const START_MS: i64 = 20;
/// More than this is not worth the risk: a new connection costs less than a millisecond here.
const UNSAFE_MAX_MS: i64 = 1_000;
const IDEMPOTENT_MAX_MS: i64 = 30_000;

/// What was learned about one instance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdlePolicy {
    longest_survived_ms: i64,
    shortest_close_ms: Option<i64>,
}

impl IdlePolicy {
    /// A connection was used again after this idle time, and it worked.
    pub(crate) fn survived(&mut self, idle_ms: i64) {
        self.longest_survived_ms = self.longest_survived_ms.max(idle_ms);
    }

    /// The instance closed a connection after this idle time, or said that it will.
    pub(crate) fn closes_after(&mut self, idle_ms: i64) {
        let known = self.shortest_close_ms.unwrap_or(i64::MAX);
        self.shortest_close_ms = Some(known.min(idle_ms));
    }

    /// The longest idle time that a request may take.
    pub(crate) fn cap_ms(&self, idempotent: bool) -> i64 {
        let closing = self.shortest_close_ms.map_or(i64::MAX, |ms| ms / 2);
        if idempotent {
            return closing.min(IDEMPOTENT_MAX_MS);
        }
        let learned = (self.longest_survived_ms / 2).max(START_MS);
        learned.min(closing).min(UNSAFE_MAX_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_takes_only_what_is_far_from_any_close_seen() {
        let mut policy = IdlePolicy::default();
        assert_eq!(policy.cap_ms(false), 20);
        policy.survived(500);
        assert_eq!(policy.cap_ms(false), 250);
        policy.survived(100_000);
        assert_eq!(policy.cap_ms(false), 1_000);
        policy.closes_after(100);
        assert_eq!((policy.cap_ms(false), policy.cap_ms(true)), (50, 50));
        policy.closes_after(10);
        assert_eq!(policy.cap_ms(false), 5);
    }
}
