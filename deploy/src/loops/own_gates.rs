//! The user's own gates: asks what is due, keeps each answer before it counts.

use std::collections::BTreeMap;

use slipway_core::gate::{self, ANSWERS, CustomKind, CustomRule, Sample};
use slipway_core::rollout::State;
use slipway_store::{GateTickRow, RolloutRow, StoreError};

use super::drive::Driver;
use super::gates::json;

/// Answers by the gates' names, oldest first.
pub(super) type Answers = BTreeMap<String, Vec<Sample>>;

/// What is kept.
pub(super) fn restore(rows: &[GateTickRow]) -> Answers {
    let pairs = rows
        .iter()
        .map(|row| (row.source.as_str(), row.counters_json.as_str()));
    gate::answers(pairs)
}

/// Asks every gate that is due, all at once.
pub(super) async fn ask(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
) -> Result<(), StoreError> {
    let now = driver.coordinator.clock.now().as_millis();
    let Some(window) = driver.memory.window.as_mut() else {
        return Ok(());
    };
    let due = |rule: &&CustomRule| {
        let last = window.answers.get(&rule.name).and_then(|all| all.last());
        let interval = i64::try_from(rule.interval_ms).unwrap_or(i64::MAX);
        last.is_none_or(|last| now.saturating_sub(last.at) >= interval)
    };
    let due: Vec<CustomRule> = driver
        .plan
        .gates
        .custom
        .iter()
        .filter(due)
        .cloned()
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    let asked = due.iter().map(|rule| answer(driver, state, rule, now));
    let samples = futures::future::join_all(asked).await;
    let mut rows = Vec::with_capacity(due.len());
    let Some(window) = driver.memory.window.as_mut() else {
        return Ok(());
    };
    for (rule, sample) in due.iter().zip(&samples) {
        let known = window.answers.entry(rule.name.clone()).or_default();
        rows.push(GateTickRow {
            deployment_id: driver.id.to_owned(),
            step_idx: i64::from(state.step_idx),
            seq: i64::try_from(known.len()).unwrap_or(i64::MAX),
            source: format!("{ANSWERS}{}", rule.name),
            boot_id: String::new(),
            t0: known.last().map_or(sample.at, |last| last.at),
            t1: sample.at,
            counters_json: json(sample)?,
        });
    }
    driver
        .coordinator
        .db
        .keep_gate_ticks(rows, row.token)
        .await?;
    for (rule, sample) in due.into_iter().zip(samples) {
        window.answers.entry(rule.name).or_default().push(sample);
    }
    Ok(())
}

async fn answer(driver: &Driver<'_>, state: &State, rule: &CustomRule, at: i64) -> Sample {
    match answered(driver, state, rule, at).await {
        Ok(sample) => sample,
        Err(why) => Sample::missing(at, why),
    }
}

async fn answered(
    driver: &Driver<'_>,
    state: &State,
    rule: &CustomRule,
    at: i64,
) -> Result<Sample, String> {
    let source = driver.adapters.metrics.as_ref();
    let source = source.ok_or("the environment has no `prometheus` on this server")?;
    let new = driver.plan.new.version_id.as_str();
    let of = |query: &str, version: &str| {
        let query = query
            .replace("$version", version)
            .replace("$service", &driver.plan.service)
            .replace("$environment", &driver.plan.environment);
        async move { source.ask(&query).await.map_err(|error| error.to_string()) }
    };
    match &rule.asks {
        CustomKind::Threshold { query, .. } => Ok(Sample::value(at, of(query, new).await?)),
        CustomKind::Counts { bad, total, .. } => {
            let stable = state.stable.as_deref().unwrap_or_default();
            // A version that never failed has no series of failures yet.
            let bad_of = |version| async move {
                match of(bad, version).await {
                    Err(why) if why.ends_with("gave no series") => Ok(0.0),
                    other => other,
                }
            };
            let (a, b, c, d) = tokio::try_join!(
                bad_of(new),
                of(total, new),
                bad_of(stable),
                of(total, stable)
            )?;
            Ok(Sample::counts(at, [a, b, c, d]))
        }
    }
}
