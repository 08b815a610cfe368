//! The decision: one thing to do, from one snapshot. What comes before the first effect is in
//! `start`, what follows from looking in `look`, the way back in `back`.

mod back;
mod look;
mod start;

use std::time::Duration;

use crate::pipeline::Strategy;
use crate::rollout::Kind;
use crate::rollout::hosts::standing;
use crate::rollout::judge::{instances_at, parked_to};
use crate::rollout::lock::SAFETY_MARGIN;
use crate::rollout::phase::Phase;
use crate::rollout::snapshot::{
    InstanceView, LockView, Next, Observed, Plan, Smoke, Snapshot, TargetView, Wish,
};
use crate::rollout::state::{Effect, PauseWhy, StepStatus, Transition};
use crate::time::Timestamp;
use crate::traffic::{FULL_BP, Fence};

/// How often a rollout that waits is looked at without being asked.
const TICK: Duration = Duration::from_secs(5);
/// How often something that is about to change is looked at.
const SOON: Duration = Duration::from_millis(250);
/// A target that says no for so long is not asked on: a registry that is started again answers before.
const REFUSED_MAX: Duration = Duration::from_secs(30);

/// Says what to do next.
#[must_use]
pub fn plan(s: &Snapshot, now: Timestamp) -> Plan {
    let d = Decision { s, now };
    let phase = s.state.phase;
    if phase.is_terminal() {
        return d.wait("ended", Duration::from_secs(3_600));
    }
    if phase.needs_lock() {
        match &s.lock {
            LockView::Mine { expires_at } if *expires_at > now.after(SAFETY_MARGIN) => {}
            LockView::Mine { .. } => {
                return d.wait("the lock runs out soon; waits for its heartbeat", SOON);
            }
            _ => return d.say(Next::Stop, "the lock is no longer ours"),
        }
    }
    if let Some(decided) = d.wished() {
        return decided;
    }
    if let Some(decided) = d.overdue() {
        return decided;
    }
    match phase {
        Phase::Planned => d.planned(),
        Phase::AwaitApproval => d.await_approval(),
        Phase::WaitLock => d.wait_lock(),
        Phase::Prepare => d.prepare(),
        Phase::Warm => d.warm(),
        Phase::Smoke => d.smoke(),
        Phase::Shift => d.shift(),
        Phase::Bake | Phase::Watch | Phase::Paused => d.look(),
        Phase::ShiftBack | Phase::Held | Phase::VerifyBack => d.shift_back(),
        Phase::DrainNew => d.drain_new(),
        Phase::Clean => d.clean(),
        Phase::Succeeded | Phase::Failed | Phase::RolledBack => d.wait("ended", TICK),
    }
}

struct Decision<'a> {
    s: &'a Snapshot,
    now: Timestamp,
}

