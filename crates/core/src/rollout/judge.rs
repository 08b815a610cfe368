//! What the gates are asked at each step, and how many instances a step needs.

use std::collections::BTreeMap;

use super::phase::Phase;
use super::spec::RolloutPlan;
use super::state::State;
use crate::gate::{
    Bake, CustomKind, GateReport, Instances, Reading, Sample, Tick, judge_bake, judge_watch, theta,
};
use crate::pipeline::Strategy;
use crate::time::Timestamp;
use crate::traffic::FULL_BP;

/// What was counted for a step.
#[derive(Clone, Copy, Debug)]
pub struct Windows<'a> {
    /// Stable before it, at most ten minutes.
    pub baseline: &'a [Tick],
    /// Since it has its weight.
    pub ticks: &'a [Tick],
    /// What is known of instances.
    pub instances: Option<&'a Instances>,
    /// Answers to the user's own gates, by their names.
    pub custom: Option<&'a BTreeMap<String, Vec<Sample>>>,
}

/// Judges the step that the rollout stands at; `None` while it does not look at anything.
#[must_use]
pub fn judge_gates(
    plan: &RolloutPlan,
    state: &State,
    windows: Windows<'_>,
    now: Timestamp,
) -> Option<GateReport> {
    let looking = match (&state.phase, &state.pause) {
        (Phase::Paused, Some(pause)) => pause.from,
        (phase, _) => *phase,
    };
    let step = usize::try_from(state.step_idx).ok();
    let step = step.and_then(|idx| plan.steps.get(idx));
    let bakes = plan.steps.iter().filter(|step| step.weight_bp < FULL_BP);
    let bakes = u32::try_from(bakes.count()).unwrap_or(u32::MAX);
    let counted = |asks: &CustomKind| matches!(asks, CustomKind::Counts { .. });
    let own = plan.gates.custom.iter().filter(|rule| counted(&rule.asks));
    let own = u32::try_from(own.count()).unwrap_or(u32::MAX);
    let bake = Bake {
        rules: &plan.gates,
        theta: theta(bakes.saturating_add(1), own),
        length_ms: match looking {
            Phase::Watch => plan.timings.watch_ms,
            _ => step.map_or(0, |step| step.bake_ms),
        },
        last: state.step_idx.saturating_add(1) >= bakes,
        weight_bp: step.map_or(FULL_BP, |step| step.weight_bp),
        began_at: state.entered_at.as_millis(),
        baseline: windows.baseline,
        ticks: windows.ticks,
        instances: windows.instances,
        custom: windows.custom,
        now: now.as_millis(),
    };
    match looking {
        Phase::Bake => Some(judge_bake(&bake)),
        Phase::Watch => Some(judge_watch(&bake)),
        _ => None,
    }
}

/// Judges a recorded step again: stable's ticks before it, and the readings and answers since. The same
/// numbers give the same verdict.
#[must_use]
pub fn judge_recorded(
    plan: &RolloutPlan,
    step_idx: u32,
    baseline: &[Tick],
    readings: &[Reading],
    custom: &BTreeMap<String, Vec<Sample>>,
) -> Option<GateReport> {
    let (first, last) = (readings.first()?, readings.last()?);
    let ticks: Vec<Tick> = readings
        .iter()
        .zip(readings.iter().skip(1))
        .map(|(before, after)| after.since(before))
        .collect();
    let mut state = State::planned(Timestamp::from_millis(first.at));
    state.step_idx = step_idx;
    let step = usize::try_from(step_idx).ok();
    let weight = step
        .and_then(|idx| plan.steps.get(idx))
        .map(|step| step.weight_bp);
    state.phase = if weight.is_none_or(|weight| weight == FULL_BP) {
        Phase::Watch
    } else {
        Phase::Bake
    };
    let windows = Windows {
        baseline,
        ticks: &ticks,
        instances: None,
        custom: Some(custom),
    };
    judge_gates(plan, &state, windows, Timestamp::from_millis(last.at))
}

/// How many instances of the new version a weight needs: a quarter more than its share, because they
/// are healthy before the weight rises, and traffic is not even.
#[must_use]
pub fn instances_at(plan: &RolloutPlan, weight_bp: u32) -> u32 {
    let all = plan.new.replicas;
    let share = u64::from(all) * u64::from(weight_bp.min(FULL_BP));
    let wanted = match plan.strategy {
        Strategy::BlueGreen => return all,
        Strategy::Canary => (share * 5).div_ceil(u64::from(FULL_BP) * 4),
        // Rolling weights are shares of instances.
        Strategy::Rolling => share.div_ceil(u64::from(FULL_BP)),
    };
    u32::try_from(wanted).unwrap_or(all).clamp(1, all.max(1))
}

/// How many of stable's instances go on beside a new version with this weight.
#[must_use]
pub fn parked_to(stable: usize, new_bp: u32) -> usize {
    let left = u128::from(FULL_BP.saturating_sub(new_bp));
    let keep = (stable as u128 * left).div_ceil(u128::from(FULL_BP));
    usize::try_from(keep).unwrap_or(stable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Kind;
    use crate::rollout::world::plan_of;

    #[test]
    fn a_step_needs_a_quarter_more_than_its_share_and_never_more_than_all() {
        let mut plan = plan_of(Kind::Rollout);
        plan.new.replicas = 10;
        assert_eq!(instances_at(&plan, 100), 10, "blue-green starts all");
        plan.strategy = Strategy::Canary;
        let canary = [100, 1_000, 5_000, 10_000].map(|weight| instances_at(&plan, weight));
        assert_eq!(canary, [1, 2, 7, 10]);
        plan.strategy = Strategy::Rolling;
        let rolling = [2_500, 5_000, 10_000].map(|weight| instances_at(&plan, weight));
        assert_eq!(rolling, [3, 5, 10]);
    }
}
