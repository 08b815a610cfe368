//! The router's own last defence: a new version that fails half of what it is asked is taken out at
//! once, without anybody's word. Only ever towards stable.

/// What is looked at: the last ten seconds.
pub const TRIP_WINDOW_MS: i64 = 10_000;
/// Fewer requests than this trip nothing,
const REQUESTS_MIN: u64 = 20;
/// unless so many were all refused.
const REFUSED_MIN: u64 = 5;

/// Requests of one version within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// That ended.
    pub completed: u64,
    /// Of them bad.
    pub bad: u64,
    /// Of the bad ones, those that found nobody to connect to.
    pub refused: u64,
}

/// Whether the new version is to be taken out, with its numbers.
#[must_use]
pub fn trips(canary: Seen, stable: Seen) -> Option<String> {
    let failing =
        canary.completed >= REQUESTS_MIN && canary.bad.saturating_mul(2) >= canary.completed;
    let unreachable = canary.completed >= REFUSED_MIN && canary.refused >= canary.completed;
    if !failing && !unreachable {
        return None;
    }
    // Stable fails as well: it is not the new version, and there is nothing better to go to.
    let wide = |a: u64, b: u64| u128::from(a).saturating_mul(u128::from(b));
    let both =
        wide(stable.bad, canary.completed).saturating_mul(2) > wide(canary.bad, stable.completed);
    if stable.completed >= REQUESTS_MIN && both {
        return None;
    }
    Some(format!(
        "{} of {} requests failed within 10 s ({} found nobody), stable {} of {}",
        canary.bad, canary.completed, canary.refused, stable.bad, stable.completed
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(completed: u64, bad: u64, refused: u64) -> Seen {
        Seen {
            completed,
            bad,
            refused,
        }
    }

    #[test]
    fn half_of_twenty_or_all_of_five_refused_trip_unless_stable_fails_too() {
        let well = seen(1_000, 1, 0);
        assert!(trips(seen(20, 10, 0), well).is_some());
        assert!(trips(seen(19, 19, 0), well).is_none());
        assert!(trips(seen(20, 9, 0), well).is_none());
        assert!(trips(seen(5, 5, 5), well).is_some());
        assert!(trips(seen(5, 5, 4), well).is_none());
        assert!(
            trips(seen(20, 20, 0), seen(100, 60, 0)).is_none(),
            "an incident of both"
        );
        assert!(trips(seen(20, 20, 0), seen(100, 50, 0)).is_some());
        assert!(
            trips(seen(20, 20, 0), seen(0, 0, 0)).is_some(),
            "nobody else is asked"
        );
        let _total = trips(
            seen(u64::MAX, u64::MAX, u64::MAX),
            seen(u64::MAX, u64::MAX, 0),
        );
    }
}
