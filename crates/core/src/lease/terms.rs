//! The constants of a lease.

use std::time::Duration;

/// How long a lease lasts without renewal: the interval of most peers that notice within a minute.
pub const LEASE: Duration = Duration::from_secs(60);
/// How often it is renewed: two missed renewals end nothing.
pub const RENEW: Duration = Duration::from_secs(20);
/// How often an unanswered renewal is repeated.
pub const RENEW_RETRY: Duration = Duration::from_secs(5);
/// How long an assignment may stay unanswered before it is taken back.
pub const TAKEN_TIMEOUT: Duration = Duration::from_secs(5);
/// After a start no lease is judged for so long: one lease, and time to reconnect.
pub const LIVENESS_GRACE: Duration = Duration::from_secs(90);
/// A gap in the dispatcher's own loop longer than this was a freeze of its own.
pub const STALL_SHIFT: Duration = Duration::from_secs(5);
/// Between a polite and a hard end of a cancelled stage.
pub const CANCEL_GRACE: Duration = Duration::from_secs(10);
