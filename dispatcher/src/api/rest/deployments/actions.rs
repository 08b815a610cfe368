//! What people tell a deployment: approve, refuse, hold, go on, promote, take back. The coordinator
//! decides; here a caller's identity and words are passed on.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use slipway_core::access::Deed;
use slipway_core::rollout::RolloutPlan;
use slipway_proto::v1;
use utoipa::ToSchema;

use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::api::rest::body::Body;
use crate::api::rest::coordinator::{client, refused, signed};
use crate::state::App;

/// Who approves.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// Absent, or the caller's own name.
    #[serde(default)]
    approver_id: String,
    /// When given, must be the plan's hash.
    #[serde(default)]
    plan_hash: String,
}

/// The answer to an approval.
#[derive(Debug, Serialize, ToSchema)]
pub struct Approved {
    approved: bool,
    /// False while more approvals are due.
    proceed_to_prod: bool,
}

/// Approves a deployment.
#[utoipa::path(put, path = "/deployments/{deployment_id}/approve", tag = "deployments",
    security(("token" = [])), params(("deployment_id" = String, Path)), request_body = Approve,
    responses((status = 200, body = Approved), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub async fn approve(
    State(app): State<Arc<App>>,
    person: Person,
    Path(deployment_id): Path<String>,
    Body(body): Body<Approve>,
) -> Result<axum::Json<Approved>, Problem> {
    let request = v1::ApproveRequest {
        deployment_id,
        approver_id: body.approver_id,
        plan_hash: body.plan_hash,
    };
    let answer = client(&app)?.approve(signed(&person, request)).await;
    let answer = answer.map_err(refused)?.into_inner();
    Ok(axum::Json(Approved {
        approved: answer.approved,
        proceed_to_prod: answer.proceed_to_prod,
    }))
}

/// Why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Why {
    #[serde(default)]
    reason: String,
}

/// Where a deployment stands after a command.
#[derive(Debug, Serialize, ToSchema)]
pub struct Phase {
    phase: String,
}

fn phase(
    answer: Result<tonic::Response<v1::RolloutAnswer>, tonic::Status>,
) -> Result<axum::Json<Phase>, Problem> {
    let phase = answer.map_err(refused)?.into_inner().phase;
    Ok(axum::Json(Phase { phase }))
}

macro_rules! command {
    ($(#[$doc:meta])* $name:ident, $path:literal, $message:ident) => {
        $(#[$doc])*
        #[utoipa::path(put, path = $path, tag = "deployments", security(("token" = [])),
            params(("deployment_id" = String, Path)), request_body = Why,
            responses((status = 200, body = Phase), (status = 409, body = Problem)))]
        pub async fn $name(
            State(app): State<Arc<App>>,
            person: Person,
            Path(deployment_id): Path<String>,
            Body(why): Body<Why>,
        ) -> Result<axum::Json<Phase>, Problem> {
            let request = v1::$message { deployment_id, reason: why.reason };
            phase(client(&app)?.$name(signed(&person, request)).await)
        }
    };
}

command!(
    /// Refuses a deployment that waits for approval.
    reject, "/deployments/{deployment_id}/reject", RejectRequest
);
command!(
    /// Takes an active deployment back, or ends it before traffic.
    abort, "/deployments/{deployment_id}/abort", AbortRequest
);
command!(
    /// Holds a deployment where it is.
    pause, "/deployments/{deployment_id}/pause", PauseRequest
);
command!(
    /// Goes on.
    resume, "/deployments/{deployment_id}/resume", ResumeRequest
);

/// How far to promote.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    #[serde(default)]
    reason: String,
    /// All remaining steps.
    #[serde(default)]
    full: bool,
}

/// Ends the present bake or watch early.
#[utoipa::path(put, path = "/deployments/{deployment_id}/promote", tag = "deployments",
    security(("token" = [])), params(("deployment_id" = String, Path)), request_body = Promote,
    responses((status = 200, body = Phase), (status = 409, body = Problem)))]
