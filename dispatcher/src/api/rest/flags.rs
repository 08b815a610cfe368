//! Feature flags: their administration.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use slipway_core::access::Deed;
use slipway_core::id::FlagId;
use slipway_store::{FlagRow, StoreError};
use utoipa::ToSchema;

use super::body::Body;
use super::time::shown;
use crate::api::auth::Person;
use crate::api::problem::Problem;
use crate::state::App;

/// Target users of one flag.
const USERS_MAX: usize = 10_000;
/// Flags of one list.
const FLAGS_MAX: u32 = 1_000;
/// Length of one user's key.
const USER_MAX: usize = 256;
/// Percentages are kept in thousandths.
const SCALE: f64 = 1_000.0;

/// A flag to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFlag {
    name: String,
    /// 0–100, at most three decimals.
    #[serde(default)]
    rollout_percentage: f64,
    #[serde(default)]
    target_users: Vec<String>,
}

/// A flag.
#[derive(Debug, Serialize, ToSchema)]
pub struct Flag {
    flag_id: String,
    name: String,
    enabled: bool,
    rollout_percentage: f64,
    target_users: Vec<String>,
    created_at: String,
    updated_at: String,
}

/// A flag's standing.
#[derive(Debug, Serialize, ToSchema)]
pub struct FlagStatus {
    enabled: bool,
    rollout_percentage: f64,
    /// Users named by the flag that it serves now.
    active_users: usize,
}

#[expect(clippy::cast_precision_loss, reason = "0 to 100 000")]
fn percent(thousandths: i64) -> f64 {
    thousandths as f64 / SCALE
}

fn flag(row: FlagRow) -> Flag {
    Flag {
        flag_id: row.flag_id,
        name: row.name,
        enabled: row.enabled == 1,
        rollout_percentage: percent(row.rollout_percentage),
        target_users: serde_json::from_str(&row.target_users).unwrap_or_default(),
        created_at: shown(row.created_at),
        updated_at: shown(row.updated_at),
    }
}

/// Thousandths of a percent; refuses what is out of range or finer.
fn thousandths(value: f64) -> Result<i64, Problem> {
    let scaled = value * SCALE;
    let whole = scaled.round();
    let good = value.is_finite() && (0.0..=100.0).contains(&value) && (scaled - whole).abs() < 1e-6;
    if !good {
        return Err(Problem::invalid(
            "/rollout_percentage",
            "out_of_range",
            "`rollout_percentage` is 0 to 100 with at most three decimals",
        ));
    }
    #[expect(clippy::cast_possible_truncation, reason = "0 to 100 000")]
    Ok(whole as i64)
}

fn users(users: &[String]) -> Result<String, Problem> {
    if users.len() > USERS_MAX || users.iter().any(|u| u.is_empty() || u.len() > USER_MAX) {
        let detail = "`target_users` holds at most 10 000 keys of 1–256 bytes";
        return Err(Problem::invalid("/target_users", "out_of_range", detail));
    }
    Ok(serde_json::json!(users).to_string())
}

/// Makes a flag.
#[utoipa::path(post, path = "/feature-flags", tag = "flags", request_body = NewFlag,
    security(("token" = [])),
    responses((status = 201, body = Flag), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn create(
    State(app): State<Arc<App>>,
    person: Person,
    Body(new): Body<NewFlag>,
) -> Result<Response, Problem> {
    person.must(Deed::Maintain)?;
    let shaped = (1..=128).contains(&new.name.len())
        && new
            .name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'));
    if !shaped {
        let detail = "a flag's name is 1–128 of letters, digits, `.`, `_`, `~` and `-`";
        return Err(Problem::invalid("/name", "invalid_name", detail));
    }
    let now = app.clock.now();
    let id: FlagId = app.rng.id(now);
    let row = FlagRow {
        flag_id: id.to_string(),
        name: new.name,
        enabled: 1,
        rollout_percentage: thousandths(new.rollout_percentage)?,
        target_users: users(&new.target_users)?,
        created_at: now.as_millis(),
        updated_at: now.as_millis(),
    };
    let audit = person.audit(now, "flag.create", "flag", id.as_str());
    app.db.audit(audit).await?;
    app.db.insert_flag(row.clone()).await.map_err(|e| match e {
        StoreError::Conflict(_) => Problem::conflict("flag_exists", "there is a flag of this name"),
        other => other.into(),
    })?;
    Ok((StatusCode::CREATED, axum::Json(flag(row))).into_response())
}

/// Lists flags.
#[utoipa::path(get, path = "/feature-flags", tag = "flags", security(("token" = [])),
    responses((status = 200, body = Vec<Flag>)))]
pub async fn list(State(app): State<Arc<App>>) -> Result<axum::Json<Vec<Flag>>, Problem> {
    let rows = app.db.flags(FLAGS_MAX).await?;
    Ok(axum::Json(rows.into_iter().map(flag).collect()))
}

async fn found(app: &App, id: &str) -> Result<FlagRow, Problem> {
    let missing = || Problem::not_found("flag");
    let id: FlagId = id.parse().map_err(|_| missing())?;
    app.db.flag(&id).await?.ok_or_else(missing)
}

/// Shows a flag's standing.
#[utoipa::path(get, path = "/feature-flags/{flag_id}/status", tag = "flags", security(("token" = [])),
    params(("flag_id" = String, Path)), responses((status = 200, body = FlagStatus)))]
pub async fn status(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<FlagStatus>, Problem> {
    let flag = flag(found(&app, &id).await?);
    Ok(axum::Json(FlagStatus {
        enabled: flag.enabled,
        rollout_percentage: flag.rollout_percentage,
        active_users: if flag.enabled {
            flag.target_users.len()
        } else {
            0
        },
    }))
}

/// What to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    enabled: Option<bool>,
    rollout_percentage: Option<f64>,
    target_users: Option<Vec<String>>,
}

/// Changes a flag.
#[utoipa::path(patch, path = "/feature-flags/{flag_id}", tag = "flags", security(("token" = [])),
    params(("flag_id" = String, Path)), request_body = Change,
    responses((status = 200, body = Flag), (status = 422, body = Problem)))]
pub async fn change(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
    Body(change): Body<Change>,
) -> Result<axum::Json<Flag>, Problem> {
    person.must(Deed::Maintain)?;
    let mut row = found(&app, &id).await?;
    if let Some(enabled) = change.enabled {
        row.enabled = i64::from(enabled);
    }
    if let Some(percentage) = change.rollout_percentage {
        row.rollout_percentage = thousandths(percentage)?;
    }
    if let Some(named) = &change.target_users {
        row.target_users = users(named)?;
    }
    let now = app.clock.now();
    row.updated_at = now.as_millis();
    app.db
        .audit(person.audit(now, "flag.change", "flag", &row.flag_id))
        .await?;
    app.db.update_flag(row.clone(), now).await?;
    Ok(axum::Json(flag(row)))
}

/// Removes a flag.
#[utoipa::path(delete, path = "/feature-flags/{flag_id}", tag = "flags", security(("token" = [])),
    params(("flag_id" = String, Path)),
    responses((status = 204, description = "It is gone."), (status = 404, body = Problem)))]
pub async fn remove(
    State(app): State<Arc<App>>,
    person: Person,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    person.must(Deed::Maintain)?;
    let row = found(&app, &id).await?;
    let now = app.clock.now();
    let audit = person.audit(now, "flag.remove", "flag", &row.flag_id);
    app.db.audit(audit).await?;
    let id: FlagId = row
        .flag_id
        .parse()
        .map_err(|_| Problem::not_found("flag"))?;
    app.db.delete_flag(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
