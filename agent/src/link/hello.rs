//! What is said first on a stream: what this host can do, and everything that is held.

use slipway_proto::convert::AttemptKey;
use slipway_proto::v1;

use super::{Link, State};
use crate::capacity;
use crate::probe::Proof;

/// Version of the conversation.
const VERSION: u32 = 1;

impl Link {
    pub(super) async fn hello(&self, state: &State) -> v1::Hello {
        let mut facts = capacity::facts(&self.data_dir);
        match self.shared.sandbox.engine().await {
            Ok(engine) => {
                facts.strict_proven =
                    self.trusts_sandbox || Proof::of_strict(&self.data_dir, &engine);
                facts.engine_version = engine.version;
                facts.buildkit = engine.buildkit;
                facts.reproducible_images = engine.reproducible_images;
            }
            Err(error) => tracing::warn!(%error, "the container engine does not answer"),
        }
        let held = |key: &AttemptKey, what: v1::HeldState| v1::HeldAttempt {
            attempt: Some(key.into()),
            state: what.into(),
        };
        let mut all: Vec<v1::HeldAttempt> = state
            .live
            .keys()
            .map(|key| held(key, v1::HeldState::Running))
            .collect();
        all.extend(
            state
                .results
                .keys()
                .map(|key| held(key, v1::HeldState::Finished)),
        );
        v1::Hello {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            slots: if state.draining { 0 } else { self.slots },
            labels: std::collections::HashMap::new(),
            facts: Some(facts),
            held: all,
        }
    }
}
