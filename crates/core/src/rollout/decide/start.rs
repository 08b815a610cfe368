//! Before the first effect: what must come first, who must agree, whose turn it is.

use std::time::Duration;

use super::{Decision, TICK};
use crate::access::Judgement;
use crate::rollout::{Kind, LockView, Next, Phase, Plan, Transition};

/// How often the lock is asked for.
const LOCK_SWEEP: Duration = Duration::from_secs(2);

impl Decision<'_> {
    pub(super) fn planned(&self) -> Plan {
        match self.barred() {
            Some(reason) if self.s.awaited => self.wait(reason.clone(), TICK),
            Some(reason) => self.fail(reason),
            None => self.enter(Phase::AwaitApproval, "checked"),
        }
    }

    /// What must come first. A way back waits for nothing.
    fn barred(&self) -> Option<&String> {
        let rollback = self.s.plan.kind == Kind::Rollback;
        self.s.barred.as_ref().filter(|_| !rollback)
    }

    pub(super) fn await_approval(&self) -> Plan {
        if self.s.plan.kind == Kind::Rollback {
            return self.enter(Phase::WaitLock, "a rollback needs no approval");
        }
        match &self.s.approval {
            Judgement::NotNeeded => self.enter(Phase::WaitLock, "no approval needed"),
            Judgement::Granted { by } => {
                self.enter(Phase::WaitLock, &format!("approved by {}", by.join(", ")))
            }
            Judgement::Rejected { by } => self.fail(&format!("rejected by {by}")),
            Judgement::Expired => self.fail("nobody approved in time"),
            Judgement::Pending { missing, .. } => {
                self.wait(format!("waits for {missing} approval(s)"), TICK)
            }
        }
    }

    pub(super) fn fail(&self, reason: &str) -> Plan {
        let failed = Transition::to(Phase::Failed, self.s.state.step_idx).because(reason);
        self.say(Next::Enter(failed), reason)
    }

    /// The approval is judged again under the lock: between the answer and its use the plan, the
    /// approver's membership or the order of deployments may have changed.
    pub(super) fn wait_lock(&self) -> Plan {
        let rollback = self.s.plan.kind == Kind::Rollback;
        match &self.s.lock {
            LockView::Mine { .. } => {}
            LockView::TimedOut => return self.fail("lock_timeout: waited 30 minutes for its turn"),
            LockView::NotMine | LockView::Lost => {
                // Before the lock: whoever may not start holds nobody up.
                if let Some(frozen) = self.s.frozen.as_ref().filter(|_| !rollback) {
                    return self.wait(frozen.clone(), TICK);
                }
                return Plan {
                    next: Next::AskLock,
                    report: "asks for the lock".to_owned(),
                    wake_at: self.now.after(LOCK_SWEEP),
                };
            }
        }
        if !rollback && (self.s.plan_changed || !self.s.approval.allows()) {
            let mut again = Transition::to(Phase::AwaitApproval, 0);
            again.release_lock = true;
            return self.say(
                Next::Enter(again),
                "approval_void: what was approved has changed",
            );
        }
        if let Some(reason) = self.barred() {
            return self.fail(reason);
        }
        if rollback && self.s.good_version.as_ref() == Some(&self.s.plan.new.version_id) {
            return self.fail("the version that should come back has the traffic already");
        }
        // Without a stable version there is nothing to share traffic with.
        let first_step = match self.s.good_version {
            Some(_) => 0,
            None => self.last_step(),
        };
        let mut prepare = Transition::to(Phase::Prepare, first_step);
        prepare.stable = Some(self.s.good_version.clone());
        let report = match &self.s.good_version {
            Some(version) => format!("stable is {version}"),
            None => "first deployment: there is no version to go back to".to_owned(),
        };
        self.say(Next::Enter(prepare), report)
    }
}
