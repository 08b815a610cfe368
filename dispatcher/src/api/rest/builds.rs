//! Builds.

mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slipway_core::access::Deed;
use slipway_core::id::BuildId;
use slipway_core::time::Timestamp;
use slipway_store::{AttemptRow, BuildFilter, BuildRow, ReportRow, StageRow};
use utoipa::{IntoParams, ToSchema};

use super::body::Body;
use super::page::{Page, Paging, page};
use super::time::{seconds, shown};
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::source::SourceError;
use crate::state::App;
use crate::usecases::cancel_build::cancel_build;
use crate::usecases::rerun_build::{RerunError, rerun_build};
use crate::usecases::submit_build::{Request, SubmitError, submit_build};
use stage::{Stage, stage};

/// A build to be started.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBuild {
    /// The repository's address, as registered.
    repo_url: String,
    /// Branch; absent = the default branch.
    #[serde(default)]
    branch: String,
    /// 7–64 hex digits; absent = the branch's head.
    #[serde(default)]
    commit_sha: String,
    /// `push` or `manual`.
    #[serde(default)]
    trigger_type: String,
    /// Only this pipeline.
    pipeline: Option<String>,
    /// Values of variables that the file declares.
    #[serde(default)]
    variables: BTreeMap<String, String>,
    /// Executes every stage, whatever was executed before.
    #[serde(default)]
    no_cache: bool,
}

/// A started build.
#[derive(Debug, Serialize, ToSchema)]
pub struct StartedBuild {
    build_id: String,
    status: String,
    number: i64,
    url: String,
}

/// Starts a build.
#[utoipa::path(post, path = "/builds", tag = "builds", request_body = NewBuild,
    security(("token" = [])),
    responses((status = 201, body = StartedBuild), (status = 422, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    person: Person,
    Body(new): Body<NewBuild>,
) -> Result<Response, Problem> {
    person.must(Deed::SteerBuild)?;
    if !new.commit_sha.is_empty() && !is_commit(&new.commit_sha) {
        return Err(Problem::invalid(
            "/commit_sha",
            "invalid_commit",
            "`commit_sha` is 7–64 hex digits",
        ));
    }
    if !matches!(new.trigger_type.as_str(), "" | "push" | "manual") {
        return Err(Problem::invalid(
            "/trigger_type",
            "invalid_trigger",
            "`trigger_type` is push or manual",
        ));
    }
    let valid = crate::intake::event::is_branch_name(&new.branch);
    if !new.branch.is_empty() && !valid {
        return Err(Problem::invalid(
            "/branch",
            "invalid_branch",
            "this cannot name a branch",
        ));
    }
    let request = Request {
        repo_url: new.repo_url,
        branch: new.branch,
        commit: new.commit_sha,
        trigger_type: new.trigger_type,
        pipeline: new.pipeline,
        variables: new.variables,
        fresh: new.no_cache,
        initiator: person.caller.subject.clone(),
    };
    let (build_id, number) = submit_build(&app, request).await.map_err(refused)?;
    let audit = person.audit(app.clock.now(), "build.start", "build", &build_id);
    app.db.audit(audit).await?;
    let status = match build_id.parse::<BuildId>() {
        Ok(id) => app
            .db
            .build(&id)
            .await?
            .map_or("queued".to_owned(), |b| b.status),
        Err(_) => "queued".to_owned(),
    };
    let location = format!("/api/v1/builds/{build_id}");
    let url = format!("{}/ui/builds/{build_id}", app.settings.public_url);
    let body = StartedBuild {
        build_id,
        status,
        number,
        url,
    };
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        axum::Json(body),
    )
        .into_response())
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn refused(error: SubmitError) -> Problem {
    match error {
        SubmitError::Store(error) => error.into(),
        SubmitError::UnknownRepository => {
            Problem::invalid("/repo_url", "unknown_repository", error.to_string())
        }
        SubmitError::UnknownBranch(_) => {
            Problem::invalid("/branch", "unknown_branch", error.to_string())
        }
        SubmitError::UnknownCommit(_) | SubmitError::Source(SourceError::CommitGone) => {
            Problem::invalid("/commit_sha", "unknown_commit", error.to_string())
        }
        SubmitError::NotWanted(_) => Problem::invalid("", "nothing_to_build", error.to_string()),
        SubmitError::Source(SourceError::Unavailable(_)) => {
            let mut problem = Problem::unavailable(&error.to_string());
            problem.code = "source_unavailable".to_owned();
            problem
        }
        SubmitError::Source(_) => Problem::invalid("", "pipeline_unreadable", error.to_string()),
    }
}

/// The tests of a build, over all reports.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct TestResults {
    /// present | missing | invalid
    state: String,
    total: i64,
    passed: i64,
    failed: i64,
    skipped: i64,
    flaky: i64,
    duration: f64,
}

