//! Deployments: read from the store, steered through the coordinator.

pub mod actions;
pub mod told;

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slipway_core::access::Deed;
use slipway_core::pipeline::{DeploySpec, stage_of};
use slipway_proto::v1;
use slipway_store::{BuildRow, RolloutFilter, RolloutRow};
use utoipa::{IntoParams, ToSchema};

use super::body::Body;
use super::builds::build_id;
use super::coordinator::{client, refused, signed};
use super::page::{Page, Paging, page};
use super::time::shown;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::state::App;

/// Looks of one answer.
const LOOKS_MAX: u32 = 1_000;

/// A deployment to be started.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDeployment {
    build_id: String,
    /// An environment of the build's file.
    target_env: String,
    /// canary, blue-green or rolling; absent = the file's.
    #[serde(default)]
    strategy: String,
    /// Needed only when a build has several.
    #[serde(default)]
    service: String,
    /// Rollouts of the service that are under way there go back to stable first.
    #[serde(default)]
    supersede: bool,
}

/// A started deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct StartedDeployment {
    deployment_id: String,
    status: String,
    phase: String,
    approval_status: String,
}

/// Starts a deployment.
#[utoipa::path(post, path = "/deployments", tag = "deployments", request_body = NewDeployment,
    security(("token" = [])),
    responses((status = 201, body = StartedDeployment), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    person: Person,
    headers: HeaderMap,
    Body(new): Body<NewDeployment>,
) -> Result<Response, Problem> {
    person.must(Deed::StartDeployment)?;
    if !matches!(
        new.strategy.as_str(),
        "" | "canary" | "blue-green" | "rolling"
    ) {
        return Err(Problem::invalid(
            "/strategy",
            "invalid_strategy",
            "`strategy` is canary, blue-green or rolling",
        ));
    }
    let release = release(&app, &new).await?;
    let now = app.clock.now();
    let key = headers
        .get("idempotency-key")
        .and_then(|v| v.to_str().ok())
        .map_or_else(|| app.rng.ulid(now), str::to_owned);
    let request = v1::StartRolloutRequest {
        idempotency_key: format!("rest/{}/{key}", person.caller.subject),
        build_id: release.build.build_id,
        repo_id: release.build.repo_id,
        commit_sha: release.build.commit_sha,
        service: release.service,
        environment: new.target_env,
        image: release.image,
        deploy_json: release.text,
        strategy: new.strategy,
        initiator: person.caller.subject.clone(),
        supersede: new.supersede,
    };
    let answer = client(&app)?.start(signed(&person, request)).await;
    let answer = answer.map_err(refused)?.into_inner();
    let location = format!("/api/v1/deployments/{}", answer.deployment_id);
    let body = StartedDeployment {
        deployment_id: answer.deployment_id,
        status: "in_progress".to_owned(),
        phase: answer.phase,
        approval_status: answer.approval_status,
    };
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        axum::Json(body),
    )
        .into_response())
}

/// What a build has to deploy.
struct Release {
    build: BuildRow,
    service: String,
    image: String,
    text: String,
}

async fn release(app: &App, new: &NewDeployment) -> Result<Release, Problem> {
    let id = build_id(&new.build_id)
        .map_err(|_| Problem::invalid("/build_id", "unknown_build", "there is no such build"))?;
    let build = app.db.build(&id).await?;
    let build = build
        .ok_or_else(|| Problem::invalid("/build_id", "unknown_build", "there is no such build"))?;
    if build.status != "passed" {
        return Err(Problem::conflict(
            "build_not_passed",
            format!("the build is {}", build.status),
        ));
    }
    let text = build.deploy.clone().unwrap_or_default();
    let deploy: DeploySpec = serde_json::from_str(&text)
        .map_err(|_| Problem::conflict("no_deploy_section", "the build's file has no `deploy`"))?;
    if !new.service.is_empty() && new.service != deploy.service {
        return Err(Problem::invalid(
            "/service",
            "unknown_service",
            "the build has no such service",
        ));
    }
    if !deploy.environments.iter().any(|e| e.name == new.target_env) {
        return Err(Problem::invalid(
            "/target_env",
            "unknown_environment",
            "the build's file has no such environment",
        ));
    }
    let image = match stage_of(&deploy.image) {
        Some(stage) => app
            .db
            .stages(&id)
            .await?
            .into_iter()
            .find(|s| s.stage_name == stage)
            .and_then(|s| s.image_uri)
            .ok_or_else(|| Problem::conflict("no_image", "the build left no image"))?,
        None => deploy.image.clone(),
    };
    Ok(Release {
        build,
        service: deploy.service,
        image,
        text,
    })
}

