//! Both machines over one connection: what the agent may say, after any freeze of its own.

use std::time::Duration;

use proptest::prelude::*;

use super::grantor::{self, Attempt, Grantor};
use super::holder::{self, Holder};
use super::terms::{RENEW_RETRY, Terms};
use crate::time::Timestamp;

fn attempt() -> Attempt {
    ("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(), 1)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

/// One attempt, its dispatcher, its agent, and what is on the wire between them.
struct Pair {
    now: i64,
    delay: i64,
    grantor: Grantor,
    holder: Holder,
    renewals: Vec<i64>,
    answers: Vec<i64>,
    given_up: bool,
    fenced: bool,
}

impl Pair {
    fn new(terms: Terms, delay: i64) -> Self {
        let mut grantor = Grantor::new(at(0), terms);
        // Past its grace.
        let now = i64::try_from(terms.grace.as_secs()).unwrap() + 1;
        for second in 0..=now {
            grantor.handle(at(second), grantor::Event::Tick);
        }
        grantor.handle(at(now), grantor::Event::Granted(attempt()));
        grantor.handle(at(now), grantor::Event::Taken(attempt()));
        let mut holder = Holder::new(at(now), terms.lease, terms.renew, RENEW_RETRY);
        holder.handle(at(now), holder::Event::Connected);
        let held = holder::Event::Held {
            attempt: attempt(),
            repeatable: true,
        };
        holder.handle(at(now), held);
        Self {
            now,
            delay,
            grantor,
            holder,
            renewals: Vec::new(),
            answers: Vec::new(),
            given_up: false,
            fenced: false,
        }
    }

    /// A second of the dispatcher's.
    fn dispatcher(&mut self) {
        self.now += 1;
        let now = self.now;
        let arrived = self.renewals.extract_if(.., |arrives| *arrives <= now);
        for _ in arrived {
            self.grantor
                .handle(at(now), grantor::Event::Renewed(attempt()));
            self.answers.push(now + self.delay);
        }
        self.grantor.handle(at(now), grantor::Event::Tick);
        while self.grantor.poll(at(now)).is_some() {
            self.given_up = true;
        }
    }

    /// The agent's loop, when it is not frozen. Fails when it speaks of what was given up.
    fn agent(&mut self) -> Result<(), TestCaseError> {
        let now = self.now;
        self.holder.handle(at(now), holder::Event::Tick);
        while let Some(action) = self.holder.poll(at(now)) {
            match action {
                holder::Action::Fence(_) => self.fenced = true,
                holder::Action::Renew => {
                    // A renewal is of what is held; one of nothing only says that the agent lives.
                    let named = self.holder.held().any(|held| *held == attempt());
                    prop_assert!(
                        !(self.given_up && named),
                        "it speaks at {now} of what was given up"
                    );
                    if named {
                        self.renewals.push(now + self.delay);
                    }
                    self.holder.handle(at(now), holder::Event::RenewSent);
                }
            }
        }
        let answered = self.answers.extract_if(.., |arrives| *arrives <= now);
        for _ in answered {
            self.holder.handle(at(now), holder::Event::RenewAnswered);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn agent_sigstop_self_fence_after_every_freeze(
        lease in 12..120_i64,
        slow in any::<bool>(),
        freezes in prop::collection::vec((1..40_i64, 0..300_i64), 1..8),
    ) {
        let terms = Terms::of(Duration::from_secs(u64::try_from(lease).unwrap()));
        let mut pair = Pair::new(terms, i64::from(slow));
        for (awake, frozen) in freezes {
            for _ in 0..awake {
                pair.dispatcher();
                pair.agent()?;
            }
            for _ in 0..frozen {
                pair.dispatcher();
            }
            pair.agent()?;
            if pair.given_up {
                prop_assert!(pair.fenced, "at {} another may hold it, and it goes on", pair.now);
                return Ok(());
            }
        }
    }
}