/// A build.
#[derive(Debug, Serialize, ToSchema)]
pub struct Build {
    build_id: String,
    status: String,
    logs_url: String,
    artifact_urls: Vec<String>,
    test_results: TestResults,
    number: i64,
    pipeline: String,
    repo_id: String,
    repo_url: String,
    branch: String,
    commit_sha: String,
    commit_message: String,
    author: String,
    event: String,
    trigger_type: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    duration: Option<f64>,
    docker_image_uri: Option<String>,
    test_coverage: Option<f64>,
    errors: serde_json::Value,
    /// How many of its stages were recalled.
    stages_recalled: usize,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<CacheUse>,
    stages: Vec<Stage>,
    superseded_by: Option<String>,
    created_at: String,
}

/// What the workspaces of a build's attempts were laid out from.
#[derive(Debug, Default, Serialize, ToSchema)]
struct CacheUse {
    /// Bytes that came from other agents, as they were sent.
    moved_bytes: i64,
    /// Bytes that were there already.
    reused_bytes: i64,
}

impl CacheUse {
    fn of(attempts: &[AttemptRow]) -> Self {
        let sum = |of: fn(&AttemptRow) -> i64| attempts.iter().map(of).fold(0, i64::saturating_add);
        Self {
            moved_bytes: sum(|a| a.moved_bytes),
            reused_bytes: sum(|a| a.reused_bytes),
        }
    }
}

fn test_results(reports: &[ReportRow]) -> TestResults {
    let junit: Vec<&ReportRow> = reports.iter().filter(|r| r.kind == "junit").collect();
    let worst = ["invalid", "missing", "present"]
        .into_iter()
        .find(|state| junit.iter().any(|r| r.state == *state))
        .unwrap_or("missing");
    let sum = |of: fn(&ReportRow) -> i64| junit.iter().map(|r| of(r)).sum();
    let millis: i64 = sum(|r| r.duration_ms);
    TestResults {
        state: worst.to_owned(),
        total: sum(|r| r.total),
        passed: sum(|r| r.passed),
        failed: sum(|r| r.failed),
        skipped: sum(|r| r.skipped),
        flaky: sum(|r| r.flaky),
        duration: seconds(millis),
    }
}

fn build(
    row: BuildRow,
    stages: Vec<StageRow>,
    reports: &[ReportRow],
    artifacts: Vec<String>,
    cache: Option<CacheUse>,
) -> Build {
    Build {
        logs_url: format!("/api/v1/builds/{}/logs", row.build_id),
        artifact_urls: artifacts,
        test_results: test_results(reports),
        build_id: row.build_id,
        status: row.status,
        number: row.number,
        pipeline: row.pipeline,
        repo_id: row.repo_id,
        repo_url: row.repo_url,
        branch: row.branch,
        commit_sha: row.commit_sha,
        commit_message: row.commit_message,
        author: row.author,
        event: row.event,
        trigger_type: row.trigger_type,
        started_at: row.started_at.map(shown),
        ended_at: row.ended_at.map(shown),
        duration: row.duration.map(seconds),
        docker_image_uri: row.docker_image_uri,
        test_coverage: row.test_coverage,
        errors: serde_json::from_str(&row.errors).unwrap_or_default(),
        stages_recalled: stages.iter().filter(|s| s.recalled.is_some()).count(),
        cache,
        stages: stages.into_iter().map(stage).collect(),
        superseded_by: row.superseded_by,
        created_at: shown(row.created_at),
    }
}

/// Checks an id in a path; a text that is no id names nothing.
pub(super) fn build_id(text: &str) -> Result<BuildId, Problem> {
    text.parse().map_err(|_| Problem::not_found("build"))
}

async fn whole(app: &App, id: &BuildId) -> Result<Build, Problem> {
    let row = app.db.build(id).await?;
    let row = row.ok_or_else(|| Problem::not_found("build"))?;
    let stages = app.db.stages(id).await?;
    let reports = app.db.reports(id).await?;
    let artifacts = app.db.artifacts(id).await?;
    let urls = artifacts
        .iter()
        .map(|a| format!("/api/v1/artifacts/{id}/{}", a.artifact_id))
        .collect();
    let cache = CacheUse::of(&app.db.attempts_of_build(id).await?);
    Ok(build(row, stages, &reports, urls, Some(cache)))
}

/// Shows a build.
#[utoipa::path(get, path = "/builds/{build_id}", tag = "builds", security(("token" = [])),
    params(("build_id" = String, Path)),
    responses((status = 200, body = Build), (status = 404, body = Problem)))]
pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Build>, Problem> {
    whole(&app, &build_id(&id)?).await.map(axum::Json)
}

/// Which builds.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Filter {
    /// Repository id.
    #[serde(default)]
    repo: String,
    #[serde(default)]
    branch: String,
    /// queued | building | passed | failed | cancelled
    #[serde(default)]
    status: String,
    /// Commit, or its beginning.
    #[serde(default)]
    commit: String,
    #[serde(default)]
    author: String,
    #[serde(default)]
    event: String,
    /// RFC 3339.
    since: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Lists builds, newest first.
