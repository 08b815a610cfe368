//! Output of stages: taken in by offset, kept in sealed chunks of object storage, read live.
//!
//! Offsets count uncompressed bytes. Every byte is stored once: overlap is cut, a gap is answered
//! with the offset expected. What is not sealed yet lives in memory alone; the agent keeps it until
//! told that it is durable. Nothing is dropped.

pub mod attempt;
pub mod read;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use slipway_core::id::{BuildId, StageId};
use slipway_daemon::Clock;
use slipway_objects::{ObjectError, ObjectStore};

pub use attempt::{Ack, AttemptLog, Frame, Progress};
pub use read::{Line, level_of};

/// Which attempt's log.
pub type Name = (StageId, u32);

/// All logs that are open now.
pub struct Logs {
    objects: Arc<dyn ObjectStore>,
    clock: Clock,
    open: Mutex<BTreeMap<Name, Arc<AttemptLog>>>,
}

impl Logs {
    /// No log is open.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, clock: Clock) -> Self {
        Self {
            objects,
            clock,
            open: Mutex::default(),
        }
    }

    fn known(&self, name: &Name) -> Option<Arc<AttemptLog>> {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// The log of an attempt: the open one, or what object storage has of it.
    ///
    /// # Errors
    /// When object storage is not available.
    pub async fn of(
        &self,
        build: &BuildId,
        stage: &StageId,
        attempt: u32,
    ) -> Result<Arc<AttemptLog>, ObjectError> {
        let name = (stage.clone(), attempt);
        if let Some(log) = self.known(&name) {
            return Ok(log);
        }
        let objects = Arc::clone(&self.objects);
        let loaded = AttemptLog::load(objects, self.clock.clone(), build, stage, attempt).await?;
        Ok(Arc::new(loaded))
    }

    /// The log of an attempt, kept open for writing.
    ///
    /// # Errors
    /// When object storage is not available.
    pub async fn writable(
        &self,
        build: &BuildId,
        stage: &StageId,
        attempt: u32,
    ) -> Result<Arc<AttemptLog>, ObjectError> {
        let log = self.of(build, stage, attempt).await?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (stage.clone(), attempt);
        // Two writers may have loaded it at once; the first one in stays.
        Ok(Arc::clone(open.entry(name).or_insert(log)))
    }

    /// The attempt was lost: what was received is sealed and marked incomplete.
    pub async fn abandon(&self, stage: &StageId, attempt: i64) {
        let name = (stage.clone(), u32::try_from(attempt).unwrap_or(0));
        let Some(log) = self.known(&name) else { return };
        match log.abandon().await {
            Ok(()) => {
                let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.remove(&name);
            }
            // It stays open; the sweep tries again.
            Err(error) => tracing::warn!(%error, stage = %stage, attempt, "a log cannot be sealed"),
        }
    }

    /// Seals what has waited long enough; called every few seconds.
    pub async fn sweep(&self) {
        let open: Vec<(Name, Arc<AttemptLog>)> = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(name, log)| (name.clone(), Arc::clone(log)))
            .collect();
        for (name, log) in open {
            match log.seal_if_due().await {
                Ok(true) => {
                    let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                    open.remove(&name);
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, stage = %name.0, "a log cannot be sealed"),
            }
        }
    }
}