/// One step of a deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Step {
    idx: i64,
    attempt: i64,
    kind: String,
    status: String,
}

/// Who holds the place where a deployment goes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lock {
    holder: Option<String>,
    position: usize,
}

/// A deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deployment {
    deployment_id: String,
    status: String,
    current_version: Option<String>,
    target_version: String,
    /// 0–100; 100 only when completed.
    progress: i64,
    phase: String,
    canary_percentage: f64,
    approval_status: String,
    approver_id: Option<String>,
    build_id: String,
    service: String,
    environment: String,
    strategy: String,
    kind: String,
    plan_hash: String,
    initiator_id: String,
    reason: Option<String>,
    steps: Vec<Step>,
    /// What each gate said last.
    gates: Vec<serde_json::Value>,
    /// Where it stands, what comes next, and whom it waits for.
    explanation: Vec<String>,
    lock: Option<Lock>,
    started_at: Option<String>,
    ended_at: Option<String>,
    created_at: String,
}

fn deployment(row: RolloutRow, steps: Vec<Step>) -> Deployment {
    Deployment {
        deployment_id: row.deployment_id,
        status: row.status,
        current_version: row.source_version,
        target_version: row.target_version,
        progress: row.progress,
        phase: row.phase,
        canary_percentage: row.canary_percentage,
        approval_status: row.approval_status,
        approver_id: row.approver_id,
        build_id: row.build_id,
        service: row.service_name,
        environment: row.target_environment,
        strategy: row.strategy,
        kind: row.kind,
        plan_hash: row.plan_hash,
        initiator_id: row.initiator_id,
        reason: row.reason,
        steps,
        gates: Vec::new(),
        explanation: Vec::new(),
        lock: None,
        started_at: row.started_at.map(shown),
        ended_at: row.ended_at.map(shown),
        created_at: shown(row.created_at),
    }
}

/// Shows a deployment.
#[utoipa::path(get, path = "/deployments/{deployment_id}", tag = "deployments", security(("token" = [])),
    params(("deployment_id" = String, Path)),
    responses((status = 200, body = Deployment), (status = 404, body = Problem)))]
pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Deployment>, Problem> {
    let missing = || Problem::not_found("deployment");
    let row = app.db.rollout(&id).await?.ok_or_else(missing)?;
    let steps = app.db.rollout_steps(&id).await?;
    let steps = steps
        .into_iter()
        .map(|s| Step {
            idx: s.idx,
            attempt: s.attempt,
            kind: s.kind,
            status: s.status,
        })
        .collect();
    let gates = told::gates(&app, &id).await?;
    let explanation = told::explanation(&app, &row, &gates);
    let mut shown = deployment(row, steps);
    (shown.gates, shown.explanation) = (gates, explanation);
    Ok(axum::Json(shown))
}

/// Which deployments.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Filter {
    #[serde(default)]
    environment: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    build: String,
    limit: Option<u32>,
    cursor: Option<String>,
}

