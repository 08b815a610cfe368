//! What must be true whatever happens, from a history of its own: it knows nothing of the machines'
//! rules. Everything submitted ends once; what counts is the newest attempt's word, from whom it was
//! given to.

use std::collections::BTreeMap;

use slipway_core::build::StageState;
use slipway_core::id::{AgentId, StageId};
use slipway_core::pipeline::Group;

#[derive(Default)]
struct Known {
    once: bool,
    needs: Vec<StageId>,
    grants: Vec<AgentId>,
    executions: u32,
    accepted: Vec<u32>,
    end: Option<StageState>,
}

/// The history, and what was wrong with it.
#[derive(Default)]
pub(crate) struct Checker {
    stages: BTreeMap<StageId, Known>,
    pub(crate) flaws: Vec<String>,
}

impl Checker {
    fn flaw(&mut self, what: String) {
        // The first ones tell enough.
        if self.flaws.len() < 20 {
            self.flaws.push(what);
        }
    }

    pub(crate) fn submitted(&mut self, stage: &StageId, once: bool, needs: &[StageId]) {
        let known = Known {
            once,
            needs: needs.to_vec(),
            ..Known::default()
        };
        if self.stages.insert(stage.clone(), known).is_some() {
            self.flaw(format!("{stage} was submitted twice"));
        }
    }

    pub(crate) fn granted(&mut self, stage: &StageId, attempt: u32, agent: &AgentId) {
        let Some(known) = self.stages.get_mut(stage) else {
            return self.flaw(format!("{stage} was granted and never submitted"));
        };
        known.grants.push(agent.clone());
        let (count, ended) = (known.grants.len(), known.end);
        let needs = known.needs.clone();
        if count != attempt as usize {
            self.flaw(format!(
                "{stage}: attempt {attempt} was granted as number {count}"
            ));
        }
        if let Some(end) = ended {
            self.flaw(format!("{stage} was granted after it was {}", end.as_str()));
        }
        for need in needs {
            let end = self.stages.get(&need).and_then(|known| known.end);
            if end != Some(StageState::Succeeded) {
                self.flaw(format!("{stage} was granted before {need} succeeded"));
            }
        }
    }

    pub(crate) fn group(&mut self, group: &Group, holders: usize) {
        if holders > group.limit as usize {
            self.flaw(format!("group {} is held by {holders}", group.name));
        }
    }

    pub(crate) fn executed(&mut self, stage: &StageId) {
        let Some(known) = self.stages.get_mut(stage) else {
            return self.flaw(format!("{stage} was executed and never submitted"));
        };
        known.executions += 1;
        if known.once && known.executions > 1 {
            self.flaw(format!("{stage} may be executed once, and was again"));
        }
    }

    pub(crate) fn accepted(
        &mut self,
        stage: &StageId,
        attempt: u32,
        agent: &AgentId,
        state: StageState,
    ) {
        let Some(known) = self.stages.get_mut(stage) else {
            return self.flaw(format!("{stage} was accepted and never submitted"));
        };
        known.accepted.push(attempt);
        let doubled = known.accepted.len() > 1;
        let newest = known.grants.len();
        let owner = known.grants.last().cloned();
        if doubled {
            self.flaw(format!("{stage} has two results"));
        }
        if newest != attempt as usize {
            self.flaw(format!(
                "{stage}: {attempt} was accepted after {newest} was granted"
            ));
        }
        if owner.as_ref() != Some(agent) {
            self.flaw(format!(
                "{stage}: {agent} was accepted and had not been given it"
            ));
        }
        self.ended(stage, state);
    }

    pub(crate) fn ended(&mut self, stage: &StageId, state: StageState) {
        let Some(known) = self.stages.get_mut(stage) else {
            return self.flaw(format!("{stage} ended and was never submitted"));
        };
        // What a person was asked about may still be told by its own attempt.
        match known.end.replace(state) {
            None | Some(StageState::Unknown) => {}
            Some(before) => {
                let (before, now) = (before.as_str(), state.as_str());
                self.flaw(format!("{stage} was {before} and is {now}"));
            }
        }
    }

    /// What was submitted and has not ended: lost or stuck.
    pub(crate) fn open(&self) -> Vec<&StageId> {
        let open = self.stages.iter().filter(|(_, known)| known.end.is_none());
        open.map(|(id, _)| id).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.stages.len()
    }
}
