//! Pushes whose webhook never came: the refs of every repository are compared with the last ones
//! seen, at start and every few minutes; a moved head without a build gets one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::RepoId;
use slipway_daemon::Shutdown;
use slipway_store::{RepositoryRow, StoreError};

use crate::state::App;
use crate::usecases::plan_build::Planned;
use crate::usecases::submit_build::build_head;

/// Builds of one repository that are made in one look, so that a moved mirror does not fill the queue;
/// the rest follows in the next.
const BUILDS_MAX: usize = 1_000;

/// Runs until shutdown.
pub async fn run(app: Arc<App>, shutdown: Shutdown) {
    let every = Duration::from_secs(app.settings.reconcile_seconds);
    if every.is_zero() {
        return;
    }
    loop {
        match app.db.repositories().await {
            Ok(repositories) => {
                for repo in repositories {
                    if shutdown.has_begun() {
                        return;
                    }
                    if let Err(error) = reconcile(&app, &repo).await {
                        tracing::warn!(%error, repo = repo.name, "cannot compare refs now");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot list repositories now"),
        }
        // Jitter: many installations must not ask one code host at the same second.
        let wait = every + app.rng.jitter(every / 10);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Compares the refs of one repository; how many builds it made.
///
/// # Errors
/// When the store is not available.
pub async fn reconcile(app: &App, repo: &RepositoryRow) -> Result<usize, StoreError> {
    let id: RepoId = repo
        .repo_id
        .parse()
        .map_err(|_| StoreError::Corrupt("repo_id".to_owned()))?;
    let heads = match app.source.heads(&repo.repo_id, &repo.repo_url).await {
        Ok(heads) => heads,
        Err(problem) => {
            tracing::info!(%problem, repo = repo.name, "the repository cannot be compared");
            return Ok(0);
        }
    };
    let seen: BTreeMap<String, String> = app.db.ref_heads(&id).await?.into_iter().collect();
    let first = repo.reconciled_ms.is_none();
    // A delivery under way may be the push of any head: decided first, it must not become a second
    // build; and a head that is taken as seen before would never become the first.
    if !first && app.db.undecided_deliveries(&id).await? > 0 {
        return Ok(0);
    }
    let now = app.clock.now();
    let mut built = 0;
    for (ref_name, sha) in heads {
        if seen.get(&ref_name) == Some(&sha) {
            continue;
        }
        if built >= BUILDS_MAX {
            break;
        }
        // The first look at a repository learns its heads; it does not build all of history.
        let known = first
            || app
                .db
                .build_of_commit(&id, &ref_name, &sha)
                .await?
                .is_some();
        if !known {
            let key = format!("reconciled/{ref_name}/{sha}");
            match build_head(app, repo, &ref_name, &sha, "reconciled", "", key).await? {
                Ok(Planned::Builds(builds)) => {
                    built += builds.len();
                    tracing::info!(repo = repo.name, ref_name, sha, "a push without webhook");
                }
                Ok(Planned::NotWanted(reason)) => tracing::debug!(ref_name, reason, "not built"),
                Err(problem) => {
                    tracing::info!(%problem, ref_name, "the head cannot be read yet");
                    continue;
                }
            }
        }
        app.db.put_ref_head(&id, &ref_name, Some(&sha), now).await?;
    }
    app.db.set_reconciled(&id, now).await?;
    Ok(built)
}
