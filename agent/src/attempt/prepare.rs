//! The workspace of an attempt: the commit's files, and over them what needed stages left.

use std::path::{Path, PathBuf};

use slipway_cache_client::CacheError;
use slipway_core::digest::Digest;
use slipway_daemon::Resolver;
use slipway_proto::v1;

use super::{Attempt, Ending, Shared, caches};
use crate::log_stream::LogWriter;
use crate::sandbox::profile::stage_user;
use crate::workspace::checkout::{CheckoutError, Wanted, checkout};
use crate::workspace::settle::{give_to, set_times};

/// The time of every file of a commit, seconds since 1970: the beginning of 2000, which every archive can
/// hold. The same files are the same workspace, whoever fetches them, when, and out of which commit.
const SOURCE_TIME: i64 = 946_684_800;

/// A workspace that is laid out.
pub(super) struct Prepared {
    /// What a later capture is compared with; `None` = nothing is captured.
    pub(super) base: Option<Digest>,
}

/// Lays the workspace out in a fresh folder.
pub(super) async fn workspace(
    shared: &Shared,
    attempt: &Attempt,
    log: &mut LogWriter,
    result: &mut v1::Result,
) -> Result<Prepared, Ending> {
    let dir = shared.workspace(&attempt.key);
    fresh(&dir).await?;
    let source = attempt
        .assign
        .source
        .as_ref()
        .ok_or_else(|| Ending::aborted("checkout", "the assignment names no source"))?;
    let Some(cache) = &shared.cache else {
        return Ok(Prepared { base: None });
    };
    let lost = |error: CacheError| Ending::aborted("cache", error);
    let known = source.root.as_deref().filter(|root| !root.is_empty());
    let known = known.map(digest).transpose()?;
    let layers: Vec<Digest> = attempt
        .assign
        .input_layers
        .iter()
        .map(|layer| digest(layer))
        .collect::<Result<_, _>>()?;
    let name = attempt.key.folder();
    let assign = &attempt.assign;
    let elsewhere = || (assign.sources.clone(), assign.capability.clone());
    let restored = match known {
        Some(root) => {
            cache
                .restore_from(&dir, &root, &layers, &name, elsewhere())
                .await
        }
        None => Err(CacheError::Miss("the source".to_owned())),
    };
    let restored = match restored {
        // The cache only saves time: what it does not have (any more) comes from where it came from.
        Err(CacheError::Miss(_)) => {
            fresh(&dir).await?;
            let root = fetched(shared, attempt, source, cache).await?;
            let short = source.commit_sha.get(..7).unwrap_or(&source.commit_sha);
            let _spool_is_full = log.say(&format!("fetched {short}")).await;
            result.source_root = Some(root.to_string());
            cache
                .restore_from(&dir, &root, &layers, &name, elsewhere())
                .await
        }
        other => other,
    };
    let restored = restored.map_err(|error| match error {
        // The source is there now: it is what a needed stage left.
        CacheError::Miss(_) => Ending::aborted("content_gone", error),
        error => lost(error),
    })?;
    result.moved_bytes = restored.fetched;
    if result.source_root.is_none() {
        result.reused_bytes = restored.bytes.saturating_sub(restored.fetched);
    }
    if restored.fetched > 0 {
        let told = format!("{} KiB came from other agents", restored.fetched >> 10);
        let _spool_is_full = log.say(&told).await;
    }
    caches::lay_out(shared, attempt, cache, log).await;
    if let Some(user) = stage_user(attempt.spec.sandbox) {
        settle(dir, move |dir| give_to(dir, user)).await?;
    }
    Ok(Prepared {
        base: Some(restored.root),
    })
}

fn digest(text: &str) -> Result<Digest, Ending> {
    text.parse()
        .map_err(|error| Ending::aborted("cache", error))
}

async fn fetched(
    shared: &Shared,
    attempt: &Attempt,
    source: &v1::Source,
    cache: &slipway_cache_client::LocalCache,
) -> Result<Digest, Ending> {
    let dir = shared
        .work_dir
        .join(format!("{}.checkout", attempt.key.folder()));
    fresh(&dir).await?;
    let wanted = Wanted {
        url: &source.repo_url,
        sha: &source.commit_sha,
        ref_name: &source.ref_name,
        depth: source.depth,
        allowed: &shared.allowed,
        resolver: &Resolver::system(),
    };
    let root = match checkout(&dir, &wanted).await {
        Ok(()) => {
            settle(dir.clone(), |dir| set_times(dir, SOURCE_TIME)).await?;
            cache
                .capture_tree(&dir, false)
                .await
                .map_err(|error| Ending::aborted("cache", error))
        }
        Err(error @ CheckoutError::CommitGone(_)) => Err(Ending::limit("commit_gone", error)),
        Err(error) => Err(Ending::aborted("checkout", error)),
    };
    remove(&dir).await;
    root
}

/// Walks a folder of ours off the runtime.
async fn settle(
    dir: PathBuf,
    deed: impl FnOnce(&Path) -> std::io::Result<()> + Send + 'static,
) -> Result<(), Ending> {
    match tokio::task::spawn_blocking(move || deed(&dir)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Ending::aborted("workspace", error)),
        Err(_) => Err(Ending::aborted("workspace", "preparing it panicked")),
    }
}

pub(super) async fn fresh(dir: &Path) -> Result<(), Ending> {
    remove(dir).await;
    tokio::fs::create_dir_all(dir)
        .await
        .map_err(|error| Ending::aborted("disk_full", error))
}

/// Removes a folder of ours and everything in it, following no link.
pub(crate) async fn remove(dir: &Path) {
    if let Err(error) = tokio::fs::remove_dir_all(dir).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %dir.display(), "a workspace cannot be removed");
    }
}
