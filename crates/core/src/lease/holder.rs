//! The agent's side of leases: when to renew, and when to stop because somebody else may hold them.
//!
//! A deadline is counted from the *sending* of the last renewal that was answered, so the agent
//! always believes less than the dispatcher does. When its own loop stood still past a deadline (a
//! frozen process or machine), whatever may have been given to others is killed before another word
//! is said. A deadline that passes while the loop is alive is a lost connection, and ends nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::grantor::Attempt;
use crate::time::Timestamp;

/// What happened. All instants are monotonic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An attempt is held from now on. `repeatable` is whether others may get it when we are lost.
    Held {
        /// Which.
        attempt: Attempt,
        /// False for at-most-once stages, which are never given to another.
        repeatable: bool,
    },
    /// A renewal of everything held was sent.
    RenewSent,
    /// The last renewal was answered.
    RenewAnswered,
    /// An attempt's result was accepted, or it was killed: no longer held.
    Released(Attempt),
    /// The stream is there (again): renew soon.
    Connected,
    /// The stream is gone.
    Disconnected,
    /// The loop is alive.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Kill this attempt before anything is sent: it may have been given to another agent.
    Fence(Attempt),
    /// Send a renewal of everything held.
    Renew,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    repeatable: bool,
    deadline: Timestamp,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Holder {
    lease: Duration,
    renew: Duration,
    retry: Duration,
    held: BTreeMap<Attempt, Hold>,
    connected: bool,
    sent: Option<Timestamp>,
    next: Timestamp,
    seen: Timestamp,
    fenced: Vec<Attempt>,
}

impl Holder {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(now: Timestamp, lease: Duration, renew: Duration, retry: Duration) -> Self {
        Self {
            lease,
            renew,
            retry,
            held: BTreeMap::new(),
            connected: false,
            sent: None,
            next: now,
            seen: now,
            fenced: Vec::new(),
        }
    }

    /// Takes the lengths that the dispatcher named.
    pub fn terms(&mut self, lease: Duration, renew: Duration) {
        self.lease = lease;
        self.renew = renew.min(lease);
        self.retry = self.retry.min(self.renew);
    }

    /// Takes an event in.
    pub fn handle(&mut self, now: Timestamp, event: Event) {
        self.fence_after_standstill(now);
        match event {
            Event::Held {
                attempt,
                repeatable,
            } => {
                let deadline = now.after(self.lease);
                self.held.insert(
                    attempt,
                    Hold {
                        repeatable,
                        deadline,
                    },
                );
            }
            Event::RenewSent => {
                self.sent.get_or_insert(now);
                self.next = now.after(self.retry);
            }
            Event::RenewAnswered => {
                if let Some(sent) = self.sent.take() {
                    for hold in self.held.values_mut() {
                        hold.deadline = hold.deadline.max(sent.after(self.lease));
                    }
                    self.next = sent.after(self.renew);
                }
            }
            Event::Released(attempt) => {
                self.held.remove(&attempt);
                self.fenced.retain(|fenced| *fenced != attempt);
            }
            Event::Connected => {
                self.connected = true;
                self.sent = None;
                self.next = now;
            }
            Event::Disconnected => {
                self.connected = false;
                self.sent = None;
            }
            Event::Tick => {}
        }
    }

    fn fence_after_standstill(&mut self, now: Timestamp) {
        // Renewals leave at least two thirds of a lease: a freeze that uses those up is longer than
        // half of it even when the last answer was slow, and no living loop pauses so long.
        if now.since(self.seen) >= self.lease / 2 {
            for (attempt, hold) in &self.held {
                if hold.repeatable && hold.deadline <= now {
                    self.fenced.push(attempt.clone());
                }
            }
            for attempt in &self.fenced {
                self.held.remove(attempt);
            }
        }
        self.seen = self.seen.max(now);
    }

