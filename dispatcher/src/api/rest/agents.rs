//! Agents, join tokens, and what waits for an agent.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slipway_core::access::{Deed, PeerRole};
use slipway_core::id::{AgentId, StageId};
use slipway_core::pipeline::Group;
use slipway_core::queue::{AgentState, Holder};
use utoipa::ToSchema;

use super::body::Body;
use super::time::shown;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::loops::scheduling::explain;
use crate::state::App;
use crate::token::{self, Kind};
use crate::usecases::cut_off_agent::cut_off_agent;

/// An agent.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentView {
    agent_id: String,
    name: String,
    state: String,
    /// Why it is in this state, if somebody or something put it there.
    reason: Option<String>,
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
                    reason: row.reason,
                    slots: row.slots,
                    labels: serde_json::from_str(&row.labels).unwrap_or_default(),
                    facts: serde_json::from_str(&row.facts).unwrap_or_default(),
                    last_seen_at: row.renewed_ms.or(row.connected_ms).map(shown),
                }
            })
            .collect(),
    ))
}

fn missing() -> Problem {
    Problem::not_found("agent")
}

/// The agent that an administrator means.
fn administered(person: &Person, id: &str) -> Result<AgentId, Problem> {
    person.must(Deed::Administer)?;
    id.parse().map_err(|_| missing())
}

/// Drains an agent: it finishes what it holds and takes nothing new.
#[utoipa::path(post, path = "/agents/{agent_id}/drain", tag = "agents", security(("token" = [])),
    params(("agent_id" = String, Path)), responses((status = 202), (status = 404, body = Problem)))]
pub async fn drain(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = administered(&person, &id)?;
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "agent.drain", "agent", id.as_str()))
        .await?;
    let reason = Some(format!("drained by {}", person.caller.subject));
    if !app.db.set_agent_state(&id, "draining", reason).await? {
        return Err(missing());
    }
    app.agent_state(id, AgentState::Draining).await;
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
    let id = administered(&person, &id)?;
    let row = app.db.agent(&id).await?.ok_or_else(missing)?;
    if row.state == "gone" {
        return Err(missing());
    }
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "agent.resume", "agent", id.as_str()))
        .await?;
    if !app.db.resume_agent(&id, now).await? && row.state != "ready" {
        let detail =
            "the agent's pool is taking it away; the pool starts another when one is needed";
        return Err(Problem::new(StatusCode::CONFLICT, "agent_leaving", detail));
    }
    app.agent_state(id, AgentState::Ready).await;
    Ok(StatusCode::ACCEPTED)
}

/// Removes an agent for good: its certificates are worthless at once, its connections are closed, and
/// what it holds is lost to it.
#[utoipa::path(delete, path = "/agents/{agent_id}", tag = "agents", security(("token" = [])),
    params(("agent_id" = String, Path)), responses((status = 204), (status = 404, body = Problem)))]
pub async fn remove(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = administered(&person, &id)?;
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "agent.remove", "agent", id.as_str()))
        .await?;
    let reason = format!("removed by {}", person.caller.subject);
    if !app.db.revoke_peer(id.as_str(), reason, now).await? {
        return Err(missing());
    }
    cut_off_agent(&app, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A join token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// What may join with it: `agent` (the default), `cache` or `deployer`.
    #[serde(default = "agent")]
    #[schema(value_type = String)]
    role: PeerRole,
    /// Labels that the agent gets.
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    /// How many agents may join with it; 1.
    uses: Option<u32>,
    /// How long it is good, seconds; an hour, at most a day.
    ttl: Option<u64>,
}

fn agent() -> PeerRole {
    PeerRole::Agent
}

/// A join token, shown once; with the fingerprint of this installation behind the dot.
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
    if new.role == PeerRole::Dispatcher {
        let why = "a dispatcher does not join: it shares database and key file with the others";
        return Err(Problem::invalid("role", "out_of_range", why));
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
        .insert_role_token(new.role, &hash, &labels, uses, expires, now)
        .await?;
    let body = JoinToken {
        join_token: slipway_identity::JoinToken::new(&secret, &app.authority.fingerprint()).text(),
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

/// Why one stage waits.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueueExplanation {
    stage_id: String,
    /// Why it waits, in words.
    reason: String,
    /// Stages of its repository and kind that go before it; counted up to 10,000.
    ahead: usize,
    /// What is left of a back-off after a lost attempt.
    back_off_ms: u64,
    /// The concurrency group that is full.
    group: Option<FullGroup>,
    /// What the nearest agents lack, nearest first.
    nearest: Vec<NearAgent>,
}

/// A concurrency group that is full.
#[derive(Debug, Serialize, ToSchema)]
pub struct FullGroup {
    name: String,
    limit: u32,
    /// The first ten that hold it.
    holders: Vec<GroupHolder>,
}

/// Who holds a group: a stage on an agent, or a build.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupHolder {
    stage_id: Option<String>,
    agent_id: Option<String>,
    build_id: Option<String>,
}

/// An agent that does not take the stage.
#[derive(Debug, Serialize, ToSchema)]
pub struct NearAgent {
    agent_id: String,
    lacks: String,
}

/// Explains why one stage waits, wherever it is in the queue.
#[utoipa::path(get, path = "/queue/{stage_id}", tag = "agents", security(("token" = [])),
    params(("stage_id" = String, Path)),
    responses((status = 200, body = QueueExplanation), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub async fn queue_explain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<QueueExplanation>, Problem> {
    let missing = || Problem::not_found("stage");
    let id: StageId = id.parse().map_err(|_| missing())?;
    let told = explain::one(&app, id.clone())
        .await
        .ok_or_else(|| Problem::unavailable("the queue cannot be read now; try again"))?;
    let Some(told) = told else {
        let row = app.db.stage(&id).await?.ok_or_else(missing)?;
        return Err(Problem::conflict(
            "not_waiting",
            format!("the stage is {}; it does not wait for an agent", row.state),
        ));
    };
    Ok(axum::Json(QueueExplanation {
        stage_id: id.to_string(),
        reason: told.reason.to_string(),
        ahead: told.ahead,
        back_off_ms: told.back_off,
        group: told.group.map(full_group),
        nearest: told
            .nearest
            .into_iter()
            .map(|(agent, why)| NearAgent {
                agent_id: agent.to_string(),
                lacks: why.to_string(),
            })
            .collect(),
    }))
}

fn full_group(group: slipway_core::queue::FullGroup) -> FullGroup {
    let holder = |holder| match holder {
        Holder::Stage(stage, agent) => GroupHolder {
            stage_id: Some(stage.to_string()),
            agent_id: Some(agent.to_string()),
            build_id: None,
        },
        Holder::Build(build) => GroupHolder {
            stage_id: None,
            agent_id: None,
            build_id: Some(build.to_string()),
        },
    };
    FullGroup {
        name: Group::written(&group.name).to_owned(),
        limit: group.limit,
        holders: group.holders.into_iter().map(holder).collect(),
    }
}
