//! What is durable on the dispatcher's side: the rows that SQL keeps, and the preconditions of its
//! statements. A change of it is all or nothing; a crash loses nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use slipway_core::build::{
    LossPolicy, Need, RunsOn, StageState, StageView, Transition, advance, after_loss,
};
use slipway_core::id::{AgentId, BuildId, StageId};
use slipway_core::lease::fence::{Judgement, Record, Report};
use slipway_core::pipeline::Group;
use slipway_core::time::Timestamp;

use crate::checker::Checker;

/// Which rule of acceptance is in force: the real one, or one that the checker must object to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    Real,
    /// Any attempt of a stage that has not ended is accepted.
    AnyAttempt,
    /// The last word counts, also after a result.
    LastWord,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) build: BuildId,
    pub(crate) repo: u64,
    pub(crate) name: String,
    pub(crate) needs: Vec<Need>,
    pub(crate) group: Option<Group>,
    pub(crate) once: bool,
    pub(crate) state: StageState,
    pub(crate) attempt: u32,
    pub(crate) agent: Option<AgentId>,
    pub(crate) ready_at: Timestamp,
    pub(crate) not_before: Timestamp,
    pub(crate) losses: u32,
    pub(crate) lost_by: BTreeSet<AgentId>,
    pub(crate) result: Option<(u32, String)>,
}

pub(crate) struct Store {
    pub(crate) rows: BTreeMap<StageId, Row>,
    pub(crate) checker: Checker,
    fence: Fence,
}

impl Store {
    pub(crate) fn new(fence: Fence) -> Self {
        Self {
            rows: BTreeMap::new(),
            checker: Checker::default(),
            fence,
        }
    }

    /// A build is there: acknowledged, and with that to be ended one day.
    pub(crate) fn create(&mut self, rows: Vec<(StageId, Row)>, now: Timestamp) {
        let build = rows.first().map(|(_, row)| row.build.clone());
        for (id, row) in rows {
            self.checker
                .submitted(&id, row.once, &row.needs_of(&self.rows));
            self.rows.insert(id, row);
        }
        if let Some(build) = build {
            self.settle(&build, now);
        }
    }

    pub(crate) fn settle(&mut self, build: &BuildId, now: Timestamp) {
        let of_build = self.rows.values().filter(|row| row.build == *build);
        let views: Vec<StageView> = of_build
            .map(|row| StageView {
                name: row.name.clone(),
                state: row.state,
                needs: row.needs.clone(),
                failure_ignored: false,
                runs_on: RunsOn::Success,
            })
            .collect();
        let (moved, _) = advance(&views);
        let ids: Vec<StageId> = self.rows.keys().cloned().collect();
        for id in ids {
            let Some(row) = self.rows.get_mut(&id) else {
                continue;
            };
            let Some(to) = moved.get(&row.name).filter(|_| row.build == *build) else {
                continue;
            };
            match to {
                Transition::Ready => {
                    row.state = StageState::Ready;
                    row.ready_at = now;
                }
                Transition::Skipped(_) => {
                    row.state = StageState::Skipped;
                    self.checker.ended(&id, StageState::Skipped);
                }
            }
        }
    }

    /// `build_stages/assign.sql`.
    pub(crate) fn assign(&mut self, id: &StageId, attempt: u32, agent: &AgentId) -> bool {
        let held = |row: &&Row| matches!(row.state, StageState::Assigned | StageState::Running);
        let Some(row) = self.rows.get(id) else {
            return false;
        };
        if row.state != StageState::Ready || row.attempt != attempt {
            return false;
        }
        if let Some(group) = &row.group {
            let holders = self.rows.values().filter(held);
            let holders = holders
                .filter(|other| other.group.as_ref() == Some(group))
                .count();
            if holders >= group.limit as usize {
                return false;
            }
        }
        let Some(row) = self.rows.get_mut(id) else {
            return false;
        };
        row.state = StageState::Assigned;
        row.attempt += 1;
        row.agent = Some(agent.clone());
        let (attempt, group) = (row.attempt, row.group.clone());
        self.checker.granted(id, attempt, agent);
        if let Some(group) = group {
            let holders = self.rows.values().filter(held);
            let holders = holders
                .filter(|other| other.group.as_ref() == Some(&group))
                .count();
            self.checker.group(&group, holders);
        }
        true
    }

