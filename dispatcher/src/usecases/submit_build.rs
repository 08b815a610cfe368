//! Builds that no webhook started: by a person, by a schedule, or found by comparing refs.

use std::collections::BTreeMap;

use slipway_core::id::RepoId;
use slipway_core::pipeline;
use slipway_core::trigger::cron;
use slipway_store::{RepositoryRow, StoreError};

use super::plan_build::{Cause, Planned, plan_build};
use crate::source::{Commit, SourceError, Wanted};
use crate::state::App;

/// What a person asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The repository's address, as registered.
    pub repo_url: String,
    /// Branch; empty = the default branch.
    pub branch: String,
    /// Commit, 7–64 hex digits; empty = the branch's head.
    pub commit: String,
    /// `push` or `manual`.
    pub trigger_type: String,
    /// Only this pipeline.
    pub pipeline: Option<String>,
    /// Values of declared variables.
    pub variables: BTreeMap<String, String>,
    /// Everything is executed, whatever was executed before.
    pub fresh: bool,
    /// Who asks.
    pub initiator: String,
}

/// Why there is no build.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The repository is not registered.
    #[error("no repository with this address is registered; `POST /repositories` registers one")]
    UnknownRepository,
    /// The branch does not exist.
    #[error("the repository has no branch `{0}`")]
    UnknownBranch(String),
    /// A short commit id fits none or several.
    #[error("`{0}` names no single commit of that branch; give the full id")]
    UnknownCommit(String),
    /// The repository.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The file does not want it.
    #[error("nothing to build: {0}")]
    NotWanted(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Starts the builds that a person asks for: (id, number).
///
/// # Errors
/// Why there is none.
pub async fn submit_build(app: &App, request: Request) -> Result<(String, i64), SubmitError> {
    let repo = app
        .db
        .repository_by_url(&request.repo_url)
        .await?
        .ok_or(SubmitError::UnknownRepository)?;
    let branch = if request.branch.is_empty() {
        repo.branch.clone()
    } else {
        request.branch.clone()
    };
    let ref_name = format!("refs/heads/{branch}");
    let sha = resolve(app, &repo, &ref_name, &branch, &request.commit).await?;
    let wanted = Wanted {
        repo_id: repo.repo_id.clone(),
        repo_url: repo.repo_url.clone(),
        ref_name: ref_name.clone(),
        sha: sha.clone(),
        before: None,
    };
    let commit = app.source.commit(&wanted).await?;
    let manual = request.trigger_type != "push";
    let cause = Cause {
        event: if manual { "manual" } else { "push" }.to_owned(),
        trigger_type: if manual { "manual" } else { "push" },
        ref_name,
        sha,
        event_key: None,
        newest: true,
        untrusted: false,
        initiator: request.initiator,
        pipeline: request.pipeline,
        cron: String::new(),
        variables: request.variables,
        fresh: request.fresh,
        delivery: None,
    };
    match plan_build(app, &repo, &commit, &cause).await? {
        Planned::Builds(builds) => builds
            .into_iter()
            .next()
            .map(|(id, number, _)| (id, number))
            .ok_or_else(|| SubmitError::NotWanted("no pipeline".to_owned())),
        Planned::NotWanted(reason) => Err(SubmitError::NotWanted(reason)),
    }
}

async fn resolve(
    app: &App,
    repo: &RepositoryRow,
    ref_name: &str,
    branch: &str,
    commit: &str,
) -> Result<String, SubmitError> {
    if matches!(commit.len(), 40 | 64) {
        return Ok(commit.to_owned());
    }
    let heads = app.source.heads(&repo.repo_id, &repo.repo_url).await?;
    if commit.is_empty() {
        return heads
            .into_iter()
            .find(|(name, _)| name == ref_name)
            .map(|(_, sha)| sha)
            .ok_or_else(|| SubmitError::UnknownBranch(branch.to_owned()));
    }
    // A short id is resolved among the heads alone: what is guessed elsewhere could be another one.
    let mut fitting: Vec<String> = heads
        .into_iter()
        .map(|(_, sha)| sha)
        .filter(|sha| sha.starts_with(commit))
        .collect();
    fitting.sort();
    fitting.dedup();
    match fitting.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(SubmitError::UnknownCommit(commit.to_owned())),
    }
}

/// Builds a commit because of a schedule or because its push was never delivered.
///
/// # Errors
/// When the store is not available.
pub async fn build_head(
    app: &App,
    repo: &RepositoryRow,
    ref_name: &str,
    sha: &str,
    event: &'static str,
    cron_name: &str,
    key: String,
) -> Result<Result<Planned, SourceError>, StoreError> {
    let wanted = Wanted {
        repo_id: repo.repo_id.clone(),
        repo_url: repo.repo_url.clone(),
        ref_name: ref_name.to_owned(),
        sha: sha.to_owned(),
        before: None,
    };
    let commit = match app.source.commit(&wanted).await {
        Ok(commit) => commit,
        Err(problem) => return Ok(Err(problem)),
    };
    let cause = Cause {
        event: event.to_owned(),
        trigger_type: if event == "cron" { "scheduled" } else { "push" },
        ref_name: ref_name.to_owned(),
        sha: sha.to_owned(),
        event_key: Some(key),
        newest: true,
        untrusted: false,
        initiator: "system".to_owned(),
        pipeline: None,
        cron: cron_name.to_owned(),
        variables: BTreeMap::new(),
        fresh: false,
        delivery: None,
    };
    let planned = plan_build(app, repo, &commit, &cause).await?;
    if event == "reconciled" {
        remember_schedules(app, repo, ref_name, &commit).await?;
    }
    Ok(Ok(planned))
}

/// Keeps the schedules of the default branch's pipeline files.
///
/// # Errors
/// When the store is not available.
pub async fn remember_schedules(
    app: &App,
    repo: &RepositoryRow,
    ref_name: &str,
    commit: &Commit,
) -> Result<(), StoreError> {
    if ref_name.strip_prefix("refs/heads/") != Some(repo.branch.as_str()) {
        return Ok(());
    }
    let now = app.clock.now();
    let id: RepoId = repo
        .repo_id
        .parse()
        .map_err(|_| StoreError::Corrupt("repo_id".to_owned()))?;
    let due = commit
        .pipelines
        .iter()
        .flat_map(|(_, text)| pipeline::schedules_of(text))
        .filter_map(|s| {
            let next = cron::next(&s.schedule, now)?;
            Some((s.name, s.schedule, next))
        })
        .collect();
    app.db.replace_schedules(&id, due).await
}