impl Decision<'_> {
    fn say(&self, next: Next, report: impl Into<String>) -> Plan {
        Plan {
            next,
            report: report.into(),
            wake_at: self.now,
        }
    }

    fn wait(&self, report: impl Into<String>, by: Duration) -> Plan {
        Plan {
            next: Next::Wait,
            report: report.into(),
            wake_at: self.now.after(by),
        }
    }

    fn enter(&self, phase: Phase, report: &str) -> Plan {
        self.say(
            Next::Enter(Transition::to(phase, self.s.state.step_idx)),
            report,
        )
    }

    fn observed(&self) -> &Observed {
        &self.s.observed
    }

    /// For how long the present phase has lasted.
    fn lasted(&self) -> u64 {
        millis(self.now.since(self.s.state.entered_at))
    }

    fn weight(&self) -> u32 {
        let step = usize::try_from(self.s.state.step_idx).ok();
        step.and_then(|i| self.s.plan.steps.get(i))
            .map_or(FULL_BP, |step| step.weight_bp)
    }

    fn wished(&self) -> Option<Plan> {
        let state = &self.s.state;
        let looking = matches!(state.phase, Phase::Bake | Phase::Watch);
        let done = |phase, step_idx| {
            let mut transition = Transition::to(phase, step_idx);
            transition.wish_done = true;
            transition
        };
        match self.s.wish.as_ref()? {
            Wish::Abort { reason } if !state.phase.needs_lock() => {
                let failed = done(Phase::Failed, state.step_idx).because(reason.clone());
                Some(self.say(Next::Enter(failed), reason.clone()))
            }
            Wish::Abort { reason } if !state.phase.is_going_back() => Some(self.back(reason)),
            Wish::Pause { reason } if looking => {
                let pause = done(Phase::Paused, state.step_idx);
                let pause = pause.because(format!("paused: {reason}"));
                Some(self.say(Next::Enter(pause), format!("paused: {reason}")))
            }
            Wish::Resume if state.phase == Phase::Paused => {
                let why = state.pause.as_ref().map(|pause| pause.why);
                let next = match why {
                    // Somebody looked where the gates could not say: it goes on.
                    Some(PauseWhy::Inconclusive | PauseWhy::Approval) => self.forward(false),
                    _ => Transition::to(self.looked_from(), state.step_idx),
                };
                let next = Transition {
                    wish_done: true,
                    ..next
                };
                Some(self.say(Next::Enter(next), "goes on"))
            }
            // Never past missing counters: what nobody saw is not promoted by anybody.
            Wish::Promote { full }
                if (looking || state.phase == Phase::Paused) && self.may_be_promoted() =>
            {
                let mut next = self.forward(true);
                if *full && next.phase != Phase::Succeeded {
                    next.step_idx = self.last_step();
                    next.phase = Phase::Prepare;
                }
                Some(self.go_on(next, "promoted"))
            }
            _ => None,
        }
    }

    fn overdue(&self) -> Option<Plan> {
        let state = &self.s.state;
        let moving = matches!(
            state.phase,
            Phase::Prepare | Phase::Warm | Phase::Smoke | Phase::Shift
        );
        let still = millis(self.now.since(state.progress_at));
        if moving && still > self.s.plan.timings.progress_ms {
            let reason = format!("no progress in {} for {} s", state.phase, still / 1_000);
            return Some(self.back(&reason));
        }
        None
    }

    fn prepare(&self) -> Plan {
        let count = self.wanted();
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let target = self.observed().target.as_ref();
        let hosts = &self.observed().hosts;
        let several = |target: &TargetView| {
            let all = self.s.plan.new.replicas;
            (!hosts.is_empty()).then(|| {
                standing(
                    &target.new,
                    hosts,
                    count,
                    all,
                    self.s.plan.kind == Kind::Rollback,
                )
            })
        };
        let running = target.map(|target| match several(target) {
            Some(found) => found.all_run,
            None => TargetView::running(&target.new) >= wanted,
        });
        // Once started, an instance that ended again is for WARM to judge, not to be started for ever.
        let applied = self
            .s
            .state
            .step
            .as_ref()
            .is_some_and(|step| step.status == StepStatus::Applied);
        let there = if applied {
            target.map(|target| match several(target) {
                Some(found) => found.all_exist,
                None => target.new.len() >= wanted,
            })
        } else {
            running
        };
        if let Some(parking) = self.park(target) {
            return parking;
        }
        let warm = Transition::to(Phase::Warm, self.s.state.step_idx);
        // A rollback to a version that is still warm has nothing to start.
        if self.s.state.step.is_none() && running == Some(true) {
            return self.say(Next::Enter(warm), "every instance is running already");
        }
        if there != Some(true)
            && let Some(why) = self.refused()
        {
            return self.back(&why);
        }
        self.drive(Effect::EnsureNew { count }, there, Some(warm))
    }

    /// Rolling: what the batch before this one took over is stopped, before this one starts more.
    fn park(&self, target: Option<&TargetView>) -> Option<Plan> {
        let state = &self.s.state;
        if self.s.plan.strategy != Strategy::Rolling || !state.traffic_touched {
            return None;
        }
        let before = usize::try_from(state.step_idx.checked_sub(1)?).ok()?;
        let weight = self.s.plan.steps.get(before)?.weight_bp;
        let keep = parked_to(target?.stable.len(), weight);
        let parked = TargetView::running(&target?.stable) <= keep;
        let parking = state
            .step
            .as_ref()
            .is_some_and(|step| matches!(step.effect, Effect::ParkStable { .. }));
        if parked && !parking {
            return None;
        }
        let keep = u32::try_from(keep).unwrap_or(u32::MAX);
        Some(self.drive(Effect::ParkStable { keep }, Some(parked), None))
    }

    fn warm(&self) -> Plan {
        let timings = &self.s.plan.timings;
        let ready_for = self
            .observed()
            .health
            .as_ref()
            .and_then(|health| health.ready_for);
        if ready_for.is_some_and(|since| millis(since) >= timings.min_ready_ms) {
            return self.enter(Phase::Smoke, "every instance is healthy");
        }
        let detail = self
            .observed()
            .health
            .as_ref()
            .map_or("", |health| health.detail.as_str());
        let deadline = timings
            .warm_deadline_ms
            .saturating_add(timings.min_ready_ms);
        if self.lasted() > deadline {
            let seconds = deadline / 1_000;
            return self.back(&format!("not healthy within {seconds} s: {detail}"));
        }
        self.wait(format!("waits for health: {detail}"), SOON)
    }

    fn smoke(&self) -> Plan {
        // What has traffic already is looked at by gates.
        if self.s.plan.smoke.is_empty() || self.s.state.traffic_touched {
            return self.enter(Phase::Shift, "no smoke checks");
        }
        match &self.observed().smoke {
            Some(Smoke::Passed) => self.enter(Phase::Shift, "smoke checks passed"),
            Some(Smoke::Failed(why)) => self.back(&format!("smoke check failed: {why}")),
            None if self.lasted() > self.s.plan.timings.smoke_deadline_ms => {
                self.back("smoke checks did not end in time")
            }
            None => self.wait("smoke checks under way", SOON),
        }
    }

    /// Why the present step was refused for long enough. The way back is asked for as long as it takes.
    fn refused(&self) -> Option<String> {
        let refusal = self.observed().refused.as_ref()?;
        let long = self.s.plan.kind == Kind::Rollout && refusal.lasting >= REFUSED_MAX;
        let seconds = refusal.lasting.as_secs();
        long.then(|| format!("{} (asked for {seconds} s)", refusal.why))
    }

    fn shift(&self) -> Plan {
        let new_bp = self.weight();
        if let Some(why) = &self.observed().partial {
            return self.back(why);
        }
        if let Some(target) = &self.observed().target
            && !self.part_runs(&target.new)
        {
            return self.back("an instance of the new version ended before it got traffic");
        }
        if self.observed().target.is_none() {
            return self.wait(
                "the target cannot be read: no weight without live instances",
                SOON,
            );
        }
        let looking = if new_bp == FULL_BP {
            Phase::Watch
        } else {
            Phase::Bake
        };
        if let Some(why) = self.tripped() {
            return self.back(&why);
        }
        let then = Transition::to(looking, self.s.state.step_idx);
        let routed = self.routed(new_bp);
        if routed != Some(true)
            && let Some(why) = self.refused()
        {
            return self.back(&why);
        }
        self.drive(Effect::Route { new_bp }, routed, Some(then))
    }

    /// Whether the instances that the present weight needs are running, on every host that takes part.
    fn part_runs(&self, new: &[InstanceView]) -> bool {
        let (count, hosts) = (self.wanted(), &self.observed().hosts);
        if hosts.is_empty() {
            return TargetView::running(new) >= usize::try_from(count).unwrap_or(usize::MAX);
        }
        standing(
            new,
            hosts,
            count,
            self.s.plan.new.replicas,
            self.s.plan.kind == Kind::Rollback,
        )
        .part_runs
    }

    /// Whether the router uses exactly the table of the present step; of several, all that can be reached.
    fn routed(&self, new_bp: u32) -> Option<bool> {
        let traffic = self.observed().traffic.as_ref()?;
        let Some(step) = &self.s.state.step else {
            return Some(false);
        };
        let fence = Fence {
            token: step.token,
            generation: step.generation,
        };
        Some(traffic.fence == fence && traffic.apart.is_empty() && self.weights_are(new_bp))
    }

    fn weights_are(&self, new_bp: u32) -> bool {
        let Some(traffic) = &self.observed().traffic else {
            return false;
        };
        let weight = |version: &str| traffic.weights.get(version).copied().unwrap_or(0);
        let stable = self.s.state.stable.as_deref().map_or(0, weight);
        weight(&self.s.plan.new.version_id) == new_bp && stable == FULL_BP - new_bp
    }

    /// What follows a bake or watch that ended well.
    fn forward(&self, wish_done: bool) -> Transition {
        let idx = self.s.state.step_idx;
        let mut next = if self.looked_from() == Phase::Watch {
            Transition::to(Phase::Succeeded, idx)
        } else {
            let next = idx.saturating_add(1);
            let weight = |idx: u32| {
                let step = usize::try_from(idx).ok();
                step.and_then(|idx| self.s.plan.steps.get(idx))
                    .map_or(FULL_BP, |step| step.weight_bp)
            };
            let needs = |idx| instances_at(&self.s.plan, weight(idx));
            // More instances first, where the next weight needs them.
            if needs(next) > needs(idx) || self.s.plan.strategy == Strategy::Rolling {
                Transition::to(Phase::Prepare, next)
            } else {
                Transition::to(Phase::Shift, next)
            }
        };
        next.wish_done = wish_done;
        next
    }

    fn last_step(&self) -> u32 {
        let last = self.s.plan.steps.len().saturating_sub(1);
        u32::try_from(last).unwrap_or(u32::MAX)
    }

    /// How many instances the present step needs.
    fn wanted(&self) -> u32 {
        instances_at(&self.s.plan, self.weight())
    }

    /// The step protocol. `done` is the read-back: `None` = not known.
    fn drive(&self, effect: Effect, done: Option<bool>, then: Option<Transition>) -> Plan {
        let step = self.s.state.step.as_ref();
        // Another owner's intent is written again under our token: its own outcome does not matter,
        // the desired state is absolute.
        let Some(step) = step.filter(|s| s.effect == effect && s.token == self.s.token) else {
            return self.say(
                Next::Intend(effect),
                format!("intends to {}", effect.as_str()),
            );
        };
        match (step.status, done) {
            (_, Some(true)) => self.say(
                Next::Verified(then),
                format!("{} is verified", effect.as_str()),
            ),
            (_, None) => self.wait(
                format!("{}: cannot be read back yet", effect.as_str()),
                SOON,
            ),
            (StepStatus::Intent, Some(false)) => {
                self.say(Next::Call(effect), format!("does {}", effect.as_str()))
            }
            (StepStatus::Applied, Some(false)) => {
                let since = step.applied_at.unwrap_or(step.intent_at);
                if millis(self.now.since(since)) > self.s.plan.timings.verify_ms {
                    return self.say(Next::Intend(effect), "acknowledged and not seen: again");
                }
                self.wait(
                    format!("{}: acknowledged, not seen yet", effect.as_str()),
                    SOON,
                )
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
