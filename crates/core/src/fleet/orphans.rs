//! What a provider lists against what we have written down. A listing is never the truth about an
//! agent: its stream and what it holds are. A listing that failed or is not complete says nothing.

use std::collections::BTreeSet;

use crate::id::AgentId;

/// A machine as a provider lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The agent that it was started for; `None` when its labels do not say.
    pub agent: Option<AgentId>,
    /// The provider's name of it.
    pub machine: String,
    /// Whether it executes; what does not will never connect.
    pub running: bool,
}

/// One listing of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// What is there.
    pub machines: Vec<Listed>,
    /// Whether that is all.
    pub complete: bool,
}

/// A machine as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its agent.
    pub agent: AgentId,
    /// The provider's name of it, once known.
    pub machine: Option<String>,
    /// Whether the provider was asked to start it before the last complete listing.
    pub asked: bool,
    /// Whether it is being taken away.
    pub stopping: bool,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Nobody's machines, twice: to be stopped.
    pub stop: Vec<Listed>,
    /// Written-down machines whose name is known now.
    pub adopt: Vec<(AgentId, String)>,
    /// Written down, and not there, twice: their agents are not coming back.
    pub missing: Vec<AgentId>,
    /// What the next complete listing must confirm.
    pub suspects: BTreeSet<String>,
}

/// Judges a listing. `present` are the agents that have a stream or hold something: they are never
/// judged by a listing. `records` are read after the listing was made.
#[must_use]
pub fn judge(
    listing: &Listing,
    records: &[Record],
    present: &BTreeSet<AgentId>,
    suspects: &BTreeSet<String>,
) -> Verdict {
    let mut verdict = Verdict::default();
    if !listing.complete {
        verdict.suspects.clone_from(suspects);
        return verdict;
    }
    let mut suspect = |key: String| {
        let twice = suspects.contains(&key);
        verdict.suspects.insert(key);
        twice
    };
    let mut there = BTreeSet::new();
    for listed in &listing.machines {
        let agent = listed.agent.as_ref();
        let record = agent.and_then(|agent| records.iter().find(|r| r.agent == *agent));
        match (agent, record) {
            (Some(agent), Some(record)) => {
                if listed.running {
                    there.insert(agent.clone());
                }
                if record.machine.is_none() && !record.stopping {
                    verdict.adopt.push((agent.clone(), listed.machine.clone()));
                }
            }
            (Some(agent), None) if present.contains(agent) => {}
            _ => {
                if suspect(format!("machine {}", listed.machine)) {
                    verdict.stop.push(listed.clone());
                }
            }
        }
    }
    for record in records {
        let gone = record.asked && !record.stopping && !there.contains(&record.agent);
        if gone && !present.contains(&record.agent) && suspect(format!("agent {}", record.agent)) {
            verdict.missing.push(record.agent.clone());
        }
    }
    verdict
}
