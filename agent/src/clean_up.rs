//! What an ended attempt leaves in the engine and on the disk, removed off the path of its result.
//! What a killed agent leaves is found by its labels at the next start, not here.

use std::sync::Arc;
use std::time::Duration;

use slipway_proto::convert::AttemptKey;
use tokio::sync::watch;

use crate::attempt::{Shared, remove_workspace};

/// A stage that follows at once is assigned within this.
const FOLLOWS: Duration = Duration::from_millis(200);
/// Longest that the remains of an ended attempt wait for a quiet moment.
const QUIET_MAX: Duration = Duration::from_secs(3);

/// Removes container, network and workspace, in a quiet moment: the engine takes as long to remove
/// a container as to create one, and doing both at once would delay the stage that follows. `busy`
/// counts the attempts under way.
pub(crate) fn clean_up(shared: &Arc<Shared>, mut busy: watch::Receiver<usize>, key: AttemptKey) {
    let (shared, stopping) = (Arc::clone(shared), shared.shutdown.clone());
    let tracker = shared.shutdown.clone();
    // Counted: an agent that stops waits for it.
    tracker.spawn("clean up", async move {
        let quiet = async {
            tokio::time::sleep(FOLLOWS).await;
            let _no_longer_served = busy.wait_for(|live| *live == 0).await;
        };
        tokio::select! {
            _bounded = tokio::time::timeout(QUIET_MAX, quiet) => {}
            () = stopping.cancelled() => {}
        }
        if let Err(error) = shared.sandbox.remove(&key).await {
            tracing::warn!(%error, stage = %key.stage, "the container cannot be removed yet");
        }
        remove_workspace(&shared, &key).await;
    });
}
