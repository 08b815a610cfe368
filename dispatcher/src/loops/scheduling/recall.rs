//! Stages that were executed before, anywhere: looked up as soon as they could be executed, and ended
//! without an agent where they were.

use slipway_store::StoreError;

use super::Scheduler;
use crate::usecases::recall_stages::recall_stages;

/// Questions of one round: four for each stage of the largest build. What is left is asked in the next.
const AT_ONCE: usize = 2_000;

impl Scheduler {
    /// Looks up everything that waits for it. What a recalled stage makes ready is looked up at once.
    pub(super) async fn recall(&mut self) -> Result<(), StoreError> {
        for _ in 0..AT_ONCE {
            let Some(build) = self.to_recall.first().cloned() else {
                return Ok(());
            };
            // It stays in the list when this fails.
            let change = recall_stages(&self.app, &build).await?;
            self.to_recall.remove(&build);
            if let Some(change) = change {
                self.app.show_change(&change);
            }
            self.refresh(&build).await?;
        }
        Ok(())
    }
}
