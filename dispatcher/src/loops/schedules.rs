//! `on.cron`: schedules that are due start builds of the default branch's head.

use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::RepoId;
use slipway_core::trigger::cron;
use slipway_daemon::Shutdown;
use slipway_store::{ScheduleRow, StoreError};

use crate::state::App;
use crate::usecases::submit_build::build_head;

/// How often the list is looked at: schedules are exact to the minute.
const TICK: Duration = Duration::from_secs(10);

/// Runs until shutdown.
pub async fn run(app: Arc<App>, shutdown: Shutdown) {
    loop {
        if let Err(error) = start_due(&app).await {
            tracing::warn!(%error, "schedules cannot be looked at now");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// Starts what is due; how many builds.
///
/// # Errors
/// When the store is not available.
pub async fn start_due(app: &App) -> Result<usize, StoreError> {
    let now = app.clock.now();
    let mut started = 0;
    for due in app.db.due_schedules(now).await? {
        let Some(next) = cron::next(&due.schedule, now) else {
            continue;
        };
        // Taken first: a crash between the two loses one start, never starts twice.
        if app.db.take_schedule(&due, next).await? {
            started += start(app, &due).await?;
        }
    }
    Ok(started)
}

async fn start(app: &App, due: &ScheduleRow) -> Result<usize, StoreError> {
    let id: RepoId = due
        .repo_id
        .parse()
        .map_err(|_| StoreError::Corrupt("repo_id".to_owned()))?;
    let Some(repo) = app.db.repository(&id).await? else {
        return Ok(0);
    };
    let ref_name = format!("refs/heads/{}", repo.branch);
    let heads = app.source.heads(&repo.repo_id, &repo.repo_url).await;
    let head = heads
        .ok()
        .and_then(|heads| heads.into_iter().find(|(name, _)| *name == ref_name));
    let Some((_, sha)) = head else {
        tracing::warn!(
            repo = repo.name,
            schedule = due.name,
            "no head to build on schedule"
        );
        return Ok(0);
    };
    let key = format!("cron/{}/{}", due.name, due.next_ms);
    match build_head(app, &repo, &ref_name, &sha, "cron", &due.name, key).await? {
        Ok(_) => Ok(1),
        Err(problem) => {
            tracing::warn!(%problem, repo = repo.name, "a scheduled build cannot be read");
            Ok(0)
        }
    }
}
