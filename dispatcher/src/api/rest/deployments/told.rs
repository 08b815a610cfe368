//! What a deployment tells people: its gates' last words, an explanation, and its verdicts judged again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use serde::Serialize;
use slipway_core::gate::{self, Reading, Tick};
use slipway_core::rollout::{self, RolloutPlan, explain, judge_recorded};
use slipway_store::RolloutRow;
use utoipa::ToSchema;

use super::LOOKS_MAX;
use crate::api::problem::Problem;
use crate::state::App;

/// Readings of one step that are judged again.
const READINGS_MAX: u32 = 20_000;

/// What each gate said last.
pub(super) async fn gates(app: &App, id: &str) -> Result<Vec<serde_json::Value>, Problem> {
    let mut last = BTreeMap::new();
    for look in app.db.rollout_health(id, LOOKS_MAX).await? {
        last.insert(look.metric_name.clone(), look);
    }
    let said = last.into_values().map(|look| {
        let evidence: serde_json::Value =
            serde_json::from_str(&look.evidence_json).unwrap_or_default();
        serde_json::json!({
            "metric": look.metric_name, "verdict": look.verdict, "step": look.step_idx,
            "text": evidence["text"], "detectable": evidence["detectable"],
        })
    });
    Ok(said.collect())
}

/// The deployment in sentences; empty when its plan cannot be read.
pub(super) fn explanation(app: &App, row: &RolloutRow, gates: &[serde_json::Value]) -> Vec<String> {
    let plan = serde_json::from_str::<RolloutPlan>(&row.plan_json);
    let state = serde_json::from_str::<rollout::State>(&row.state_json);
    let (Ok(plan), Ok(state)) = (plan, state) else {
        return Vec::new();
    };
    let said: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let (metric, text) = (gate["metric"].as_str()?, gate["text"].as_str()?);
            Some(format!("{metric}: {text}"))
        })
        .collect();
    explain(&plan, &state, &said, app.clock.now())
}

/// A step's verdicts, judged again from what was kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    step: u32,
    verdict: String,
    text: String,
    readings: usize,
    report: serde_json::Value,
}

/// Judges a deployment's recorded readings again.
#[utoipa::path(get, path = "/deployments/{deployment_id}/replay", tag = "deployments",
    security(("token" = [])), params(("deployment_id" = String, Path)),
    responses((status = 200, body = Vec<Replayed>), (status = 404, body = Problem)))]
pub async fn replay(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Vec<Replayed>>, Problem> {
    let row = app.db.rollout(&id).await?;
    let row = row.ok_or_else(|| Problem::not_found("deployment"))?;
    let plan: RolloutPlan = serde_json::from_str(&row.plan_json)
        .map_err(|_| Problem::conflict("no_plan", "the deployment's plan cannot be read"))?;
    let mut all = Vec::new();
    for (step, _) in (0_u32..).zip(&plan.steps) {
        let rows = app.db.gate_ticks(&id, step, READINGS_MAX).await?;
        let kept = |source: &'static str| rows.iter().filter(move |row| row.source == source);
        let baseline: Vec<Tick> = kept("baseline")
            .filter_map(|row| serde_json::from_str(&row.counters_json).ok())
            .collect();
        let readings: Vec<Reading> = kept("router")
            .filter_map(|row| serde_json::from_str(&row.counters_json).ok())
            .collect();
        let pairs = rows.iter();
        let pairs = pairs.map(|row| (row.source.as_str(), row.counters_json.as_str()));
        let answers = gate::answers(pairs);
        let Some(report) = judge_recorded(&plan, step, &baseline, &readings, &answers) else {
            continue;
        };
        all.push(Replayed {
            step,
            verdict: report.worst().as_str().to_owned(),
            text: report.text(),
            readings: readings.len(),
            report: serde_json::to_value(&report).unwrap_or_default(),
        });
    }
    Ok(axum::Json(all))
}
