//! Logs that were closed and not yet sent whole when the agent ended: a note beside the spool says how
//! long the log is and what its digest is, so that the next process sends the rest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipway_daemon::Shutdown;
use slipway_proto::convert::AttemptKey;
use tokio::sync::watch;

use super::{Sender, Sent, Written};
use crate::dispatchers::Dispatchers;

/// A log that nobody took for so long is given up: its attempt is history.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3_600);

#[derive(Serialize, Deserialize)]
struct Note {
    length: u64,
    digest: String,
}

/// The note of a spool file.
pub(super) fn note(spool: &Path) -> PathBuf {
    spool.with_extension("closed")
}

/// Notes that a log is whole; written beside and renamed, so that it is never half a note.
pub(super) async fn write(spool: &Path, length: u64, digest: &str) -> std::io::Result<()> {
    let text = serde_json::to_vec(&Note {
        length,
        digest: digest.to_owned(),
    })?;
    let beside = spool.with_extension("closing");
    tokio::fs::write(&beside, text).await?;
    tokio::fs::rename(&beside, note(spool)).await
}

fn key_of(path: &Path) -> Option<AttemptKey> {
    let (stage, attempt) = path.file_stem()?.to_str()?.rsplit_once('-')?;
    Some(AttemptKey {
        stage: stage.parse().ok()?,
        attempt: attempt.parse().ok()?,
    })
}

/// Sends the rest of what an earlier process closed. What is being written anew, because its container
/// was adopted, is left alone; what was never closed has no container any more, and goes.
pub(crate) fn resume(
    spool: &Path,
    adopted: &[AttemptKey],
    destination: &Arc<Dispatchers>,
    shutdown: &Shutdown,
) -> std::io::Result<()> {
    let adopted: BTreeSet<&AttemptKey> = adopted.iter().collect();
    for entry in std::fs::read_dir(spool)?.flatten() {
        let path = entry.path();
        let Some(key) = key_of(&path).filter(|key| !adopted.contains(key)) else {
            continue;
        };
        match path.extension().and_then(|e| e.to_str()) {
            Some("log") => {}
            // A note without its log, or half a note.
            Some("closed") if path.with_extension("log").exists() => continue,
            _ => {
                let _best_effort = std::fs::remove_file(&path);
                continue;
            }
        }
        let kept = std::fs::read(note(&path))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok())
            .filter(|note| {
                entry
                    .metadata()
                    .is_ok_and(|m| m.len() == note.length && !is_old(&m))
            });
        let Some(kept) = kept else {
            let _best_effort = std::fs::remove_file(note(&path));
            let _best_effort = std::fs::remove_file(&path);
            continue;
        };
        tracing::info!(stage = %key.stage, attempt = key.attempt, "the rest of a log is sent");
        let (written, watching) = watch::channel(Written {
            length: kept.length,
            closed: Some(kept.digest),
        });
        let (progress, _) = watch::channel(Sent::default());
        let sender = Sender {
            key,
            path,
            destination: Arc::clone(destination),
            written: watching,
            progress,
        };
        shutdown.spawn("send the rest of a log", async move {
            sender.run().await;
            drop(written);
        });
    }
    Ok(())
}

fn is_old(metadata: &std::fs::Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|at| at.elapsed().ok());
    age.is_some_and(|age| age > KEEP)
}