#[utoipa::path(get, path = "/builds", tag = "builds", params(Filter), security(("token" = [])),
    responses((status = 200, body = Page<Build>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    let paging = Paging {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let limit = paging.limit()?;
    if !filter.commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Problem::invalid(
            "/commit",
            "invalid_commit",
            "`commit` is hex digits",
        ));
    }
    let since = match &filter.since {
        None => Timestamp::EPOCH,
        Some(text) => text
            .parse::<jiff::Timestamp>()
            .map(|at| Timestamp::from_millis(at.as_millisecond()))
            .map_err(|_| Problem::invalid("/since", "invalid_time", "`since` is RFC 3339"))?,
    };
    let rows = app
        .db
        .builds(&BuildFilter {
            repo_id: filter.repo,
            branch: filter.branch,
            status: filter.status,
            commit: filter.commit.to_lowercase(),
            author: filter.author,
            event: filter.event,
            since,
            before: paging.after(&app)?,
            limit: limit + 1,
        })
        .await?;
    Ok(page(
        &app,
        "/api/v1/builds",
        rows,
        limit,
        |r| &r.build_id,
        |row| build(row, Vec::new(), &[], Vec::new(), None),
    ))
}

/// Lists the stages of a build.
#[utoipa::path(get, path = "/builds/{build_id}/stages", tag = "builds", security(("token" = [])),
    params(("build_id" = String, Path)), responses((status = 200, body = Vec<Stage>)))]
pub async fn stages(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Vec<Stage>>, Problem> {
    Ok(axum::Json(whole(&app, &build_id(&id)?).await?.stages))
}

/// Lists the reports of a build, failures first.
#[utoipa::path(get, path = "/builds/{build_id}/tests", tag = "builds", security(("token" = [])),
    params(("build_id" = String, Path)),
    responses((status = 200, body = serde_json::Value), (status = 404, body = Problem)))]
pub async fn tests(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    let id = build_id(&id)?;
    let known = app.db.build(&id).await?;
    known.ok_or_else(|| Problem::not_found("build"))?;
    let mut reports = app.db.reports(&id).await?;
    reports.sort_by_key(|r| std::cmp::Reverse(r.failed));
    let shown: Vec<serde_json::Value> = reports
        .into_iter()
        .map(|r| {
            serde_json::json!({
                "stage_id": r.stage_id, "path": r.path, "kind": r.kind, "state": r.state,
                "total": r.total, "passed": r.passed, "failed": r.failed, "skipped": r.skipped,
                "flaky": r.flaky, "duration": seconds(r.duration_ms),
                "lines_covered": r.lines_covered, "lines_valid": r.lines_valid,
                "problem": r.problem,
                "failures": serde_json::from_str::<serde_json::Value>(&r.failures).unwrap_or_default(),
            })
        })
        .collect();
    Ok(axum::Json(shown.into()))
}

/// Cancels a build.
#[utoipa::path(post, path = "/builds/{build_id}/cancel", tag = "builds", security(("token" = [])),
    params(("build_id" = String, Path)), responses((status = 200, body = Build)))]
pub async fn cancel(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
) -> Result<axum::Json<Build>, Problem> {
    person.must(Deed::SteerBuild)?;
    let id = build_id(&id)?;
    app.db
        .build(&id)
        .await?
        .ok_or_else(|| Problem::not_found("build"))?;
    let audit = person.audit(app.clock.now(), "build.cancel", "build", id.as_str());
    app.db.audit(audit).await?;
    cancel_build(
        &app,
        &id,
        &format!("cancelled by {}", person.caller.subject),
    )
    .await?;
    whole(&app, &id).await.map(axum::Json)
}

/// How to repeat.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Only what failed and what depends on it.
    #[serde(default)]
    failed_only: bool,
}

/// Executes a build's stages again.
#[utoipa::path(post, path = "/builds/{build_id}/retry", tag = "builds", security(("token" = [])),
    params(("build_id" = String, Path)), request_body = Retry,
    responses((status = 200, body = Build), (status = 409, body = Problem)))]
pub async fn retry(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
    Body(how): Body<Retry>,
) -> Result<Response, Problem> {
    person.must(Deed::SteerBuild)?;
    let id = build_id(&id)?;
    let audit = person.audit(app.clock.now(), "build.retry", "build", id.as_str());
    app.db.audit(audit).await?;
    rerun_build(&app, &id, how.failed_only)
        .await
        .map_err(|e| match e {
            RerunError::NotFound => Problem::not_found("build"),
            RerunError::StillRunning => Problem::conflict("still_running", e.to_string()),
            RerunError::NothingFailed => Problem::conflict("nothing_failed", e.to_string()),
            RerunError::Store(error) => error.into(),
        })?;
    let body = axum::Json(whole(&app, &id).await?);
    Ok(([(HeaderName::from_static("x-slipway-rerun"), "1")], body).into_response())
}
