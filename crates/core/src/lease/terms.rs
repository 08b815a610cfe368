//! How long a lease lasts, and what follows from that.

use std::time::Duration;

/// How long a lease lasts without renewal: the interval of most peers that notice within a minute.
pub const LEASE: Duration = Duration::from_secs(60);
/// With short leases a busy machine must not look like a missing one.
const SILENT_MIN: Duration = Duration::from_secs(10);
/// How often an unanswered renewal is repeated.
pub const RENEW_RETRY: Duration = Duration::from_secs(5);
/// How long an assignment may stay unanswered before it is taken back.
pub const TAKEN_TIMEOUT: Duration = Duration::from_secs(5);
/// A gap in the dispatcher's own loop longer than this was a freeze of its own.
pub const STALL_SHIFT: Duration = Duration::from_secs(5);
/// Between a polite and a hard end of a cancelled stage.
pub const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// The lengths that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a lease lasts without renewal.
    pub lease: Duration,
    /// How often it is renewed: two missed renewals end nothing.
    pub renew: Duration,
    /// An agent that was not heard for so long gets nothing new: two renewals.
    pub silent: Duration,
    /// After a start no lease is judged for so long: one lease, and time to reconnect.
    pub grace: Duration,
}

impl Terms {
    /// Of leases of this length.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        Self {
            lease,
            renew: lease / 3,
            silent: (lease / 3 * 2).max(SILENT_MIN),
            grace: lease + lease / 2,
        }
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self::of(LEASE)
    }
}
