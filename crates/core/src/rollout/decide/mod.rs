//! The decision: one thing to do, from one snapshot. What comes before the first effect is in
//! `start`, the way back in `back`.

mod back;
mod start;

use std::time::Duration;

use crate::rollout::lock::SAFETY_MARGIN;
use crate::rollout::phase::Phase;
use crate::rollout::snapshot::{LockView, Next, Observed, Plan, Smoke, Snapshot, TargetView, Wish};
use crate::rollout::state::{Effect, StepStatus, Transition};
use crate::rollout::watch::{Verdict, WatchBase, judge_traffic, ppm};
use crate::time::Timestamp;
use crate::traffic::{FULL_BP, Fence};

/// How often a rollout that waits is looked at without being asked.
const TICK: Duration = Duration::from_secs(5);
/// How often something that is about to change is looked at.
const SOON: Duration = Duration::from_millis(250);

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
                Some(self.say(Next::Enter(pause), format!("paused: {reason}")))
            }
            Wish::Resume if state.phase == Phase::Paused => {
                let from = state
                    .pause
                    .as_ref()
                    .map_or(Phase::Watch, |pause| pause.from);
                Some(self.say(Next::Enter(done(from, state.step_idx)), "goes on"))
            }
            // Never past missing counters: what nobody saw is not promoted by anybody.
            Wish::Promote if looking && self.observed().traffic.is_some() && !self.is_bad() => {
                Some(self.say(Next::Enter(self.forward(true)), "promoted"))
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
        let wanted = usize::try_from(self.s.plan.new.replicas).unwrap_or(usize::MAX);
        let target = self.observed().target.as_ref();
        let running = target.map(|target| TargetView::running(&target.new) >= wanted);
        // Once started, an instance that ended again is for WARM to judge, not to be started for ever.
        let applied = self
            .s
            .state
            .step
            .as_ref()
            .is_some_and(|step| step.status == StepStatus::Applied);
        let there = if applied {
            target.map(|target| target.new.len() >= wanted)
        } else {
            running
        };
        let warm = Transition::to(Phase::Warm, self.s.state.step_idx);
        // A rollback to a version that is still warm has nothing to start.
        if self.s.state.step.is_none() && running == Some(true) {
            return self.say(Next::Enter(warm), "every instance is running already");
        }
        self.drive(Effect::EnsureNew, there, Some(warm))
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
        if self.s.plan.smoke.is_empty() {
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

    fn shift(&self) -> Plan {
        let wanted = usize::try_from(self.s.plan.new.replicas).unwrap_or(usize::MAX);
        let new_bp = self.weight();
        if let Some(target) = &self.observed().target
            && TargetView::running(&target.new) < wanted
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
        let mut then = Transition::to(looking, self.s.state.step_idx);
        then.base = self.observed().traffic.as_ref().map(|traffic| WatchBase {
            new: traffic.new.clone(),
            stable_bad_ppm: ppm(traffic.stable.bad, traffic.stable.completed),
        });
        self.drive(Effect::Route { new_bp }, self.routed(new_bp), Some(then))
    }

    /// Whether the router uses exactly the table of the present step.
    fn routed(&self, new_bp: u32) -> Option<bool> {
        let traffic = self.observed().traffic.as_ref()?;
        let Some(step) = &self.s.state.step else {
            return Some(false);
        };
        let fence = Fence {
            token: step.token,
            generation: step.generation,
        };
        Some(traffic.fence == fence && self.weights_are(new_bp))
    }

    fn weights_are(&self, new_bp: u32) -> bool {
        let Some(traffic) = &self.observed().traffic else {
            return false;
        };
        let weight = |version: &str| traffic.weights.get(version).copied().unwrap_or(0);
        let stable = self.s.state.stable.as_deref().map_or(0, weight);
        weight(&self.s.plan.new.version_id) == new_bp && stable == FULL_BP - new_bp
    }

    fn is_bad(&self) -> bool {
        let failing = self
            .observed()
            .health
            .as_ref()
            .is_some_and(|health| health.failing > 0);
        failing || matches!(self.verdict(), Some(Verdict::Bad(_)))
    }

    fn verdict(&self) -> Option<Verdict> {
        let traffic = self.observed().traffic.as_ref()?;
        let base = self.s.state.base.clone().unwrap_or_default();
        Some(judge_traffic(&base, &traffic.new, self.s.plan.limits))
    }

    /// BAKE, WATCH and PAUSED: looks at the new version while it has traffic.
    fn look(&self) -> Plan {
        let state = &self.s.state;
        let timings = &self.s.plan.timings;
        let verdict = self.verdict();
        if let Some(Verdict::Bad(why)) = &verdict {
            return self.back(why);
        }
        if let Some(health) = &self.observed().health
            && health.failing > 0
        {
            let why = format!(
                "{} instance(s) became unhealthy: {}",
                health.failing, health.detail
            );
            return self.back(&why);
        }
        let Some(verdict) = verdict else {
            let blind = millis(self.observed().blind_for);
            if blind > timings.blind_ms {
                return self.back(&format!(
                    "no counters from the router for {} s",
                    blind / 1_000
                ));
            }
            return self.wait("blind: the router cannot be read; nothing moves", SOON);
        };
        if !self.weights_are(self.weight()) {
            let shift = Transition::to(Phase::Shift, state.step_idx);
            return self.say(
                Next::Enter(shift),
                "the router does not use our table: issued again",
            );
        }
        if state.phase == Phase::Paused {
            return match &state.pause {
                Some(pause) if self.now < pause.deadline => self.wait("paused", TICK),
                _ => self.back("paused for too long"),
            };
        }
        let length = self.look_ms();
        if self.lasted() < length {
            let left = Duration::from_millis(length - self.lasted());
            return self.wait(describe(&verdict), left.min(TICK));
        }
        self.say(Next::Enter(self.forward(false)), describe(&verdict))
    }

    fn look_ms(&self) -> u64 {
        if self.s.state.phase == Phase::Watch {
            return self.s.plan.timings.watch_ms;
        }
        let step = usize::try_from(self.s.state.step_idx).ok();
        step.and_then(|i| self.s.plan.steps.get(i))
            .map_or(0, |step| step.bake_ms)
    }

    /// What follows a bake or watch that ended well.
    fn forward(&self, wish_done: bool) -> Transition {
        let idx = self.s.state.step_idx;
        let mut next = if self.s.state.phase == Phase::Watch {
            Transition::to(Phase::Succeeded, idx)
        } else {
            Transition::to(Phase::Shift, idx.saturating_add(1))
        };
        next.wish_done = wish_done;
        next
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

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Good { requests, bad } => format!("{bad} of {requests} requests failed"),
        Verdict::TooFew { requests } => format!("too few requests to judge: {requests}"),
        Verdict::Bad(why) => why.clone(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
