//! A rollout in sentences: where it stands, what the gates last said, what comes next and when, and whom
//! it waits for.

use super::phase::Phase;
use super::spec::{Kind, RolloutPlan};
use super::state::{PauseWhy, State};
use crate::pipeline::Strategy;
use crate::time::Timestamp;
use crate::traffic::FULL_BP;

/// Explains. `verdicts` are the gates' last sentences.
#[must_use]
pub fn explain(
    plan: &RolloutPlan,
    state: &State,
    verdicts: &[String],
    now: Timestamp,
) -> Vec<String> {
    let mut lines = vec![headline(plan, state)];
    if !plan.steps.is_empty() && plan.strategy != Strategy::BlueGreen {
        lines.push(format!("Steps: {}.", steps(plan, state)));
    }
    lines.extend(verdicts.iter().map(|text| format!("Gates: {text}")));
    lines.extend(state.hosts.iter().map(|host| {
        let silent = u64::try_from(now.since(host.since).as_millis()).unwrap_or(0);
        format!("Hosts: {}, for {}.", host.text, seconds(silent))
    }));
    if let Some(reason) = &state.reason {
        lines.push(format!("Why: {reason}"));
    }
    lines.push(next(plan, state, now));
    lines
}

fn headline(plan: &RolloutPlan, state: &State) -> String {
    let what = match (plan.kind, plan.strategy) {
        (Kind::Rollback, _) => "Rollback",
        (_, Strategy::Canary) => "Canary",
        (_, Strategy::BlueGreen) => "Blue-green rollout",
        (_, Strategy::Rolling) => "Rolling rollout",
    };
    let (service, environment) = (&plan.service, &plan.environment);
    let version = &plan.new.version_id;
    format!(
        "{what} of {service} to version {version} in {environment}: {}.",
        place(plan, state)
    )
}

fn place(plan: &RolloutPlan, state: &State) -> String {
    let weight = percent(weight(plan, state.step_idx));
    match state.phase {
        Phase::Planned => "checked, and waits for what must come before it".to_owned(),
        Phase::AwaitApproval => "waits for approval".to_owned(),
        Phase::WaitLock => {
            "waits for its turn: another rollout of this service goes first".to_owned()
        }
        Phase::Prepare => "instances are started".to_owned(),
        Phase::Warm => "instances must become healthy".to_owned(),
        Phase::Smoke => "smoke checks, before any traffic".to_owned(),
        Phase::Shift => format!("traffic moves to {weight}"),
        Phase::Bake => format!("has {weight} of the traffic while the gates look"),
        Phase::Watch => "has all traffic, and is watched".to_owned(),
        Phase::Paused => format!("paused at {weight}"),
        Phase::Succeeded => "done, all traffic is on it".to_owned(),
        Phase::ShiftBack | Phase::VerifyBack => "traffic goes back to stable".to_owned(),
        Phase::DrainNew => "stable has all traffic; open requests are finished".to_owned(),
        Phase::Clean => "its instances are removed".to_owned(),
        Phase::Failed => "failed".to_owned(),
        Phase::RolledBack => "rolled back; stable has all traffic".to_owned(),
        Phase::Held => "HELD: stable could not be proven to have the traffic".to_owned(),
    }
}

fn steps(plan: &RolloutPlan, state: &State) -> String {
    let marked = (0_u32..).zip(&plan.steps).map(|(idx, step)| {
        let text = percent(step.weight_bp);
        let here = idx == state.step_idx && !state.phase.is_terminal();
        if here { format!("[{text}]") } else { text }
    });
    marked.collect::<Vec<_>>().join(" → ")
}

