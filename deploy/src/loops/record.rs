//! Keeps what was seen while a version had traffic: at each change of verdict, and now and then.

use std::time::Duration;

use slipway_core::rollout::{Phase, RULE_VERSION, Snapshot, Verdict, judge_traffic};
use slipway_store::RolloutHealthRow;

use crate::run::Coordinator;

/// Between two looks with the same verdict.
const EVERY: Duration = Duration::from_secs(30);

/// The last look that was kept.
#[derive(Default)]
pub(super) struct LastLook {
    kept: Option<(Duration, &'static str)>,
}

/// Keeps this look when it says something new. Failing to keep it stops nothing: it is history.
pub(super) async fn record(
    coordinator: &Coordinator,
    last: &mut LastLook,
    id: &str,
    snapshot: &Snapshot,
) {
    let looking = matches!(snapshot.state.phase, Phase::Bake | Phase::Watch);
    let (true, Some(traffic)) = (looking, &snapshot.observed.traffic) else {
        return;
    };
    let base = snapshot.state.base.clone().unwrap_or_default();
    let verdict = judge_traffic(&base, &traffic.new, snapshot.plan.limits);
    let word = match verdict {
        Verdict::Good { .. } => "good",
        Verdict::TooFew { .. } => "too_few_requests",
        Verdict::Bad(_) => "bad",
    };
    let now = coordinator.clock.monotonic();
    if last
        .kept
        .is_some_and(|(at, known)| known == word && now.saturating_sub(at) < EVERY)
    {
        return;
    }
    last.kept = Some((now, word));
    let current = match verdict {
        Verdict::Good { requests, bad } => Some(share(bad, requests)),
        _ => None,
    };
    let row = RolloutHealthRow {
        health_id: coordinator.rng.ulid(coordinator.clock.now()),
        deployment_id: id.to_owned(),
        metric_name: "error_rate".to_owned(),
        baseline_value: Some(share(base.stable_bad_ppm, 1_000_000)),
        current_value: current,
        threshold_alert: i64::from(word == "bad"),
        checked_at: coordinator.clock.now().as_millis(),
        step_idx: i64::from(snapshot.state.step_idx),
        verdict: word.to_owned(),
        evidence_json: serde_json::json!({
            "base": base,
            "now": traffic.new,
            "text": match &verdict { Verdict::Bad(text) => text.as_str(), _ => "" },
        })
        .to_string(),
        rule_version: RULE_VERSION.to_owned(),
    };
    if let Err(error) = coordinator.db.record_rollout_health(row).await {
        tracing::warn!(rollout = id, %error, "cannot keep a look at health");
    }
}

/// For people: exact enough below a billion requests.
#[expect(clippy::cast_precision_loss, reason = "a share shown to people")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
