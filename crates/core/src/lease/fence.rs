//! Which report of an attempt becomes its stage's result: the rule. The store's statement enforces it
//! while others write (`build_stages/accept.sql`); what this says no to can be answered without one,
//! because attempts are only ever counted up and a result is final.

use crate::build::StageState;

/// What is recorded of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it stands.
    pub state: StageState,
    /// The current attempt.
    pub attempt: u32,
    /// Who has it, or had it.
    pub agent: Option<&'a str>,
    /// Whether a cancel is recorded.
    pub cancelled: bool,
    /// The result that was accepted: its attempt, its digest.
    pub result: Option<(u32, &'a str)>,
}

/// What an agent reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// Of which attempt.
    pub attempt: u32,
    /// Who says so: from its credential, never from the message.
    pub agent: &'a str,
    /// How the attempt ended.
    pub state: StageState,
    /// Digest of everything reported.
    pub digest: &'a str,
}

/// What becomes of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is the result; with a cancel recorded before it, the stage is cancelled whatever it says.
    Accepted(StageState),
    /// The same report was accepted before.
    AlreadyAccepted,
    /// Of an older attempt, of another agent, or after another result.
    Stale,
}

impl Record<'_> {
    /// Whether this attempt is the current one, and this agent's.
    #[must_use]
    pub fn is_current(&self, attempt: u32, agent: &str) -> bool {
        self.attempt == attempt && self.agent == Some(agent)
    }

    /// Whether the agent holds this attempt now.
    #[must_use]
    pub fn is_held(&self, attempt: u32, agent: &str) -> bool {
        let held = matches!(self.state, StageState::Assigned | StageState::Running);
        held && self.is_current(attempt, agent)
    }

    /// Judges a report.
    #[must_use]
    pub fn judge(&self, report: &Report<'_>) -> Judgement {
        // An outcome that is still unknown takes the late result of its own attempt.
        let open = self.is_held(report.attempt, report.agent)
            || (self.state == StageState::Unknown && self.is_current(report.attempt, report.agent));
        if open {
            return Judgement::Accepted(if self.cancelled {
                StageState::Cancelled
            } else {
                report.state
            });
        }
        if self.result == Some((report.attempt, report.digest)) {
            Judgement::AlreadyAccepted
        } else {
            Judgement::Stale
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGENTS: [&str; 3] = ["a", "b", "c"];

    /// What may happen to a stage, in any order and as often as it likes.
    #[derive(Clone, Debug)]
    enum Event {
        Assign(usize),
        Run,
        Lose,
        Cancel,
        /// Of this attempt, by this agent, ended so.
        Report(u32, usize, StageState),
    }

    fn event() -> impl Strategy<Value = Event> {
        let ends = prop_oneof![
            Just(StageState::Succeeded),
            Just(StageState::Failed),
            Just(StageState::Cancelled)
        ];
        prop_oneof![
            3 => (0..AGENTS.len()).prop_map(Event::Assign),
            1 => Just(Event::Run),
            2 => Just(Event::Lose),
            1 => Just(Event::Cancel),
            4 => (1..5_u32, 0..AGENTS.len(), ends).prop_map(|(n, a, s)| Event::Report(n, a, s)),
        ]
    }

    struct Stage {
        record: Record<'static>,
        owners: Vec<&'static str>,
        accepted: Vec<(u32, StageState)>,
        cancelled_first: bool,
    }

    impl Stage {
        fn ready() -> Self {
            Self {
                record: Record {
                    state: StageState::Ready,
                    attempt: 0,
                    agent: None,
                    cancelled: false,
                    result: None,
                },
                owners: Vec::new(),
                accepted: Vec::new(),
                cancelled_first: false,
            }
        }

        fn happens(&mut self, event: &Event) -> Option<Judgement> {
            let record = &mut self.record;
            let held = matches!(record.state, StageState::Assigned | StageState::Running);
            match event {
                Event::Assign(agent) if record.state == StageState::Ready => {
                    record.state = StageState::Assigned;
                    record.attempt += 1;
                    record.agent = Some(AGENTS[*agent]);
                    self.owners.push(AGENTS[*agent]);
                }
                Event::Run if held && !record.cancelled => record.state = StageState::Running,
                Event::Lose if held => record.state = StageState::Ready,
                Event::Cancel if held => record.cancelled = true,
                Event::Report(attempt, agent, state) => {
                    let report = Report {
                        attempt: *attempt,
                        agent: AGENTS[*agent],
                        state: *state,
                        digest: state.as_str(),
                    };
                    let judged = record.judge(&report);
                    if let Judgement::Accepted(becomes) = judged {
                        self.cancelled_first = record.cancelled;
                        record.state = becomes;
                        record.result = Some((*attempt, state.as_str()));
                        self.accepted.push((*attempt, becomes));
                    }
                    return Some(judged);
                }
                _ => {}
            }
            None
        }
    }

    proptest! {
        /// I-11: whoever reports whatever in whatever order, one result stands, of the attempt that was
        /// current, by the agent that had it; every other report is refused, and its repetition known.
        #[test]
        fn fencing_stale_result_rejected(events in prop::collection::vec(event(), 0..60)) {
            let mut stage = Stage::ready();
            for event in &events {
                let before = stage.record;
                let judged = stage.happens(event);
                if let (Event::Report(attempt, agent, _), Some(Judgement::Accepted(_))) = (event, judged) {
                    prop_assert!(before.is_held(*attempt, AGENTS[*agent]));
                    let owner = stage.owners.get(*attempt as usize - 1);
                    prop_assert_eq!(owner, Some(&AGENTS[*agent]));
                    prop_assert_eq!(stage.happens(event), Some(Judgement::AlreadyAccepted));
                }
                if judged == Some(Judgement::Stale) {
                    prop_assert_eq!(before, stage.record, "it changes nothing");
                }
            }
            prop_assert!(stage.accepted.len() <= 1, "{:?}", stage.accepted);
        }

        /// I-17: a cancel and a success race; what was recorded first wins, and there is one end.
        #[test]
        fn cancel_race_success(events in prop::collection::vec(event(), 0..60)) {
            let mut stage = Stage::ready();
            let mut ended: Option<StageState> = None;
            for event in &events {
                stage.happens(event);
                if let Some(end) = ended {
                    prop_assert_eq!(stage.record.state, end, "an end is final");
                }
                if stage.record.state.is_final() {
                    ended = Some(stage.record.state);
                }
            }
            if let Some((_, state)) = stage.accepted.first() {
                prop_assert!(!stage.cancelled_first || *state == StageState::Cancelled);
            }
        }
    }
}