/// Lists deployments, newest first.
#[utoipa::path(get, path = "/deployments", tag = "deployments", params(Filter), security(("token" = [])),
    responses((status = 200, body = Page<Deployment>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Query(filter): Query<Filter>,
) -> Result<Response, Problem> {
    let paging = Paging {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let limit = paging.limit()?;
    let rows = app
        .db
        .rollouts(&RolloutFilter {
            service: filter.service,
            environment: filter.environment,
            status: filter.status,
            build_id: filter.build,
            before: paging.after(&app)?,
            limit: limit + 1,
        })
        .await?;
    Ok(page(
        &app,
        "/api/v1/deployments",
        rows,
        limit,
        |r| &r.deployment_id,
        |row| deployment(row, Vec::new()),
    ))
}

/// The same for operators.
///
/// # Errors
/// When the store is not available.
pub async fn listed(
    app: &App,
    service: &str,
    environment: &str,
    status: &str,
    limit: u32,
) -> Result<Vec<v1::DeploymentView>, Problem> {
    let filter = RolloutFilter {
        service: service.to_owned(),
        environment: environment.to_owned(),
        status: status.to_owned(),
        build_id: String::new(),
        before: String::new(),
        limit,
    };
    let rows = app.db.rollouts(&filter).await?;
    Ok(rows
        .into_iter()
        .map(|row| v1::DeploymentView {
            deployment_id: row.deployment_id,
            build_id: row.build_id,
            service: row.service_name,
            environment: row.target_environment,
            status: row.status,
            phase: row.phase,
            strategy: row.strategy,
            target_version: row.target_version,
            source_version: row.source_version.unwrap_or_default(),
            created_at_ms: row.created_at,
            reason: row.reason.unwrap_or_default(),
        })
        .collect())
}

/// The events of a deployment, oldest first.
#[utoipa::path(get, path = "/deployments/{deployment_id}/events", tag = "deployments",
    security(("token" = [])), params(("deployment_id" = String, Path)),
    responses((status = 200, body = Vec<serde_json::Value>)))]
pub async fn events(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Vec<serde_json::Value>>, Problem> {
    let known = app.db.rollout(&id).await?;
    known.ok_or_else(|| Problem::not_found("deployment"))?;
    let rows = app.db.rollout_events(&id, 0, 1_000).await?;
    Ok(axum::Json(
        rows.into_iter()
            .map(|row| {
                let detail: serde_json::Value = serde_json::from_str(&row.json).unwrap_or_default();
                serde_json::json!({"seq": row.seq, "at": shown(row.at), "kind": row.kind, "detail": detail})
            })
            .collect(),
    ))
}

/// One look at a deployment's health.
#[derive(Debug, Serialize, ToSchema)]
pub struct Look {
    metric_name: String,
    baseline_value: Option<f64>,
    current_value: Option<f64>,
    threshold_alert: bool,
    checked_at: String,
    /// The step that it was taken in.
    step: i64,
    verdict: String,
    evidence: serde_json::Value,
}

/// What was seen of a deployment's health, oldest first.
#[utoipa::path(get, path = "/deployments/{deployment_id}/health", tag = "deployments",
    security(("token" = [])), params(("deployment_id" = String, Path)),
    responses((status = 200, body = Vec<Look>), (status = 404, body = Problem)))]
pub async fn health(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Vec<Look>>, Problem> {
    let known = app.db.rollout(&id).await?;
    known.ok_or_else(|| Problem::not_found("deployment"))?;
    let rows = app.db.rollout_health(&id, LOOKS_MAX).await?;
    let looks = rows.into_iter().map(|row| Look {
        metric_name: row.metric_name,
        baseline_value: row.baseline_value,
        current_value: row.current_value,
        threshold_alert: row.threshold_alert == 1,
        checked_at: shown(row.checked_at),
        step: row.step_idx,
        verdict: row.verdict,
        evidence: serde_json::from_str(&row.evidence_json).unwrap_or_default(),
    });
    Ok(axum::Json(looks.collect()))
}

/// A place where services are deployed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Environment {
    environment_id: String,
    name: String,
    created_at: String,
}

/// Lists the environments, by name.
#[utoipa::path(get, path = "/environments", tag = "deployments", security(("token" = [])),
    responses((status = 200, body = Vec<Environment>)))]
pub async fn environments(
    State(app): State<Arc<App>>,
) -> Result<axum::Json<Vec<Environment>>, Problem> {
    let rows = app.db.environments().await?;
    let all = rows.into_iter().map(|row| Environment {
        environment_id: row.environment_id,
        name: row.name,
        created_at: shown(row.created_at),
    });
    Ok(axum::Json(all.collect()))
}