pub async fn promote(
    State(app): State<Arc<App>>,
    person: Person,
    Path(deployment_id): Path<String>,
    Body(body): Body<Promote>,
) -> Result<axum::Json<Phase>, Problem> {
    let request = v1::PromoteRequest {
        deployment_id,
        reason: body.reason,
        full: body.full,
    };
    phase(client(&app)?.promote(signed(&person, request)).await)
}

/// Starts the same deployment again: a new one of the same plan, approved anew.
#[utoipa::path(put, path = "/deployments/{deployment_id}/retry", tag = "deployments",
    security(("token" = [])), params(("deployment_id" = String, Path)), request_body = Why,
    responses((status = 200, body = Retried), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn retry(
    State(app): State<Arc<App>>,
    person: Person,
    Path(deployment_id): Path<String>,
    Body(_why): Body<Why>,
) -> Result<axum::Json<Retried>, Problem> {
    person.must(Deed::StartDeployment)?;
    let row = app.db.rollout(&deployment_id).await?;
    let row = row.ok_or_else(|| Problem::not_found("deployment"))?;
    if row.status == "in_progress" {
        return Err(Problem::conflict(
            "still_active",
            "the deployment has not ended",
        ));
    }
    if row.kind != "rollout" {
        return Err(Problem::conflict(
            "no_rollout",
            "a rollback is asked for again with rollback",
        ));
    }
    let plan: RolloutPlan = serde_json::from_str(&row.plan_json)
        .map_err(|_| Problem::conflict("no_plan", "the deployment's plan cannot be read"))?;
    let request = v1::StartRolloutRequest {
        // Asked twice, it is one deployment.
        idempotency_key: format!("retry/{deployment_id}"),
        build_id: row.build_id,
        repo_id: String::new(),
        commit_sha: plan.facts.commit_sha,
        service: plan.service,
        environment: plan.environment,
        image: plan.new.image,
        deploy_json: plan.section,
        strategy: row.strategy,
        initiator: person.caller.subject.clone(),
        supersede: false,
    };
    let answer = client(&app)?.start(signed(&person, request)).await;
    let answer = answer.map_err(refused)?.into_inner();
    Ok(axum::Json(Retried {
        deployment_id: answer.deployment_id,
        phase: answer.phase,
    }))
}

/// A deployment that was started again.
#[derive(Debug, Serialize, ToSchema)]
pub struct Retried {
    deployment_id: String,
    phase: String,
}

/// Why, and to what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    #[serde(default)]
    reason: String,
    /// A version; absent = the last good one.
    #[serde(default)]
    to: String,
}

/// The answer to a rollback.
#[derive(Debug, Serialize, ToSchema)]
pub struct RolledBack {
    rolled_back_to_version: String,
    deployment_id: String,
}

/// Brings the last good version back.
#[utoipa::path(put, path = "/deployments/{deployment_id}/rollback", tag = "deployments",
    security(("token" = [])), params(("deployment_id" = String, Path)), request_body = Rollback,
    responses((status = 200, body = RolledBack), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn rollback(
    State(app): State<Arc<App>>,
    person: Person,
    Path(deployment_id): Path<String>,
    Body(body): Body<Rollback>,
) -> Result<axum::Json<RolledBack>, Problem> {
    if body.reason.trim().is_empty() {
        return Err(Problem::invalid(
            "/reason",
            "reason_missing",
            "say why, in `reason`",
        ));
    }
    let request = v1::RollBackRequest {
        deployment_id,
        reason: body.reason,
        to: body.to,
    };
    let answer = client(&app)?.roll_back(signed(&person, request)).await;
    let answer = answer.map_err(refused)?.into_inner();
    Ok(axum::Json(RolledBack {
        rolled_back_to_version: answer.rolled_back_to_version,
        deployment_id: answer.deployment_id,
    }))
}
