//! Why stages wait, for readers of the API. The scheduler answers from its own index, once per round
//! however many ask: a copy of the index for readers would cost more than the plan.

use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::{BuildId, StageId};
use slipway_core::time::Timestamp;
use tokio::sync::oneshot;

use super::{Nudge, Scheduler};
use crate::state::App;

/// Stages of one answer, the next ones first.
const EXPLAINED: usize = 200;
/// Longest that a reader waits for the end of a round.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stage that waits.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Which.
    pub stage: StageId,
    /// Of which build.
    pub build: BuildId,
    /// Its name there.
    pub name: String,
    /// Why, in words.
    pub reason: String,
    /// Since when it could be executed.
    pub ready_at: Timestamp,
}

/// Where an answer goes.
pub type Asker = oneshot::Sender<Arc<Vec<Explained>>>;

/// The first stages that wait, and why. `None` when the scheduler does not answer: the database is
/// away, or the dispatcher stops.
pub async fn waiting(app: &App) -> Option<Arc<Vec<Explained>>> {
    let (asker, answer) = oneshot::channel();
    let asked = async {
        app.nudge.send(Nudge::Explain(asker)).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?
}

impl Scheduler {
    pub(super) fn explain(&self, askers: Vec<Asker>) {
        if askers.is_empty() {
            return;
        }
        let now = self.app.clock.now();
        let waiting = self.queue.waiting().take(EXPLAINED);
        let explained: Vec<Explained> = waiting
            .map(|w| Explained {
                stage: w.stage.clone(),
                build: w.build.clone(),
                name: w.name.clone(),
                reason: self.queue.explain(&w.stage, &self.agents, now).to_string(),
                ready_at: w.ready_at,
            })
            .collect();
        let explained = Arc::new(explained);
        for asker in askers {
            let _reader_is_gone = asker.send(Arc::clone(&explained));
        }
    }
}
