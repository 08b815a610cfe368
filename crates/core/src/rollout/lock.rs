//! One active rollout per service and environment: who holds the lock, and who is next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// How long a holder may be silent before somebody else may resolve its rollout.
pub const LOCK_TTL: Duration = Duration::from_secs(600);
/// How often a holder says that it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// A holder whose own clock saw no good heartbeat for this long treats the lock as lost: earlier than
/// [`LOCK_TTL`], because its clock and the store's may differ.
const LOST_AFTER: Duration = Duration::from_secs(540);
/// Left on the lock before an intent is written: an effect must not outlive the right to do it.
pub const SAFETY_MARGIN: Duration = Duration::from_secs(60);
/// How long a rollout waits for its turn.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which deployment.
    pub holder: String,
    /// The fencing token that it was given.
    pub token: u64,
    /// When it runs out.
    pub expires_at: Timestamp,
}

/// Who waits for the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Which deployment.
    pub deployment: String,
    /// A rollback goes before everybody else.
    pub head: bool,
    /// Since when.
    pub enqueued_at: Timestamp,
}

/// What becomes of somebody who asks for the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockAnswer {
    /// It is theirs, under a new token.
    Granted,
    /// It was theirs before; the token stays.
    AlreadyHeld,
    /// Somebody else is first.
    Wait {
        /// Who holds it; `None` = free, but others are before.
        holder: Option<String>,
        /// 1 = next.
        position: u32,
    },
    /// The holder fell silent: its rollout is resolved first, under a new token.
    ResolveOrphan {
        /// Whose rollout.
        holder: String,
    },
    /// Waited too long.
    TimedOut,
}

/// Judges a request for the lock. `me` must be among `waiters`.
#[must_use]
pub fn ask(held: Option<&Held>, waiters: &[Waiter], me: &str, now: Timestamp) -> LockAnswer {
    if let Some(held) = held
        && held.holder == me
    {
        return LockAnswer::AlreadyHeld;
    }
    let mut order: Vec<&Waiter> = waiters.iter().collect();
    order.sort_by(|a, b| {
        let key = |w: &Waiter| (!w.head, w.enqueued_at);
        key(a)
            .cmp(&key(b))
            .then_with(|| a.deployment.cmp(&b.deployment))
    });
    let Some(place) = order.iter().position(|waiter| waiter.deployment == me) else {
        return LockAnswer::Wait {
            holder: held.map(|held| held.holder.clone()),
            position: u32::try_from(order.len() + 1).unwrap_or(u32::MAX),
        };
    };
    let first = place == 0;
    match held {
        None if first => return LockAnswer::Granted,
        Some(held) if first && now >= held.expires_at => {
            return LockAnswer::ResolveOrphan {
                holder: held.holder.clone(),
            };
        }
        _ => {}
    }
    // A rollback never gives up its place.
    let mine = order[place];
    if !mine.head && now.since(mine.enqueued_at) > WAIT_LIMIT {
        return LockAnswer::TimedOut;
    }
    LockAnswer::Wait {
        holder: held.map(|held| held.holder.clone()),
        position: u32::try_from(place + 1).unwrap_or(u32::MAX),
    }
}

/// Whether a holder must stop acting. `age` is the time since its last good heartbeat on its own
/// monotonic clock.
#[must_use]
pub fn is_lost(age: Duration) -> bool {
    age > LOST_AFTER
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(s: u64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs(s))
    }

    fn waiter(name: &str, head: bool, s: u64) -> Waiter {
        Waiter {
            deployment: name.to_owned(),
            head,
            enqueued_at: at(s),
        }
    }

    #[test]
    fn the_lock_is_first_come_first_served_and_rollbacks_go_first() {
        let queue = [
            waiter("a", false, 1),
            waiter("b", false, 2),
            waiter("r", true, 3),
        ];
        assert_eq!(ask(None, &queue, "r", at(4)), LockAnswer::Granted);
        assert_eq!(
            ask(None, &queue, "a", at(4)),
            LockAnswer::Wait {
                holder: None,
                position: 2
            }
        );
        assert_eq!(
            ask(None, &queue, "b", at(4)),
            LockAnswer::Wait {
                holder: None,
                position: 3
            }
        );
    }

    #[test]
    fn an_expired_holder_is_resolved_by_the_first_waiter_only() {
        let held = Held {
            holder: "x".to_owned(),
            token: 3,
            expires_at: at(600),
        };
        let queue = [waiter("a", false, 1), waiter("b", false, 2)];
        let asked = |me, s| ask(Some(&held), &queue, me, at(s));
        assert!(matches!(
            asked("a", 599),
            LockAnswer::Wait { position: 1, .. }
        ));
        assert_eq!(
            asked("a", 600),
            LockAnswer::ResolveOrphan {
                holder: "x".to_owned()
            }
        );
        assert!(matches!(
            asked("b", 600),
            LockAnswer::Wait { position: 2, .. }
        ));
        assert_eq!(
            ask(Some(&held), &queue, "x", at(9_999)),
            LockAnswer::AlreadyHeld
        );
    }

    #[test]
    fn waiting_ends_after_thirty_minutes_but_not_for_a_rollback() {
        let held = Held {
            holder: "x".to_owned(),
            token: 3,
            expires_at: at(99_999),
        };
        let queue = [waiter("a", false, 0), waiter("r", true, 0)];
        assert_eq!(
            ask(Some(&held), &queue, "a", at(1_801)),
            LockAnswer::TimedOut
        );
        assert!(matches!(
            ask(Some(&held), &queue, "r", at(9_000)),
            LockAnswer::Wait { .. }
        ));
    }

    proptest! {
        #[test]
        fn of_all_waiters_exactly_one_is_granted_a_free_lock(
            queue in proptest::collection::vec((any::<bool>(), 0_u64..50), 1..50)
        ) {
            let queue: Vec<Waiter> = queue
                .iter()
                .enumerate()
                .map(|(i, (head, s))| waiter(&format!("d{i}"), *head, *s))
                .collect();
            let granted = queue
                .iter()
                .filter(|w| ask(None, &queue, &w.deployment, at(60)) == LockAnswer::Granted)
                .count();
            prop_assert_eq!(granted, 1);
        }
    }
}
