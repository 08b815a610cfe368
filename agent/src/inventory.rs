//! What an earlier life of this agent left, looked at once at the start: started containers of held
//! attempts are re-adopted, everything else of ours is removed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use slipway_proto::convert::AttemptKey;

use crate::attempt::Shared;
use crate::held::Kept;
use crate::sandbox::SandboxError;

/// An engine that starts together with us has half a minute to answer.
const ENGINE_TRIES: u32 = 30;
/// Between two tries.
const ENGINE_RETRY: Duration = Duration::from_secs(1);

/// Adopts and removes; answers which held attempts still have their container.
pub(crate) async fn take(shared: &Shared, kept: &[Kept]) -> Vec<AttemptKey> {
    let (started, remains) = match look(shared).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "the container engine does not answer: nothing is re-adopted");
            return Vec::new();
        }
    };
    let held = |key: &AttemptKey| kept.iter().any(|k| k.key == *key && k.result.is_none());
    let adopted: Vec<AttemptKey> = started.into_iter().filter(held).collect();
    for key in &adopted {
        tracing::info!(stage = %key.stage, attempt = key.attempt, "re-adopting a container");
    }
    for key in remains.iter().filter(|key| !adopted.contains(key)) {
        tracing::info!(stage = %key.stage, attempt = key.attempt, "removing an orphan");
        if let Err(error) = shared.sandbox.remove(key).await {
            tracing::warn!(%error, stage = %key.stage, "an orphan cannot be removed");
        }
    }
    sweep(&shared.work_dir, &adopted.iter().collect()).await;
    adopted
}

async fn look(shared: &Shared) -> Result<(Vec<AttemptKey>, Vec<AttemptKey>), SandboxError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let looked = async {
            let started = shared.sandbox.held().await?;
            Ok((started, shared.sandbox.remains().await?))
        };
        match looked.await {
            Ok(found) => return Ok(found),
            Err(error) if tries >= ENGINE_TRIES => return Err(error),
            Err(error) => tracing::warn!(%error, "the container engine does not answer yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(ENGINE_RETRY) => {}
            () = shared.shutdown.cancelled() => return Ok((Vec::new(), Vec::new())),
        }
    }
}

/// Removes the workspaces of attempts that do not go on. The folder is ours alone.
async fn sweep(work_dir: &Path, adopted: &BTreeSet<&AttemptKey>) {
    let keep: BTreeSet<String> = adopted
        .iter()
        .map(|key| format!("{}-{}", key.stage, key.attempt))
        .collect();
    let Ok(mut entries) = tokio::fs::read_dir(work_dir).await else {
        return;
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        if !keep.contains(entry.file_name().to_string_lossy().as_ref()) {
            crate::attempt::remove_folder(&entry.path()).await;
        }
    }
}
