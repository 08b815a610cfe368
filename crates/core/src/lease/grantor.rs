//! The dispatcher's deadlines of all held attempts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::terms::{STALL_SHIFT, TAKEN_TIMEOUT, Terms};
use crate::id::StageId;
use crate::time::Timestamp;

/// An attempt by name.
pub type Attempt = (StageId, u32);

/// What happened. All instants are monotonic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An attempt was given to an agent and the assignment was sent.
    Granted(Attempt),
    /// An attempt that was held before this start.
    Adopted(Attempt),
    /// Its agent took it.
    Taken(Attempt),
    /// Its agent renewed it.
    Renewed(Attempt),
    /// Its agent will not take it: nothing was executed.
    Declined(Attempt),
    /// Its agent connected without it: it is lost.
    Disowned(Attempt),
    /// It ended.
    Ended(Attempt),
    /// The loop is alive: says nothing else.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nobody answered the assignment, or it was declined: take it back, without counting a loss.
    TakeBack(Attempt),
    /// The lease ended: the attempt is lost.
    Expire(Attempt),
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    deadline: Timestamp,
    taken: bool,
    /// Its agent said that it does not hold it: no grace.
    disowned: bool,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Grantor {
    terms: Terms,
    leases: BTreeMap<Attempt, Lease>,
    /// Nothing is judged before this.
    grace_until: Timestamp,
    seen: Timestamp,
}

impl Grantor {
    /// Starts at `now`, with its grace.
    #[must_use]
    pub fn new(now: Timestamp, terms: Terms) -> Self {
        Self {
            terms,
            leases: BTreeMap::new(),
            grace_until: now.after(terms.grace),
            seen: now,
        }
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Timestamp, event: Event) {
        self.shift_after_stall(now);
        match event {
            Event::Granted(attempt) => self.set(attempt, now.after(TAKEN_TIMEOUT), false),
            Event::Adopted(attempt) => self.set(attempt, now.after(self.terms.grace), true),
            Event::Taken(attempt) | Event::Renewed(attempt) => {
                if let Some(lease) = self.leases.get_mut(&attempt) {
                    lease.deadline = now.after(self.terms.lease);
                    lease.taken = true;
                }
            }
            Event::Declined(attempt) => {
                // One that was taken cannot be declined any more.
                if let Some(lease) = self.leases.get_mut(&attempt)
                    && !lease.taken
                {
                    lease.deadline = now;
                }
            }
            Event::Disowned(attempt) => {
                if let Some(lease) = self.leases.get_mut(&attempt) {
                    lease.deadline = now;
                    lease.taken = true;
                    lease.disowned = true;
                }
            }
            Event::Ended(attempt) => {
                self.leases.remove(&attempt);
            }
            Event::Tick => {}
        }
    }

    fn set(&mut self, attempt: Attempt, deadline: Timestamp, taken: bool) {
        let lease = Lease {
            deadline,
            taken,
            disowned: false,
        };
        self.leases.insert(attempt, lease);
    }

    /// A freeze of our own must not look like everybody else's death: what was read late was still
    /// sent in time, so all deadlines move by the gap.
    fn shift_after_stall(&mut self, now: Timestamp) {
        let gap = now.since(self.seen);
        if gap > STALL_SHIFT {
            for lease in self.leases.values_mut() {
                lease.deadline = lease.deadline.after(gap);
            }
            self.grace_until = self.grace_until.after(gap);
        }
        self.seen = self.seen.max(now);
    }

    /// Ends every lease of a stage, whatever its attempt.
    pub fn end_of(&mut self, now: Timestamp, stage: &StageId) {
        self.shift_after_stall(now);
        self.leases.retain(|(held, _), _| held != stage);
    }

