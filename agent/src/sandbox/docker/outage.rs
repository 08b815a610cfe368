//! An engine that goes away and comes back. One that restores keeps its containers alive meanwhile, and
//! their output; one that does not ends them, which is nobody's failure but the host's.

use std::time::Duration;

use futures::StreamExt as _;
use slipway_docker::labels::INSTALL;
use slipway_docker::{ContainerState, DockerError};
use slipway_proto::convert::AttemptKey;

use super::{DockerSandbox, failed, stage_name};
use crate::sandbox::{Ended, EngineWas, SandboxError};

/// Longest that an engine may be away before what it executed counts as lost: an upgrade of its packages
/// takes a minute or two.
const AWAY_MAX: Duration = Duration::from_secs(300);
/// Between two questions whether it is back.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two calls on an engine that is there.
const KNOCK: Duration = Duration::from_secs(2);
/// 128 and the number of the signal: what a shell that was told to end ends with (SIGTERM, SIGKILL).
const TOLD_TO_END: [i64; 2] = [143, 137];

impl DockerSandbox {
    /// Waits for an engine that went away.
    ///
    /// # Errors
    /// When it does not come back.
    async fn back(&self) -> Result<(), SandboxError> {
        let asking = async {
            while self.engine.knock().await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        };
        let answered = tokio::time::timeout(AWAY_MAX, asking).await;
        // It may be another version, with other settings.
        self.forget_facts();
        answered
            .map_err(|_| SandboxError::Engine(format!("it was away for {} s", AWAY_MAX.as_secs())))
    }

    /// Until the engine goes: its stream of events ends with it, and one that is stopping takes no new call.
    pub(super) async fn seen_going(&self) {
        let events = self.engine.container_events(INSTALL, &self.install);
        tokio::pin!(events);
        let ended = async { while let Some(Ok(_)) = events.next().await {} };
        let refused = async {
            while self.engine.knock().await.is_ok() {
                tokio::time::sleep(KNOCK).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = refused => {}
        }
    }

    /// How a stage ended, over any outage.
    pub(super) async fn ended(&self, key: &AttemptKey) -> Result<Ended, SandboxError> {
        let name = stage_name(key);
        let mut engine = EngineWas::There;
        let code = loop {
            match self.engine.wait_exit(&name).exit_code().await {
                // It ends its containers before it stops: the stage did not fail by itself.
                Ok(code) if TOLD_TO_END.contains(&code) && self.engine.knock().await.is_err() => {}
                Ok(code) => break code,
                Err(error) if error.is_away() => {}
                Err(error) => return Err(failed(error)),
            }
            tracing::warn!(stage = %key.stage, "the container engine is away: waiting for it");
            self.back().await?;
            let view = self.engine.inspect_container(&name).await;
            engine = match view.map_err(failed)?.state {
                ContainerState::Exited(_) => EngineWas::AwayAtItsEnd,
                _ => EngineWas::Away,
            };
        };
        if engine != EngineWas::There && !self.facts().await?.live_restore {
            return Err(SandboxError::EngineRestarted);
        }
        let mut out_of_memory = None;
        // Whatever failed may have failed because the kernel killed a part of it: a compiler below
        // `make` that is killed for memory ends as `make`'s own exit code.
        if code != 0 {
            let view = self.engine.inspect_container(&name).await;
            let view = view.map_err(failed)?;
            out_of_memory = view.oom_killed.then_some(view.in_force.limits.memory_bytes);
        }
        Ok(Ended {
            code,
            out_of_memory,
            engine,
        })
    }

    /// Ends a stage, also one whose engine has to come back first.
    pub(super) async fn end(&self, key: &AttemptKey, grace: Duration) -> Result<(), SandboxError> {
        loop {
            match self.engine.stop_container(&stage_name(key), grace).await {
                Err(error) if error.is_away() => self.back().await?,
                Err(DockerError::NotFound(_)) | Ok(()) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
    }
}
