//! Why stages wait, for readers of the API. The scheduler answers from its own index, once per round
//! however many ask: a copy of the index for readers would cost more than the plan.

use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::{BuildId, StageId};
use slipway_core::queue::Explanation;
use slipway_core::time::Timestamp;
use tokio::sync::oneshot;

use super::{Nudge, Scheduler};
use crate::state::App;

/// Stages of one list, the oldest first.
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

/// A question, and where its answer goes.
#[derive(Debug)]
pub enum Asker {
    /// The first stages that wait.
    All(oneshot::Sender<Arc<Vec<Explained>>>),
    /// One stage, wherever it is in the queue.
    One(StageId, oneshot::Sender<Option<Explanation>>),
}

async fn ask<T>(app: &App, asker: Asker, answer: oneshot::Receiver<T>) -> Option<T> {
    let asked = async {
        app.nudge.send(Nudge::Explain(asker)).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?
}

/// The first stages that wait, and why. `None` when the scheduler does not answer: the database is
/// away, or the dispatcher stops.
pub async fn waiting(app: &App) -> Option<Arc<Vec<Explained>>> {
    let (asker, answer) = oneshot::channel();
    ask(app, Asker::All(asker), answer).await
}

/// Why one stage waits; `Some(None)` when it does not wait for an agent.
pub async fn one(app: &App, stage: StageId) -> Option<Option<Explanation>> {
    let (asker, answer) = oneshot::channel();
    ask(app, Asker::One(stage, asker), answer).await
}

impl Scheduler {
    pub(super) fn explain(&self, askers: Vec<Asker>) {
        let now = self.app.clock.now();
        let mut listed = None;
        for asker in askers {
            let _reader_is_gone = match asker {
                Asker::All(asker) => {
                    let list = listed.get_or_insert_with(|| Arc::new(self.list(now)));
                    asker.send(Arc::clone(list)).is_err()
                }
                Asker::One(stage, asker) => {
                    let told = self.queue.explain_fully(&stage, &self.agents, now);
                    asker.send(told).is_err()
                }
            };
        }
    }

    fn list(&self, now: Timestamp) -> Vec<Explained> {
        let waiting = self.queue.waiting().take(EXPLAINED);
        let explained = waiting.map(|w| Explained {
            stage: w.stage.clone(),
            build: w.build.clone(),
            name: w.name.clone(),
            reason: self.queue.explain(&w.stage, &self.agents, now).to_string(),
            ready_at: w.ready_at,
        });
        explained.collect()
    }
}
