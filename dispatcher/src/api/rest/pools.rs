//! Pools of agents: their settings, what they have, and why.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use slipway_core::access::Deed;
use slipway_core::fleet::{PoolReport, PoolSettings, Provider, is_pool_name};
use slipway_store::{MachineRow, PoolRow};
use utoipa::ToSchema;

use super::body::Body;
use super::time::shown;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::fleet::{allowed_program, allowed_webhook};
use crate::loops::scaling::signing_place;
use crate::state::App;

/// Pools of one installation: each is asked, planned and measured on its own.
const POOLS_MAX: usize = 50;
/// A signing key of fewer characters can be guessed.
const KEY_MIN: usize = 32;
/// A signing key of more is a mistake.
const KEY_MAX: usize = 1_000;

/// A pool, as it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolView {
    pool: String,
    /// As they were given, with what was left out.
    #[schema(value_type = Object)]
    settings: serde_json::Value,
    /// Whether it is only being emptied.
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<PoolNow>,
}

/// The size of a pool.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoolNow {
    desired: u32,
    ready: u32,
    booting: u32,
    draining: u32,
    leaving: u32,
    busy_slots: u32,
    waiting_stages: u32,
    agent_hours_today: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<String>,
}

impl From<&PoolReport> for PoolNow {
    fn from(report: &PoolReport) -> Self {
        Self {
            desired: report.desired,
            ready: report.ready,
            booting: report.booting,
            draining: report.draining,
            leaving: report.leaving,
            busy_slots: report.busy_slots,
            waiting_stages: report.waiting + report.unmet,
            agent_hours_today: report.spent.as_secs_f64() / 3_600.0,
            degraded: report.degraded.as_ref().map(ToString::to_string),
        }
    }
}

fn view(app: &App, row: PoolRow) -> PoolView {
    let reports = app.fleet.reports.borrow().clone();
    PoolView {
        now: reports.get(&row.pool).map(PoolNow::from),
        settings: serde_json::from_str(&row.settings).unwrap_or_default(),
        removed: row.removed_ms.is_some(),
        pool: row.pool,
    }
}

async fn row(app: &App, pool: &str) -> Result<PoolRow, Problem> {
    let rows = app.db.pools().await?;
    let found = rows.into_iter().find(|row| row.pool == pool);
    found.ok_or_else(|| Problem::not_found("pool"))
}

/// Lists pools of agents.
#[utoipa::path(get, path = "/pools", tag = "pools", security(("token" = [])),
    responses((status = 200, body = Vec<PoolView>)))]
pub async fn list(State(app): State<Arc<App>>) -> Result<axum::Json<Vec<PoolView>>, Problem> {
    let rows = app.db.pools().await?;
    Ok(axum::Json(
        rows.into_iter().map(|row| view(&app, row)).collect(),
    ))
}

/// Shows a pool.
#[utoipa::path(get, path = "/pools/{pool}", tag = "pools", security(("token" = [])),
    params(("pool" = String, Path)),
    responses((status = 200, body = PoolView), (status = 404, body = Problem)))]
pub async fn show(
    State(app): State<Arc<App>>,
    Path(pool): Path<String>,
) -> Result<axum::Json<PoolView>, Problem> {
    let row = row(&app, &pool).await?;
    Ok(axum::Json(view(&app, row)))
}

/// A pool to be made or changed: its settings, and for webhooks a key.
#[derive(Deserialize, ToSchema)]
pub struct NewPool {
    /// Signs calls to a webhook; kept sealed, never shown. Left out = the present one stays.
    signing_key: Option<String>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    settings: serde_json::Map<String, serde_json::Value>,
}

/// Makes or changes a pool.
#[utoipa::path(put, path = "/pools/{pool}", tag = "pools", security(("token" = [])), request_body = NewPool,
    params(("pool" = String, Path)),
    responses((status = 200, body = PoolView), (status = 422, body = Problem)))]
pub async fn put(
    State(app): State<Arc<App>>,
    person: Person,
    Path(pool): Path<String>,
    Body(new): Body<NewPool>,
) -> Result<axum::Json<PoolView>, Problem> {
    person.must(Deed::Administer)?;
    if !is_pool_name(&pool) {
        let detail = "a pool's name is 1–40 of a–z, 0–9 and `-`";
        return Err(Problem::invalid("/pool", "invalid_pool_name", detail));
    }
    let settings: PoolSettings = serde_json::from_value(new.settings.into())
        .map_err(|e| Problem::invalid("", "invalid_pool", e.to_string()))?;
    settings.check().map_err(|e| {
        Problem::invalid(
            &format!("/{}", e.field.replace('.', "/")),
            "invalid_pool",
            e.to_string(),
        )
    })?;
    allowed(&app, &settings)?;
    let rows = app.db.pools().await?;
    let known = rows.iter().find(|row| row.pool == pool);
    if known.is_none() && rows.len() >= POOLS_MAX {
        let detail = format!("there are {POOLS_MAX} pools already");
        return Err(Problem::invalid("", "too_many_pools", detail));
    }
    let has_key = known.is_some_and(|row| row.signing_key.is_some());
    let key = signing_key(&app, &pool, &settings, new.signing_key, has_key)?;
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "pool.set", "pool", &pool))
        .await?;
    let text = serde_json::json!(settings).to_string();
    app.db.put_pool(&pool, &text, key, now).await?;
    app.fleet.bell.notify_one();
    let row = row(&app, &pool).await?;
    Ok(axum::Json(view(&app, row)))
}

