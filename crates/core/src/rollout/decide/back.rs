//! The way back, from wherever a rollout stands.

use super::Decision;
use crate::pipeline::Strategy;
use crate::rollout::hosts::is_gone;
use crate::rollout::{Effect, Kind, Next, Phase, Plan, StepStatus, TargetView, Transition};

/// How much longer than the drain itself its answer may take.
const DRAIN_SLACK_MS: u64 = 30_000;

impl Decision<'_> {
    /// The way out after something went wrong, from wherever the rollout stands.
    pub(super) fn back(&self, reason: &str) -> Plan {
        let state = &self.s.state;
        let to = |phase, reason: String| Transition::to(phase, state.step_idx).because(reason);
        let mut transition = match (state.traffic_touched, &state.stable, self.s.plan.kind) {
            (true, Some(_), _) => to(Phase::ShiftBack, reason.to_owned()),
            (true, None, _) => to(
                Phase::Failed,
                format!(
                    "{reason}; this was the first deployment, so there is no version to go back \
                     to: the new one keeps the traffic until another deployment replaces it"
                ),
            ),
            (false, _, Kind::Rollout) => to(Phase::Clean, reason.to_owned()),
            // The instances belong to a version that was good; nothing here was made to be removed.
            (false, _, Kind::Rollback) => to(Phase::Failed, reason.to_owned()),
        };
        transition.wish_done = true;
        self.say(Next::Enter(transition), reason)
    }

    /// `SHIFT_BACK`, `VERIFY_BACK`, `HELD`: all traffic to stable, until it is proven.
    pub(super) fn shift_back(&self) -> Plan {
        let state = &self.s.state;
        let late = self.lasted() > self.s.plan.timings.back_ms;
        if late && state.phase != Phase::Held {
            let why =
                "stable could not be proven to have the traffic: somebody must look; tried on";
            let mut held = Transition::to(Phase::Held, state.step_idx);
            held.reason = Some(match &state.reason {
                Some(reason) => format!("{reason}; {why}"),
                None => why.to_owned(),
            });
            return self.say(Next::Enter(held), why);
        }
        // Only what is known to be gone is started again; a target that cannot be read must not
        // delay the way back, the router knows stable's instances.
        let gone = self.observed().target.as_ref().is_some_and(|target| {
            let running = TargetView::running(&target.stable);
            let rolling = self.s.plan.strategy == Strategy::Rolling;
            running == 0 || (rolling && running < target.stable.len())
        });
        let ensuring = state
            .step
            .as_ref()
            .is_some_and(|s| s.effect == Effect::EnsureStable);
        if gone || ensuring {
            return self.drive(Effect::EnsureStable, Some(!gone), None);
        }
        let drain = Transition::to(Phase::DrainNew, state.step_idx);
        self.drive(Effect::Route { new_bp: 0 }, self.routed(0), Some(drain))
    }

    pub(super) fn drain_new(&self) -> Plan {
        let applied = self
            .s
            .state
            .step
            .as_ref()
            .is_some_and(|step| step.status == StepStatus::Applied);
        let limit = self.s.plan.timings.drain_ms.saturating_add(DRAIN_SLACK_MS);
        let next = match self.s.plan.kind {
            Kind::Rollout => Phase::Clean,
            Kind::Rollback => Phase::RolledBack,
        };
        let then = Transition::to(next, self.s.state.step_idx);
        if self.lasted() > limit {
            return self.say(Next::Enter(then), "drain gave no answer in time");
        }
        self.drive(Effect::DrainNew, Some(applied), Some(then))
    }

    pub(super) fn clean(&self) -> Plan {
        let end = if self.s.state.traffic_touched {
            Phase::RolledBack
        } else {
            Phase::Failed
        };
        let then = Transition::to(end, self.s.state.step_idx);
        let limit = self.s.plan.timings.progress_ms;
        if self.lasted() > limit {
            // Left-overs carry this deployment's label and are swept later; traffic is safe.
            return self.say(Next::Enter(then), "the target gave no answer; swept later");
        }
        let gone = self
            .observed()
            .target
            .as_ref()
            .map(|target| is_gone(&target.new, &self.observed().hosts));
        self.drive(Effect::RetireNew, gone, Some(then))
    }
}
