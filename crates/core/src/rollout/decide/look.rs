//! BAKE, WATCH and PAUSED: what follows from looking at the new version while it has traffic.

use std::time::Duration;

use super::{Decision, SOON, TICK, millis};
use crate::gate::{Doubt, GateReport, OnInconclusive, OnUnproven, Verdict};
use crate::rollout::phase::Phase;
use crate::rollout::snapshot::{Next, Plan};
use crate::rollout::state::{Effect, PauseWhy, Transition};
use crate::traffic::FULL_BP;

/// Up to a tenth of the traffic, weight stays where it is while nothing can be seen.
const BLIND_HOLDS_BP: u32 = 1_000;

impl Decision<'_> {
    /// Where the rollout looks from: the phase itself, or the one that was paused.
    pub(super) fn looked_from(&self) -> Phase {
        let state = &self.s.state;
        match (&state.phase, &state.pause) {
            (Phase::Paused, Some(pause)) => pause.from,
            (Phase::Paused, None) => Phase::Watch,
            (phase, _) => *phase,
        }
    }

    /// Why the router took the new version out by itself.
    pub(super) fn tripped(&self) -> Option<String> {
        let traffic = self.observed().traffic.as_ref()?;
        let why = traffic.tripped.as_ref()?;
        Some(format!("the router took the new version out: {why}"))
    }

    /// Whether a person may end this look: what is seen, and not bad.
    pub(super) fn may_be_promoted(&self) -> bool {
        let seen = self.observed().traffic.is_some() && self.tripped().is_none();
        let unhealthy = |health: &crate::rollout::Health| health.failing > 0;
        let worst = self.observed().gates.as_ref().map(GateReport::worst);
        seen && !self.observed().health.as_ref().is_some_and(unhealthy)
            && !matches!(worst, None | Some(Verdict::Abort | Verdict::Blind))
    }

    pub(super) fn look(&self) -> Plan {
        if let Some(why) = self.tripped() {
            return self.back(&why);
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
        let pause = self.s.state.pause.as_ref();
        if pause.is_some_and(|pause| pause.why == PauseWhy::Foreign) {
            // The weights are not ours: nothing that is counted under them says anything.
            return self.paused();
        }
        let gates = match (&self.observed().traffic, &self.observed().gates) {
            (Some(_), Some(gates)) => gates,
            _ => {
                let blind_ms = millis(self.observed().blind_for);
                let seconds = blind_ms / 1_000;
                let why = format!("no counters from the router for {seconds} s");
                return self.blind(&why, blind_ms);
            }
        };
        let apart = self
            .observed()
            .traffic
            .as_ref()
            .is_some_and(|traffic| !traffic.apart.is_empty());
        if apart || !self.weights_are(self.weight()) {
            return self.say(
                Next::Enter(Transition::to(Phase::Shift, self.s.state.step_idx)),
                "the router does not use our table: issued again",
            );
        }
        match gates.worst() {
            Verdict::Abort => self.back(&gates.text()),
            Verdict::Blind => self.blind(&gates.text(), gates.blind_ms),
            _ if self.s.state.phase == Phase::Paused => self.paused(),
            verdict => self.judged(verdict, gates),
        }
    }

    /// Neither bad nor blind.
    fn judged(&self, verdict: Verdict, gates: &GateReport) -> Plan {
        let text = gates.text();
        if gates.elapsed_ms < self.look_ms() {
            let left = self.look_ms() - gates.elapsed_ms;
            return self.wait(text, Duration::from_millis(left).min(TICK));
        }
        let rules = &self.s.plan.gates;
        match verdict {
            Verdict::Inconclusive(Doubt::Suspicious) => match rules.on_inconclusive {
                OnInconclusive::Pause => self.pause(PauseWhy::Inconclusive, &text),
                OnInconclusive::Rollback => self.back(&text),
                OnInconclusive::Proceed => self.onward(&text),
            },
            Verdict::Inconclusive(Doubt::Unproven) => match rules.on_unproven {
                OnUnproven::Proceed => self.onward(&text),
                OnUnproven::Pause => self.pause(PauseWhy::Inconclusive, &text),
            },
            Verdict::Pass | Verdict::Inconclusive(Doubt::GoesOn) => self.onward(&text),
            Verdict::Abort | Verdict::Blind | Verdict::Continue => self.wait(text, TICK),
        }
    }

    /// The bake or watch ended well enough.
    fn onward(&self, text: &str) -> Plan {
        let step = usize::try_from(self.s.state.step_idx).ok();
        let asks = step
            .and_then(|idx| self.s.plan.steps.get(idx))
            .is_some_and(|step| step.approval);
        if asks && self.s.state.phase == Phase::Bake {
            return self.pause(PauseWhy::Approval, "a person must agree to the next step");
        }
        self.go_on(self.forward(false), text)
    }

    /// Goes on; before the end, the new version gets its traffic for good.
    pub(super) fn go_on(&self, then: Transition, text: &str) -> Plan {
        let leased = self
            .observed()
            .traffic
            .as_ref()
            .is_some_and(|traffic| traffic.leased);
        let step = self.s.state.step.as_ref();
        let sealing = step.is_some_and(|step| step.effect == Effect::Seal);
        if then.phase != Phase::Succeeded || !(leased || sealing) {
            return self.say(Next::Enter(then), text);
        }
        let sealed = self.routed(FULL_BP).map(|routed| routed && !leased);
        self.drive(Effect::Seal, sealed, Some(then))
    }

    fn pause(&self, why: PauseWhy, text: &str) -> Plan {
        let mut pause = Transition::to(Phase::Paused, self.s.state.step_idx).because(text);
        pause.pause = why;
        self.say(Next::Enter(pause), text)
    }

    fn paused(&self) -> Plan {
        let Some(pause) = &self.s.state.pause else {
            return self.back("paused, and nobody knows since when");
        };
        if self.now >= pause.deadline {
            return self.back("paused for too long");
        }
        if pause.why == PauseWhy::Blind {
            let again = Transition::to(pause.from, self.s.state.step_idx);
            return self.say(Next::Enter(again), "counters are back");
        }
        self.wait("paused", TICK)
    }

    /// Nothing can be seen: weight does not rise, and nothing is taken out at once.
    fn blind(&self, why: &str, blind_ms: u64) -> Plan {
        let (state, timings) = (&self.s.state, &self.s.plan.timings);
        let production = self.s.plan.environment == "production";
        if blind_ms > timings.blind_ms && production {
            return self.back(why);
        }
        if state.phase == Phase::Paused {
            let over = state.pause.as_ref().is_none_or(|p| self.now >= p.deadline);
            return if over {
                self.back("paused for too long")
            } else {
                self.wait(why, SOON)
            };
        }
        let held = self.weight() <= BLIND_HOLDS_BP;
        if blind_ms > timings.blind_ms || (blind_ms > timings.blind_pause_ms && !held) {
            return self.pause(PauseWhy::Blind, why);
        }
        self.wait(why, SOON)
    }

    /// How long this bake or watch is.
    fn look_ms(&self) -> u64 {
        if self.looked_from() == Phase::Watch {
            return self.s.plan.timings.watch_ms;
        }
        let step = usize::try_from(self.s.state.step_idx).ok();
        step.and_then(|idx| self.s.plan.steps.get(idx))
            .map_or(0, |step| step.bake_ms)
    }
}
