//! Keeps what the gates said: at each change of verdict, and now and then.

use std::collections::BTreeMap;
use std::time::Duration;

use slipway_core::gate::{GateReport, MetricVerdict, RULE_VERSION, Verdict};
use slipway_core::rollout::Snapshot;
use slipway_store::RolloutHealthRow;

use crate::run::Coordinator;

/// Between two looks with the same verdict.
const EVERY: Duration = Duration::from_secs(30);

/// The last looks that were kept, by metric.
#[derive(Default)]
pub(super) struct LastLook {
    kept: BTreeMap<String, (Duration, &'static str, u32)>,
}

/// Keeps this look where it says something new. Failing to keep it stops nothing: it is history.
pub(super) async fn record(
    coordinator: &Coordinator,
    last: &mut LastLook,
    id: &str,
    snapshot: &Snapshot,
) {
    let Some(report) = &snapshot.observed.gates else {
        return;
    };
    let now = coordinator.clock.monotonic();
    let step = snapshot.state.step_idx;
    for one in &report.verdicts {
        let word = word(report, one);
        let known = last.kept.get(one.called());
        if known.is_some_and(|(at, before, at_step)| {
            *before == word && *at_step == step && now.saturating_sub(*at) < EVERY
        }) {
            continue;
        }
        last.kept.insert(one.called().to_owned(), (now, word, step));
        let row = row(coordinator, id, step, report, one);
        if let Err(error) = coordinator.db.record_rollout_health(row).await {
            tracing::warn!(rollout = id, %error, "cannot keep a look at health");
        }
    }
}

/// What cannot be judged is blind, whatever the counts before it said.
fn word(report: &GateReport, one: &MetricVerdict) -> &'static str {
    if report.blind.is_some() && one.verdict != Verdict::Abort {
        return Verdict::Blind.as_str();
    }
    one.verdict.as_str()
}

fn row(
    coordinator: &Coordinator,
    id: &str,
    step: u32,
    report: &GateReport,
    one: &MetricVerdict,
) -> RolloutHealthRow {
    let at = coordinator.clock.now();
    let mut evidence = one.evidence.clone();
    if let Some(map) = evidence.as_object_mut() {
        map.insert("text".to_owned(), one.text.clone().into());
        map.insert("elapsed_ms".to_owned(), report.elapsed_ms.into());
        map.insert("dry_run".to_owned(), one.dry_run.into());
        if let Some(blind) = &report.blind {
            map.insert("blind".to_owned(), blind.clone().into());
        }
    }
    RolloutHealthRow {
        health_id: coordinator.rng.ulid(at),
        deployment_id: id.to_owned(),
        metric_name: one.called().to_owned(),
        baseline_value: Some(one.baseline),
        current_value: Some(one.current),
        threshold_alert: i64::from(one.verdict == Verdict::Abort),
        checked_at: at.as_millis(),
        step_idx: i64::from(step),
        verdict: word(report, one).to_owned(),
        evidence_json: evidence.to_string(),
        rule_version: RULE_VERSION.to_owned(),
    }
}
