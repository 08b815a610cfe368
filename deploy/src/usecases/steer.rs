//! Abort, pause, resume, promote: stored as a wish, fulfilled by the driver.

use slipway_core::access::{Caller, Deed};
use slipway_core::rollout::{PauseWhy, State, Wish};
use slipway_store::RolloutRow;

use super::Refused;
use crate::run::Coordinator;

const REASON_MAX: usize = 2_000;

/// Stores a wish.
pub(crate) async fn steer(
    coordinator: &Coordinator,
    caller: &Caller,
    id: &str,
    wish: &Wish,
) -> Result<RolloutRow, Refused> {
    let (deed, action, phases): (Deed, &str, &[&str]) = match wish {
        Wish::Abort { reason } => {
            reason_is_given(reason)?;
            (Deed::RollBack, "deployment.abort", &[])
        }
        Wish::Pause { reason } => {
            reason_is_given(reason)?;
            (
                Deed::SteerDeployment,
                "deployment.pause",
                &["bake", "watch"],
            )
        }
        Wish::Resume => (Deed::SteerDeployment, "deployment.resume", &["paused"]),
        Wish::Promote { .. } => (
            Deed::SteerDeployment,
            "deployment.promote",
            &["bake", "watch", "paused"],
        ),
    };
    if !caller.may(deed) {
        return Err(Refused::MayNot {
            who: caller.subject.clone(),
            what: "steer a deployment",
            needed: "the role deployer or admin",
        });
    }
    let row = coordinator
        .db
        .rollout(id)
        .await?
        .ok_or(Refused::NoSuch("deployment"))?;
    if row.status != "in_progress" || !(phases.is_empty() || phases.contains(&row.phase.as_str())) {
        let text = format!(
            "the deployment is in phase {}; this cannot be done now",
            row.phase
        );
        return Err(Refused::State("wrong_phase", text));
    }
    let goes_on = matches!(wish, Wish::Resume | Wish::Promote { .. });
    if goes_on && waits_for_approval(&row) && !caller.may(Deed::Approve) {
        return Err(Refused::MayNot {
            who: caller.subject.clone(),
            what: "agree to the next step",
            needed: "the role approver or admin",
        });
    }
    let json = serde_json::to_string(wish).map_err(anyhow::Error::from)?;
    let detail = serde_json::to_value(wish).map_err(anyhow::Error::from)?;
    let audit = coordinator.audit(("token", &caller.subject), action, id, detail);
    if !coordinator.db.wish(id, &json, audit).await? {
        return Err(Refused::State(
            "wrong_phase",
            "the deployment has ended meanwhile".to_owned(),
        ));
    }
    coordinator.nudge(id);
    coordinator
        .db
        .rollout(id)
        .await?
        .ok_or(Refused::NoSuch("deployment"))
}

/// Whether the step that ended asks for somebody's agreement.
fn waits_for_approval(row: &RolloutRow) -> bool {
    let state = serde_json::from_str::<State>(&row.state_json);
    let pause = state.ok().and_then(|state| state.pause);
    pause.is_some_and(|pause| pause.why == PauseWhy::Approval)
}

/// Whoever changes production says why.
pub(super) fn reason_is_given(reason: &str) -> Result<(), Refused> {
    if reason.trim().is_empty() || reason.len() > REASON_MAX {
        return Err(Refused::Field(
            "reason",
            "must have 1 to 2000 bytes".to_owned(),
        ));
    }
    Ok(())
}