fn next(plan: &RolloutPlan, state: &State, now: Timestamp) -> String {
    let left = |length_ms: u64| {
        let gone = u64::try_from(now.since(state.entered_at).as_millis()).unwrap_or(u64::MAX);
        seconds(length_ms.saturating_sub(gone))
    };
    match state.phase {
        Phase::AwaitApproval => match &plan.approval {
            Some(rule) if rule.approver_not_initiator => format!(
                "Next: {} approval(s), not by {}.",
                rule.min_approvals,
                plan.initiators
                    .iter()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
            Some(rule) => format!("Next: {} approval(s).", rule.min_approvals),
            None => "Next: its turn.".to_owned(),
        },
        Phase::Bake => {
            let after = percent(weight(plan, state.step_idx.saturating_add(1)));
            let bake = usize::try_from(state.step_idx).ok();
            let bake = bake
                .and_then(|idx| plan.steps.get(idx))
                .map_or(0, |step| step.bake_ms);
            format!(
                "Next: {after} when the gates agree, in {} at the earliest.",
                left(bake)
            )
        }
        Phase::Watch => format!(
            "Next: done, in {}, unless it fails.",
            left(plan.timings.watch_ms)
        ),
        Phase::Paused => {
            let until = state.pause.as_ref().map_or(now, |pause| pause.deadline);
            let rest = u64::try_from(until.since(now).as_millis()).unwrap_or(0);
            let ends = format!("it goes back by itself in {}", seconds(rest));
            match state.pause.as_ref().map(|pause| pause.why) {
                Some(PauseWhy::Approval) => {
                    format!("Next: an approver resumes it, or {ends}.")
                }
                Some(PauseWhy::Blind) => {
                    format!("Next: it goes on when counters are back, or {ends}.")
                }
                Some(PauseWhy::Foreign) => {
                    format!(
                        "Next: somebody puts the route back and resumes it, or aborts it (which \
                         takes the route back), or {ends}."
                    )
                }
                _ => format!("Next: somebody resumes, promotes or aborts it, or {ends}."),
            }
        }
        Phase::Held => "Next: it keeps trying; somebody must look at the router.".to_owned(),
        phase if phase.is_terminal() => "Next: nothing; it has ended.".to_owned(),
        phase if phase.is_going_back() => "Next: its instances are drained and removed.".to_owned(),
        _ => format!(
            "Next: {} of the traffic, once it is healthy.",
            percent(weight(plan, state.step_idx))
        ),
    }
}

fn weight(plan: &RolloutPlan, idx: u32) -> u32 {
    let step = usize::try_from(idx).ok();
    step.and_then(|idx| plan.steps.get(idx))
        .map_or(FULL_BP, |step| step.weight_bp)
}

fn percent(bp: u32) -> String {
    if bp.is_multiple_of(100) {
        format!("{} %", bp / 100)
    } else {
        format!("{}.{:02} %", bp / 100, bp % 100)
    }
}

fn seconds(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    if seconds >= 120 {
        format!("{} min", seconds.div_ceil(60))
    } else {
        format!("{seconds} s")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rollout::world::plan_of;
    use crate::rollout::{Step, Transition};

    #[test]
    fn every_phase_says_where_it_stands_and_what_comes_next() {
        let mut plan = plan_of(Kind::Rollout);
        plan.strategy = Strategy::Canary;
        plan.steps = [(100, 300_000), (10_000, 0)]
            .map(|(weight_bp, bake_ms)| Step {
                weight_bp,
                bake_ms,
                approval: false,
            })
            .to_vec();
        let began = Timestamp::from_millis(1_000_000);
        let planned = State::planned(began);
        let now = began.after(Duration::from_secs(60));
        for (phase, _) in Phase::ALL {
            let state = planned.entered(&Transition::to(phase, 0), began, 3_600_000);
            let lines = explain(&plan, &state, &["2 of 300 failed.".to_owned()], now);
            assert!(
                lines.len() >= 4 && lines.iter().all(|line| line.len() > 10),
                "{lines:?}"
            );
        }
        let bake = planned.entered(&Transition::to(Phase::Bake, 0), began, 0);
        let lines = explain(&plan, &bake, &[], now);
        assert_eq!(
            lines,
            [
                "Canary of shop to version 01NEW in production: has 1 % of the traffic while the \
                 gates look.",
                "Steps: [1 %] → 100 %.",
                "Next: 100 % when the gates agree, in 4 min at the earliest.",
            ]
        );
    }
}