    fn held(&mut self, id: &StageId, attempt: u32) -> Option<&mut Row> {
        let row = self.rows.get_mut(id)?;
        let held = matches!(row.state, StageState::Assigned | StageState::Running);
        (held && row.attempt == attempt).then_some(row)
    }

    /// `build_stages/mark_running.sql`.
    pub(crate) fn run(&mut self, id: &StageId, attempt: u32, agent: &AgentId) -> bool {
        let Some(row) = self.held(id, attempt) else {
            return false;
        };
        if row.agent.as_ref() != Some(agent) {
            return false;
        }
        row.state = StageState::Running;
        true
    }

    /// `build_stages/take_back.sql`.
    pub(crate) fn take_back(&mut self, id: &StageId, attempt: u32) -> bool {
        if let Some(row) = self.held(id, attempt)
            && row.state == StageState::Assigned
        {
            row.state = StageState::Ready;
            row.agent = None;
            return true;
        }
        false
    }

    /// `build_stages/lose.sql`, with what the usecase decides before it.
    pub(crate) fn lose(&mut self, id: &StageId, attempt: u32, now: Timestamp, jitter: u64) {
        let Some(row) = self.held(id, attempt) else {
            return;
        };
        row.losses += 1;
        row.lost_by.extend(row.agent.clone());
        let executed = row.state == StageState::Running;
        match after_loss(row.losses, row.once, executed, jitter) {
            LossPolicy::Requeue(delay) => {
                row.state = StageState::Ready;
                row.agent = None;
                row.ready_at = now;
                row.not_before = now.after(delay);
                return;
            }
            LossPolicy::FailedInfra => row.state = StageState::Failed,
            LossPolicy::Unknown => row.state = StageState::Unknown,
        }
        let (state, build) = (row.state, row.build.clone());
        self.checker.ended(id, state);
        self.settle(&build, now);
    }

    /// `build_stages/accept.sql`; whether the agent may forget it.
    pub(crate) fn accept(
        &mut self,
        (id, attempt): &(StageId, u32),
        agent: &AgentId,
        (state, digest): (StageState, &str),
        now: Timestamp,
    ) -> Judgement {
        let Some(row) = self.rows.get_mut(id) else {
            return Judgement::Stale;
        };
        let record = Record {
            state: row.state,
            attempt: row.attempt,
            agent: row.agent.as_ref().map(AgentId::as_str),
            cancelled: false,
            result: row.result.as_ref().map(|(n, digest)| (*n, digest.as_str())),
        };
        let judgement = record.judge(&Report {
            attempt: *attempt,
            agent: agent.as_str(),
            state,
            digest,
        });
        let judgement = match self.fence {
            Fence::AnyAttempt if !row.state.is_final() => Judgement::Accepted(state),
            Fence::LastWord if row.attempt == *attempt => Judgement::Accepted(state),
            _ => judgement,
        };
        if let Judgement::Accepted(state) = judgement {
            row.state = state;
            row.result = Some((*attempt, digest.to_owned()));
            let build = row.build.clone();
            self.checker.accepted(id, *attempt, agent, state);
            self.settle(&build, now);
        }
        judgement
    }
}

impl Row {
    fn needs_of(&self, rows: &BTreeMap<StageId, Row>) -> Vec<StageId> {
        let needed = |row: &&(&StageId, &Row)| {
            row.1.build == self.build && self.needs.iter().any(|need| need.stage == row.1.name)
        };
        let rows: Vec<(&StageId, &Row)> = rows.iter().collect();
        rows.iter()
            .filter(needed)
            .map(|(id, _)| (*id).clone())
            .collect()
    }
}
