//! What an earlier life of this agent left, looked at once at the start: started containers of held
//! attempts are re-adopted, everything else of ours is removed. And what this life leaves: a container or
//! a workspace without an attempt, whose removal failed or was forgotten, is found by looking again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use slipway_proto::convert::AttemptKey;

use crate::attempt::Shared;
use crate::held::Kept;
use crate::sandbox::SandboxError;

/// An engine that starts together with us has half a minute to answer.
const ENGINE_TRIES: u32 = 30;
/// Between two tries.
const ENGINE_RETRY: Duration = Duration::from_secs(1);

/// How often a living agent looks for what is nobody's; removed when two looks agree, which is longer
/// than an ended attempt's remains wait for their quiet moment.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Looks for containers and workspaces without an attempt until the agent stops.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut suspects = BTreeSet::new();
    loop {
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        suspects = look_again(&shared, &suspects).await;
    }
}

/// One look; what the next must confirm. When the engine or the disk does not answer, nothing is removed.
async fn look_again(shared: &Shared, before: &BTreeSet<String>) -> BTreeSet<String> {
    let (Ok(remains), Ok(folders)) = (
        shared.sandbox.remains().await,
        folders(&shared.work_dir).await,
    ) else {
        return BTreeSet::new();
    };
    // Read last: an attempt is on the disk before anything of it exists.
    let Ok(kept) = shared.held.all() else {
        return BTreeSet::new();
    };
    let held: BTreeSet<String> = kept.iter().map(|k| k.key.folder()).collect();
    let mut suspects = BTreeSet::new();
    for key in remains.iter().filter(|key| !held.contains(&key.folder())) {
        let name = format!("container {}", key.folder());
        if before.contains(&name) {
            tracing::warn!(stage = %key.stage, attempt = key.attempt, "removing a container without an attempt");
            if let Err(error) = shared.sandbox.remove(key).await {
                tracing::warn!(%error, stage = %key.stage, "it cannot be removed");
            }
        }
        suspects.insert(name);
    }
    for folder in folders.into_iter().filter(|folder| !held.contains(folder)) {
        let name = format!("workspace {folder}");
        if before.contains(&name) {
            tracing::warn!(folder, "removing a workspace without an attempt");
            crate::attempt::remove_folder(&shared.work_dir.join(&folder)).await;
        }
        suspects.insert(name);
    }
    suspects
}

async fn folders(work_dir: &Path) -> std::io::Result<Vec<String>> {
    let (mut entries, mut found) = (tokio::fs::read_dir(work_dir).await?, Vec::new());
    while let Some(entry) = entries.next_entry().await? {
        found.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(found)
}

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
    let keep: BTreeSet<String> = adopted.iter().map(|key| key.folder()).collect();
    let Ok(mut entries) = tokio::fs::read_dir(work_dir).await else {
        return;
    };
    while let Ok(Some(entry)) = entries.next_entry().await {
        if !keep.contains(entry.file_name().to_string_lossy().as_ref()) {
            crate::attempt::remove_folder(&entry.path()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use slipway_core::access::PeerRole;
    use slipway_core::pipeline::Sandbox as Profile;
    use slipway_daemon::{Clock, Rng, Shutdown};
    use slipway_identity::{Authority, Own};
    use slipway_proto::v1;

    use super::*;
    use crate::dispatchers::Dispatchers;
    use crate::held::Held;
    use crate::sandbox::fake::FakeSandbox;
    use crate::sandbox::{Sandbox as _, StageRun};

    fn shared(dir: &Path, sandbox: &FakeSandbox) -> Shared {
        let folder = |name: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (outbox, _) = tokio::sync::mpsc::channel(1);
        let (now, rng) = (Clock::system().now(), Rng::system());
        let own = Authority::create(now)
            .and_then(|authority| authority.credentials(PeerRole::Agent, "a", now, &rng))
            .map(Own::new)
            .unwrap();
        let nowhere = vec!["https://127.0.0.1:1".to_owned()];
        Shared {
            sandbox: Arc::new(sandbox.clone()),
            cache: None,
            holdings: tokio::sync::watch::Sender::default(),
            held: Held::open(&folder("held")).unwrap(),
            work_dir: folder("work"),
            spool_dir: folder("spool"),
            allowed: Vec::new(),
            dispatchers: Arc::new(Dispatchers::new(own, nowhere).unwrap()),
            log_limit: 1,
            disk_limit: None,
            clock: Clock::system(),
            shutdown: Shutdown::new(),
            engine: tokio::sync::watch::Sender::default(),
            outbox,
        }
    }

    fn key(n: u32) -> AttemptKey {
        AttemptKey {
            stage: format!("01ARZ3NDEKTSV4RRFF{n:08}").parse().unwrap(),
            attempt: 1,
        }
    }

    #[tokio::test]
    async fn what_has_no_attempt_is_removed_at_the_second_look_and_what_has_one_stays() {
        let (dir, sandbox) = (tempfile::tempdir().unwrap(), FakeSandbox::new());
        let shared = shared(dir.path(), &sandbox);
        for n in [1, 2] {
            let run = StageRun {
                key: key(n),
                image: String::new(),
                script: String::new(),
                environment: std::collections::BTreeMap::new(),
                workspace: dir.path().to_owned(),
                profile: Profile::Standard,
                services: Vec::new(),
            };
            sandbox.create(&run).await.unwrap();
            std::fs::create_dir(shared.work_dir.join(key(n).folder())).unwrap();
        }
        let assign = v1::Assign {
            attempt: Some((&key(1)).into()),
            ..v1::Assign::default()
        };
        shared.held.save_assign(&key(1), &assign).unwrap();
        let left = async || {
            (
                sandbox.remains().await.unwrap(),
                folders(&shared.work_dir).await.unwrap(),
            )
        };
        let first = look_again(&shared, &BTreeSet::new()).await;
        assert_eq!(left().await.0.len(), 2, "one look is none");
        look_again(&shared, &first).await;
        assert_eq!(left().await, (vec![key(1)], vec![key(1).folder()]));
    }
}