    /// The next thing to do, if any is due. Each attempt is named once.
    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        self.shift_after_stall(now);
        let due = self.leases.iter().find(|(_, lease)| {
            let judged = !lease.taken || lease.disowned || now >= self.grace_until;
            judged && lease.deadline <= now
        });
        let (attempt, taken) = due.map(|(attempt, lease)| (attempt.clone(), lease.taken))?;
        self.leases.remove(&attempt);
        Some(if taken {
            Action::Expire(attempt)
        } else {
            Action::TakeBack(attempt)
        })
    }

    /// When to ask again.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.leases
            .values()
            .map(|lease| {
                if lease.taken && !lease.disowned {
                    lease.deadline.max(self.grace_until)
                } else {
                    lease.deadline
                }
            })
            .min()
    }

    /// What is left of a lease.
    #[must_use]
    pub fn left(&self, attempt: &Attempt, now: Timestamp) -> Option<Duration> {
        self.leases
            .get(attempt)
            .map(|lease| lease.deadline.since(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::terms::LEASE;

    fn attempt(n: u32) -> Attempt {
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), n)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// A grantor whose grace is over and whose loop ticked every second until `now`.
    fn calm(now: i64) -> Grantor {
        let mut grantor = Grantor::new(at(0), Terms::default());
        tick(&mut grantor, 0, now);
        grantor
    }

    fn tick(grantor: &mut Grantor, from: i64, to: i64) -> Vec<(i64, Action)> {
        let mut done = Vec::new();
        for second in from..=to {
            grantor.handle(at(second), Event::Tick);
            while let Some(action) = grantor.poll(at(second)) {
                done.push((second, action));
            }
        }
        done
    }

    #[test]
    fn agent_lost_detected_60s() {
        let mut grantor = calm(100);
        grantor.handle(at(100), Event::Granted(attempt(1)));
        grantor.handle(at(101), Event::Taken(attempt(1)));
        grantor.handle(at(120), Event::Renewed(attempt(1)));
        let done = tick(&mut grantor, 120, 300);
        assert_eq!(done, [(180, Action::Expire(attempt(1)))]);
    }

    #[test]
    fn an_unanswered_assignment_is_taken_back_after_five_seconds() {
        let mut grantor = calm(100);
        grantor.handle(at(100), Event::Granted(attempt(1)));
        assert_eq!(
            tick(&mut grantor, 100, 110),
            [(105, Action::TakeBack(attempt(1)))]
        );
    }

    #[test]
    fn a_declined_assignment_is_taken_back_at_once_and_one_that_was_taken_is_not() {
        let mut grantor = calm(100);
        for n in [1, 2] {
            grantor.handle(at(100), Event::Granted(attempt(n)));
        }
        grantor.handle(at(100), Event::Taken(attempt(2)));
        for n in [1, 2] {
            grantor.handle(at(101), Event::Declined(attempt(n)));
        }
        assert_eq!(grantor.poll(at(101)), Some(Action::TakeBack(attempt(1))));
        assert_eq!(grantor.poll(at(101)), None);
    }

    #[test]
    fn nothing_is_judged_in_the_grace_after_a_start() {
        let mut grantor = Grantor::new(at(0), Terms::default());
        grantor.handle(at(0), Event::Adopted(attempt(1)));
        assert_eq!(tick(&mut grantor, 1, 89), []);
        grantor.handle(at(89), Event::Renewed(attempt(1)));
        assert_eq!(
            tick(&mut grantor, 90, 160),
            [(149, Action::Expire(attempt(1)))]
        );
    }

    #[test]
    fn an_attempt_that_its_agent_does_not_name_is_lost_at_once_even_in_the_grace() {
        let mut grantor = Grantor::new(at(0), Terms::default());
        grantor.handle(at(0), Event::Adopted(attempt(1)));
        grantor.handle(at(0), Event::Adopted(attempt(2)));
        grantor.handle(at(3), Event::Disowned(attempt(1)));
        assert_eq!(grantor.poll(at(3)), Some(Action::Expire(attempt(1))));
        assert_eq!(tick(&mut grantor, 3, 89), [], "the others keep their grace");
    }

    #[test]
    fn clock_jump_no_lease_effect() {
        // The machine never sees a wall clock; a freeze of the dispatcher itself moves all deadlines.
        let mut grantor = calm(100);
        grantor.handle(at(100), Event::Granted(attempt(1)));
        grantor.handle(at(100), Event::Taken(attempt(1)));
        assert_eq!(
            grantor.poll(at(400)),
            None,
            "300 s of our own freeze are not the agent's"
        );
        assert_eq!(grantor.left(&attempt(1), at(400)), Some(LEASE));
    }

    proptest! {
        #[test]
        fn every_lease_ends_exactly_once_and_never_early(
            renewals in proptest::collection::vec(1..59_i64, 0..8),
        ) {
            let mut grantor = calm(100);
            grantor.handle(at(100), Event::Granted(attempt(1)));
            grantor.handle(at(100), Event::Taken(attempt(1)));
            let mut now = 100;
            for wait in renewals {
                prop_assert_eq!(tick(&mut grantor, now, now + wait), vec![]);
                now += wait;
                grantor.handle(at(now), Event::Renewed(attempt(1)));
            }
            let done = tick(&mut grantor, now, now + 200);
            prop_assert_eq!(done, vec![(now + 60, Action::Expire(attempt(1)))]);
        }
    }
}