    /// The next thing to be done; fencing comes before speaking.
    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        if let Some(attempt) = self.fenced.pop() {
            return Some(Action::Fence(attempt));
        }
        // Also with nothing held: who says nothing is taken for gone, and gets no work.
        let due = self.connected && self.next <= now;
        due.then_some(Action::Renew)
    }

    /// When to ask again. An early call is harmless.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.connected.then_some(self.next)
    }

    /// What is held, in order.
    pub fn held(&self) -> impl Iterator<Item = &Attempt> {
        self.held.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::terms::Terms;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn attempt(last: char) -> Attempt {
        let id = format!("01ARZ3NDEKTSV4RRFFQ69G5FA{last}");
        (id.parse().unwrap(), 1)
    }

    fn holder() -> Holder {
        let s = Duration::from_secs;
        let mut holder = Holder::new(at(0), s(60), s(20), s(5));
        holder.handle(at(0), Event::Connected);
        holder
    }

    fn hold(holder: &mut Holder, now: i64, name: char, repeatable: bool) {
        let attempt = attempt(name);
        holder.handle(
            at(now),
            Event::Held {
                attempt,
                repeatable,
            },
        );
    }

    #[test]
    fn renewals_come_every_twenty_seconds_and_every_five_while_unanswered() {
        let mut holder = holder();
        hold(&mut holder, 0, 'A', true);
        assert_eq!(holder.poll(at(0)), Some(Action::Renew));
        holder.handle(at(0), Event::RenewSent);
        assert_eq!(holder.poll(at(4)), None);
        assert_eq!(holder.poll(at(5)), Some(Action::Renew));
        holder.handle(at(5), Event::RenewSent);
        holder.handle(at(6), Event::RenewAnswered);
        assert_eq!(holder.poll(at(19)), None);
        assert_eq!(holder.poll(at(20)), Some(Action::Renew));
    }

    #[test]
    fn an_idle_agent_is_heard_as_often_as_a_busy_one() {
        let terms = Terms::default();
        let mut holder = holder();
        let mut heard = at(0);
        for second in 0..3_600 {
            holder.handle(at(second), Event::Tick);
            if holder.poll(at(second)) == Some(Action::Renew) {
                holder.handle(at(second), Event::RenewSent);
                holder.handle(at(second), Event::RenewAnswered);
                heard = at(second);
            }
            let silent = at(second).since(heard);
            assert!(silent <= terms.silent / 2, "silent for {silent:?}");
        }
    }

    #[test]
    fn after_a_standstill_it_kills_before_it_speaks() {
        let mut holder = holder();
        hold(&mut holder, 0, 'A', true);
        hold(&mut holder, 0, 'B', false);
        holder.handle(at(61), Event::Tick);
        assert_eq!(holder.poll(at(61)), Some(Action::Fence(attempt('A'))));
        assert_eq!(holder.poll(at(61)), Some(Action::Renew));
        let held: Vec<_> = holder.held().cloned().collect();
        assert_eq!(held, vec![attempt('B')], "an at-most-once stage goes on");
    }

    #[test]
    fn a_lost_connection_alone_ends_nothing() {
        let mut holder = holder();
        hold(&mut holder, 0, 'A', true);
        holder.handle(at(1), Event::Disconnected);
        for second in 2..500 {
            holder.handle(at(second), Event::Tick);
            assert_eq!(holder.poll(at(second)), None);
        }
        holder.handle(at(500), Event::Connected);
        assert_eq!(holder.poll(at(500)), Some(Action::Renew));
    }

    #[test]
    fn the_deadline_counts_from_the_sending() {
        let mut holder = holder();
        hold(&mut holder, 0, 'A', true);
        holder.handle(at(10), Event::RenewSent);
        holder.handle(at(30), Event::RenewAnswered);
        // Sent at 10, so believed until 70, though the answer came at 30.
        let frozen = holder.clone();
        let mut early = frozen.clone();
        early.handle(at(90), Event::Tick);
        assert!(matches!(early.poll(at(90)), Some(Action::Fence(_))));
    }
}
