//! What placement looks at: stages that wait, stages that are held, and agents.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{AgentId, BuildId, RepoId, StageId};
use crate::pipeline::Group;
use crate::time::Timestamp;

/// A stage that may be given to an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Which stage.
    pub stage: StageId,
    /// The attempt number before the assignment: the fence.
    pub attempt: u32,
    /// Its build.
    pub build: BuildId,
    /// Its repository.
    pub repo: RepoId,
    /// How much its repository may use, for fair share; at least 1.
    pub weight: u32,
    /// Its name, part of the shard key.
    pub name: String,
    /// Its first cache key, part of the shard key; empty = none.
    pub cache_key: String,
    /// 0–9.
    pub priority: u8,
    /// Hotfix or rollback by a maintainer.
    pub urgent: bool,
    /// Since when it is ready.
    pub ready_at: Timestamp,
    /// A back-off after a loss.
    pub not_before: Timestamp,
    /// Labels that an agent must have; `!name` must be absent.
    pub labels: BTreeMap<String, String>,
    /// The stage's concurrency group.
    pub group: Option<Group>,
    /// The build's concurrency group.
    pub build_group: Option<Group>,
    /// Whether the build has begun, and with that holds its group.
    pub build_begun: bool,
    /// Longest expected time from this stage to its build's end.
    pub critical: Duration,
    /// Agents that lost it.
    pub lost_by: BTreeSet<AgentId>,
    /// The agent that holds what this stage needs.
    pub near: Option<AgentId>,
}

/// A stage that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its build.
    pub build: BuildId,
    /// Its repository.
    pub repo: RepoId,
    /// Who holds it.
    pub agent: AgentId,
    /// The stage's group.
    pub group: Option<String>,
    /// The build's group.
    pub build_group: Option<String>,
}

/// Whether an agent may take work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// It may.
    Ready,
    /// It finishes what it holds.
    Draining,
    /// It lost too much too quickly.
    Quarantined,
}

impl Held {
    /// What an agent holds once it has this stage.
    #[must_use]
    pub fn of(stage: &Waiting, agent: &AgentId) -> Self {
        Self {
            build: stage.build.clone(),
            repo: stage.repo.clone(),
            agent: agent.clone(),
            group: stage.group.as_ref().map(|g| g.name.clone()),
            build_group: stage.build_group.as_ref().map(|g| g.name.clone()),
        }
    }
}

/// As the store writes it. A word that is not known gives nothing to an agent.
impl From<&str> for AgentState {
    fn from(word: &str) -> Self {
        match word {
            "ready" => Self::Ready,
            "quarantined" => Self::Quarantined,
            _ => Self::Draining,
        }
    }
}

/// An agent, as it last said.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Whether it may take work.
    pub state: AgentState,
    /// Whether its stream is open.
    pub connected: bool,
    /// How long ago it last renewed.
    pub silent: Duration,
    /// Silent for longer, it gets nothing new.
    pub silent_max: Duration,
    /// Attempts at once.
    pub slots: u32,
    /// Set by the server at join; `arch` from its facts.
    pub labels: BTreeMap<String, String>,
    /// Free disk, percent.
    pub disk_free: f32,
    /// Pressure stall information, `some avg10`, percent.
    pub cpu_pressure: f32,
    /// The same for memory.
    pub memory_pressure: f32,
}
