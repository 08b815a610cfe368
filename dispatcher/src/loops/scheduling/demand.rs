//! What the scaling loop needs to know of the queue: how much could be executed now, and what agents
//! hold. Answered from the scheduler's own index, like `explain`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::fleet::{Demand, demand};
use slipway_core::id::{AgentId, RepoId};
use slipway_core::queue::AgentState;
use tokio::sync::oneshot;

use super::{Nudge, Scheduler};
use crate::state::App;

/// Longest that the scaling loop waits for the end of a round.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an agent does.
#[derive(Clone, Debug)]
pub struct AgentLoad {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its slots.
    pub slots: u32,
    /// Whether its stream is open.
    pub connected: bool,
    /// Neither drained nor quarantined.
    pub takes_work: bool,
    /// What it holds: whose, and for how long.
    pub held: Vec<(RepoId, Duration)>,
}

/// The queue at one instant.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Stages that could be executed now.
    pub ready: BTreeMap<Demand, u32>,
    /// Every agent that said hello, or holds something.
    pub agents: BTreeMap<AgentId, AgentLoad>,
}

/// Where an answer goes.
pub type Asker = oneshot::Sender<Arc<Load>>;

/// Asks the scheduler. `None` when it does not answer: the database is away, or the dispatcher stops.
pub async fn load(app: &App) -> Option<Arc<Load>> {
    let (asker, answer) = oneshot::channel();
    let asked = async {
        app.nudge.send(Nudge::Demand(asker)).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?
}

impl Scheduler {
    /// After the round: what a free slot takes at once is given out already.
    pub(super) fn tell_demand(&self, asker: Asker) {
        let held = self.queue.held().map(|(_, held)| held);
        let ready = demand(self.queue.waiting(), held, self.app.clock.now());
        let mut agents: BTreeMap<AgentId, AgentLoad> = self
            .agents
            .iter()
            .map(|(id, agent)| {
                let load = AgentLoad {
                    labels: agent.labels.clone(),
                    slots: agent.slots,
                    connected: agent.connected,
                    takes_work: agent.state == AgentState::Ready,
                    held: Vec::new(),
                };
                (id.clone(), load)
            })
            .collect();
        let now = self.app.clock.ticks();
        for (stage, held) in self.queue.held() {
            let since = self.since.get(stage).copied().unwrap_or(now);
            let load = agents
                .entry(held.agent.clone())
                .or_insert_with(|| AgentLoad {
                    labels: BTreeMap::new(),
                    slots: 0,
                    connected: false,
                    takes_work: true,
                    held: Vec::new(),
                });
            load.held.push((held.repo.clone(), now.since(since)));
        }
        let _loop_is_gone = asker.send(Arc::new(Load { ready, agents }));
    }

    /// An agent is gone for good.
    pub(super) fn forget(&mut self, agent: &AgentId) {
        self.agents.remove(agent);
        self.sessions.remove(agent);
        self.heard.remove(agent);
    }
}
