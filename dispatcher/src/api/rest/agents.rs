//! Agents, join tokens, and what waits for an agent.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slipway_core::access::Deed;
use slipway_core::id::AgentId;
use slipway_core::queue::AgentState;
use utoipa::ToSchema;

use super::body::Body;
use super::time::shown;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::loops::scheduling::{Nudge, explain};
use crate::state::App;
use crate::token::{self, Kind};

/// An agent.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentView {
    agent_id: String,
    name: String,
    state: String,
    connected: bool,
    slots: i64,
    busy: usize,
    labels: serde_json::Value,
    facts: serde_json::Value,
    last_seen_at: Option<String>,
}

/// Lists agents.
#[utoipa::path(get, path = "/agents", tag = "agents", security(("token" = [])),
    responses((status = 200, body = Vec<AgentView>)))]
pub async fn list(State(app): State<Arc<App>>) -> Result<axum::Json<Vec<AgentView>>, Problem> {
    let held = app.db.held_attempts().await?;
    let rows = app.db.agents().await?;
    Ok(axum::Json(
        rows.into_iter()
            .map(|row| {
                let id = row.agent_id.parse::<AgentId>();
                let busy = held
                    .iter()
                    .filter(|h| h.agent_id.as_ref() == Some(&row.agent_id));
                AgentView {
                    busy: busy.count(),
                    connected: id.is_ok_and(|id| app.link.is_connected(&id)),
                    agent_id: row.agent_id,
                    name: row.name,
                    state: row.state,
                    slots: row.slots,
                    labels: serde_json::from_str(&row.labels).unwrap_or_default(),
                    facts: serde_json::from_str(&row.facts).unwrap_or_default(),
                    last_seen_at: row.renewed_ms.or(row.connected_ms).map(shown),
                }
            })
            .collect(),
    ))
}

/// Drains an agent: it finishes what it holds and takes nothing new.
#[utoipa::path(post, path = "/agents/{agent_id}/drain", tag = "agents", security(("token" = [])),
    params(("agent_id" = String, Path)), responses((status = 202), (status = 404, body = Problem)))]
pub async fn drain(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    person.must(Deed::Administer)?;
    let missing = || Problem::not_found("agent");
    let id: AgentId = id.parse().map_err(|_| missing())?;
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "agent.drain", "agent", id.as_str()))
        .await?;
    let reason = Some(format!("drained by {}", person.caller.subject));
    if !app.db.set_agent_state(&id, "draining", reason).await? {
        return Err(missing());
    }
    let _stopping = app.nudge.send(Nudge::State(id, AgentState::Draining)).await;
    Ok(StatusCode::ACCEPTED)
}

/// Lets a drained or quarantined agent take work again.
#[utoipa::path(post, path = "/agents/{agent_id}/resume", tag = "agents", security(("token" = [])),
    params(("agent_id" = String, Path)),
    responses((status = 202), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn resume(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    person.must(Deed::Administer)?;
    let missing = || Problem::not_found("agent");
    let id: AgentId = id.parse().map_err(|_| missing())?;
    let row = app.db.agent(&id).await?.ok_or_else(missing)?;
    if row.state == "gone" {
        return Err(missing());
    }
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "agent.resume", "agent", id.as_str()))
        .await?;
    if !app.db.resume_agent(&id).await? && row.state != "ready" {
        let detail =
            "the agent's pool is taking it away; the pool starts another when one is needed";
        return Err(Problem::new(StatusCode::CONFLICT, "agent_leaving", detail));
    }
    let _stopping = app.nudge.send(Nudge::State(id, AgentState::Ready)).await;
    Ok(StatusCode::ACCEPTED)
}

/// A join token to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// Labels that the agent gets.
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    /// How many agents may join with it; 1.
    uses: Option<u32>,
    /// How long it is good, seconds; an hour, at most a day.
    ttl: Option<u64>,
}

/// A join token, shown once.
#[derive(Debug, Serialize, ToSchema)]
pub struct JoinToken {
    join_token: String,
    expires_at: String,
}

/// Makes a join token.
#[utoipa::path(post, path = "/agents/join-tokens", tag = "agents", security(("token" = [])),
    request_body = NewJoinToken, responses((status = 201, body = JoinToken)))]
pub async fn create_join_token(
    State(app): State<Arc<App>>,
    person: Person,
    Body(new): Body<NewJoinToken>,
) -> Result<Response, Problem> {
    person.must(Deed::Administer)?;
    let ttl = Duration::from_secs(new.ttl.unwrap_or(3_600));
    let uses = new.uses.unwrap_or(1);
    if ttl > Duration::from_secs(86_400) || !(1..=1_000).contains(&uses) || new.labels.len() > 100 {
        return Err(Problem::invalid(
            "",
            "out_of_range",
            "at most 1000 uses, one day, 100 labels",
        ));
    }
    let now = app.clock.now();
    let secret = token::mint(Kind::Join, &app.rng);
    let hash = token::hash(Kind::Join, &secret).unwrap_or_default();
    let expires = now.after(ttl);
    app.db
        .audit(person.audit(now, "join_token.create", "join_token", &hash[..8]))
        .await?;
    let labels = serde_json::json!(new.labels).to_string();
    app.db
        .insert_join_token(&hash, &labels, uses, expires, now)
        .await?;
    let body = JoinToken {
        join_token: secret,
        expires_at: shown(expires.as_millis()),
    };
    Ok((StatusCode::CREATED, axum::Json(body)).into_response())
}

/// A stage that waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingStage {
    stage_id: String,
    build_id: String,
    stage_name: String,
    /// Why it waits, in words.
    reason: String,
    ready_since: String,
}

/// Lists what waits for an agent, and why.
#[utoipa::path(get, path = "/queue", tag = "agents", security(("token" = [])),
    responses((status = 200, body = Vec<WaitingStage>), (status = 503, body = Problem)))]
pub async fn queue(State(app): State<Arc<App>>) -> Result<axum::Json<Vec<WaitingStage>>, Problem> {
    let waiting = explain::waiting(&app)
        .await
        .ok_or_else(|| Problem::unavailable("the queue cannot be read now; try again"))?;
    let stages = waiting.iter().map(|w| WaitingStage {
        stage_id: w.stage.to_string(),
        build_id: w.build.to_string(),
        stage_name: w.name.clone(),
        reason: w.reason.clone(),
        ready_since: shown(w.ready_at.as_millis()),
    });
    Ok(axum::Json(stages.collect()))
}