fn allowed(app: &App, settings: &PoolSettings) -> Result<(), Problem> {
    let config = &app.settings.fleet;
    let checked = match &settings.provider {
        Provider::Exec { program } => allowed_program(config, program),
        Provider::Webhook { url } => allowed_webhook(config, url),
        _ => Ok(()),
    };
    checked.map_err(|e| Problem::invalid("/provider", "provider_not_allowed", e.to_string()))
}

fn signing_key(
    app: &App,
    pool: &str,
    settings: &PoolSettings,
    given: Option<String>,
    has_key: bool,
) -> Result<Option<Vec<u8>>, Problem> {
    let invalid = |detail: &str| Err(Problem::invalid("/signing_key", "invalid_key", detail));
    let webhook = matches!(settings.provider, Provider::Webhook { .. });
    match given {
        None if webhook && !has_key => {
            invalid("calls to a webhook are signed; give a `signing_key`")
        }
        None => Ok(None),
        Some(_) if !webhook => invalid("only calls to a webhook are signed"),
        Some(key) if !(KEY_MIN..=KEY_MAX).contains(&key.len()) => {
            invalid("a signing key has 32 to 1000 characters")
        }
        Some(key) => {
            let sealed = app.seal.seal(&signing_place(pool), key.as_bytes());
            sealed
                .map(Some)
                .map_err(|e| Problem::unavailable(&e.to_string()))
        }
    }
}

/// Removes a pool: its agents finish what they hold and go.
#[utoipa::path(delete, path = "/pools/{pool}", tag = "pools", security(("token" = [])),
    params(("pool" = String, Path)),
    responses((status = 202), (status = 404, body = Problem)))]
pub async fn remove(
    State(app): State<Arc<App>>,
    person: Person,
    Path(pool): Path<String>,
) -> Result<StatusCode, Problem> {
    person.must(Deed::Administer)?;
    row(&app, &pool).await?;
    let now = app.clock.now();
    app.db
        .audit(person.audit(now, "pool.remove", "pool", &pool))
        .await?;
    app.db.remove_pool(&pool, now).await?;
    app.fleet.bell.notify_one();
    Ok(StatusCode::ACCEPTED)
}

/// One machine of a pool.
#[derive(Debug, Serialize, ToSchema)]
pub struct MachineView {
    agent_id: String,
    machine: Option<String>,
    state: String,
    created_at: String,
    /// From its order to its agent's first word, milliseconds.
    boot_ms: Option<i64>,
    error: Option<String>,
}

impl From<MachineRow> for MachineView {
    fn from(row: MachineRow) -> Self {
        Self {
            boot_ms: row.ready_ms.map(|at| at - row.created_ms),
            created_at: shown(row.created_ms),
            agent_id: row.agent_id,
            machine: row.machine,
            state: row.state,
            error: row.error,
        }
    }
}

/// Why a pool has the size it has.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explained {
    pool: String,
    now: Option<PoolNow>,
    /// In words.
    reasons: Vec<String>,
    machines: Vec<MachineView>,
}

/// Says why a pool has the size it has.
#[utoipa::path(get, path = "/pools/{pool}/explain", tag = "pools", security(("token" = [])),
    params(("pool" = String, Path)),
    responses((status = 200, body = Explained), (status = 404, body = Problem)))]
pub async fn explain(
    State(app): State<Arc<App>>,
    Path(pool): Path<String>,
) -> Result<axum::Json<Explained>, Problem> {
    let row = row(&app, &pool).await?;
    let report = app.fleet.reports.borrow().get(&pool).cloned();
    let mut reasons = report.as_ref().map_or_else(
        || vec!["the pool has not been planned yet".to_owned()],
        PoolReport::sentences,
    );
    if row.removed_ms.is_some() {
        reasons.push("the pool is removed, and gone once its last agent is".to_owned());
    }
    let machines = app.db.machines().await?.into_iter();
    let machines: Vec<MachineRow> = machines.filter(|m| m.pool == pool).collect();
    for machine in &machines {
        if let Some(error) = &machine.error {
            reasons.push(format!(
                "agent {} ({}): {error}",
                machine.agent_id, machine.state
            ));
        }
    }
    Ok(axum::Json(Explained {
        now: report.as_ref().map(PoolNow::from),
        machines: machines.into_iter().map(MachineView::from).collect(),
        reasons,
        pool,
    }))
}

/// Numbers for KEDA's `metrics-api` scaler.
#[derive(Debug, Serialize, ToSchema)]
pub struct Metric {
    /// Agents that are wanted.
    desired: u32,
    /// Stages that need a further agent.
    queued: u32,
}

/// How many agents a pool wants, as plain numbers.
#[utoipa::path(get, path = "/pools/{pool}/metric", tag = "pools", security(("token" = [])),
    params(("pool" = String, Path)),
    responses((status = 200, body = Metric), (status = 404, body = Problem)))]
pub async fn metric(
    State(app): State<Arc<App>>,
    Path(pool): Path<String>,
) -> Result<axum::Json<Metric>, Problem> {
    let report = app.fleet.reports.borrow().get(&pool).cloned();
    let report = report.ok_or_else(|| Problem::not_found("pool"))?;
    Ok(axum::Json(Metric {
        desired: report.desired,
        queued: report.waiting + report.unmet,
    }))
}
