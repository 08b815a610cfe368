//! Giving stages out: persisted first, sent afterwards.

use std::sync::Arc;

use slipway_core::build::StageState;
use slipway_core::id::StageId;
use slipway_core::lease::grantor::Event;
use slipway_core::queue::Assignment;
use slipway_daemon::Shutdown;
use slipway_proto::v1::dispatcher_message::Message;
use slipway_store::{AttemptResult, StoreError};

use super::Scheduler;
use crate::state::App;
use crate::token::{self, Kind};
use crate::usecases::assign_stage::{AssignError, assign_stage};

impl Scheduler {
    pub(super) async fn give_out(
        &mut self,
        planned: Vec<Assignment>,
        shutdown: &Shutdown,
    ) -> Result<(), StoreError> {
        let tokens: Vec<String> = planned
            .iter()
            .map(|_| token::mint(Kind::Attempt, &self.app.rng))
            .collect();
        let rows = planned
            .iter()
            .zip(&tokens)
            .map(|(a, secret)| slipway_store::Assignment {
                stage_id: a.stage.clone(),
                attempt: i64::from(a.attempt),
                agent_id: a.agent.clone(),
                token_hash: token::hash(Kind::Attempt, secret).unwrap_or_default(),
            })
            .collect();
        let held = self.app.db.assign(rows, self.app.clock.now()).await?;
        for ((a, secret), good) in planned.into_iter().zip(tokens).zip(held) {
            if good {
                self.granted(&a);
                let app = Arc::clone(&self.app);
                shutdown.spawn(
                    "send assignment",
                    async move { send(&app, a, secret).await },
                );
            } else {
                // Somebody else changed it (cancelled, draining, group full): look again.
                self.refresh_stage(&a.stage).await?;
            }
        }
        Ok(())
    }

    fn granted(&mut self, a: &Assignment) {
        let Some(waiting) = self.queue.grant(a) else {
            return;
        };
        let now = self.app.clock.ticks();
        self.near.insert(waiting.build, a.agent.clone());
        self.grantor
            .handle(now, Event::Granted((a.stage.clone(), a.attempt + 1)));
        self.since.insert(a.stage.clone(), now);
    }
}

async fn send(app: &Arc<App>, a: Assignment, secret: String) {
    match assign_stage(app, &a, secret).await {
        Ok(message) => {
            // Not sent = not answered: taken back after the time-out.
            if !app.link.send(&a.agent, Message::Assign(message)) {
                tracing::info!(agent = %a.agent, stage = %a.stage, "the agent is gone");
            }
        }
        Err(error @ AssignError::MissingSecret(_)) => {
            fail(app, &a, "missing_secret", error.to_string()).await;
        }
        Err(error @ AssignError::Withheld(_)) => {
            fail(app, &a, "code_from_outside", error.to_string()).await;
        }
        Err(error) => {
            tracing::error!(%error, stage = %a.stage, "an assignment cannot be put together");
        }
    }
}

/// The stage cannot be executed at all: it fails with its reason, before any agent sees it.
async fn fail(app: &Arc<App>, a: &Assignment, reason: &str, detail: String) {
    let stage: StageId = a.stage.clone();
    let result = AttemptResult {
        stage_id: stage.clone(),
        attempt: i64::from(a.attempt + 1),
        agent_id: a.agent.clone(),
        digest: String::new(),
        state: StageState::Failed,
        try_again: false,
        reason: Some(reason.to_owned()),
        detail,
        exit_code: 0,
        output_layer: None,
        source_root: None,
        image_uri: None,
        artifacts: Vec::new(),
        reports: Vec::new(),
        spent_ms: [0; 3],
        cache_bytes: [0; 2],
        now: app.clock.now(),
    };
    match app.db.finish_attempt(result).await {
        Ok(finished) => {
            if let Some(change) = finished.change {
                app.build_changed(&change).await;
            }
        }
        Err(error) => tracing::warn!(%error, stage = %stage, "cannot fail the stage yet"),
    }
}
