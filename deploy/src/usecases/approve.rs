//! A person's yes or no. Who it is comes from the token; names in the message are only compared.

use slipway_core::access::{
    ApprovalRule, Caller, Deed, Judgement, RULE_VERSION, Refusal, may_approve,
};
use slipway_core::rollout::RolloutPlan;
use slipway_store::{ApprovalRow, RolloutRow, StoreError};

use super::Refused;
use crate::run::Coordinator;

/// What an approval came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// Whether enough people agreed now.
    pub(crate) goes_on: bool,
}

/// Looked at first: without the right nobody learns which deployments there are to approve.
fn has_the_right(caller: &Caller) -> Result<(), Refused> {
    if caller.may(Deed::Approve) {
        return Ok(());
    }
    Err(Refusal::NotApprover(caller.subject.clone()).into())
}

/// Records a yes.
pub(crate) async fn approve(
    coordinator: &Coordinator,
    caller: &Caller,
    id: &str,
    approver_id: &str,
    plan_hash: &str,
) -> Result<Answered, Refused> {
    has_the_right(caller)?;
    let _one_at_a_time = coordinator.answering.lock().await;
    let (row, plan) = pending(coordinator, id).await?;
    let approver = approver(caller, approver_id)?;
    if !plan_hash.is_empty() && plan_hash != row.plan_hash {
        let text = "the plan changed since you looked at it; look again".to_owned();
        return Err(Refused::State("approval_void", text));
    }
    let Some(rule) = &plan.approval else {
        return Err(nothing_pending(&row));
    };
    // Whoever may act for others still needs the right, and is an initiator for this purpose too.
    may_approve(rule, caller, &plan.initiators)?;
    if approver != caller.subject {
        let named = Caller {
            subject: approver.clone(),
            ..caller.clone()
        };
        may_approve(rule, &named, &plan.initiators)?;
    }
    still_asked(coordinator, &row, &plan).await?;
    record(coordinator, caller, &row, rule, &approver, "approved", "").await?;
    let row = coordinator
        .db
        .rollout(id)
        .await?
        .ok_or(Refused::NoSuch("deployment"))?;
    let judged = coordinator.judge_approvals(&row, &plan).await?;
    coordinator.nudge(id);
    Ok(Answered {
        goes_on: judged.allows(),
    })
}

/// Records a no.
pub(crate) async fn reject(
    coordinator: &Coordinator,
    caller: &Caller,
    id: &str,
    reason: &str,
) -> Result<RolloutRow, Refused> {
    has_the_right(caller)?;
    super::steer::reason_is_given(reason)?;
    let _one_at_a_time = coordinator.answering.lock().await;
    let (row, plan) = pending(coordinator, id).await?;
    let Some(rule) = &plan.approval else {
        return Err(nothing_pending(&row));
    };
    // A no needs the right, but may come from whoever started it.
    let anybody = ApprovalRule {
        approver_not_initiator: false,
        ..rule.clone()
    };
    may_approve(&anybody, caller, &plan.initiators)?;
    record(
        coordinator,
        caller,
        &row,
        rule,
        &caller.subject,
        "rejected",
        reason,
    )
    .await?;
    coordinator.nudge(id);
    coordinator
        .db
        .rollout(id)
        .await?
        .ok_or(Refused::NoSuch("deployment"))
}

fn approver(caller: &Caller, named: &str) -> Result<String, Refused> {
    if named.is_empty() || named == caller.subject {
        return Ok(caller.subject.clone());
    }
    if caller.may(Deed::ApproveForOthers) {
        return Ok(named.to_owned());
    }
    Err(Refused::OtherName {
        named: named.to_owned(),
        caller: caller.subject.clone(),
    })
}

async fn pending(
    coordinator: &Coordinator,
    id: &str,
) -> Result<(RolloutRow, RolloutPlan), Refused> {
    let row = coordinator
        .db
        .rollout(id)
        .await?
        .ok_or(Refused::NoSuch("deployment"))?;
    if !matches!(row.phase.as_str(), "planned" | "await_approval") {
        return Err(nothing_pending(&row));
    }
    let plan = serde_json::from_str(&row.plan_json).map_err(anyhow::Error::from)?;
    Ok((row, plan))
}

/// A question that was answered, or that nobody answered in time, takes no further yes: the driver
/// only has not come by yet.
async fn still_asked(
    coordinator: &Coordinator,
    row: &RolloutRow,
    plan: &RolloutPlan,
) -> Result<(), Refused> {
    let (why, text) = match coordinator.judge_approvals(row, plan).await? {
        Judgement::Pending { .. } => return Ok(()),
        Judgement::NotNeeded => return Err(nothing_pending(row)),
        Judgement::Granted { by } => {
            let by = by.join(", ");
            ("already_approved", format!("{by} approved it already"))
        }
        Judgement::Rejected { by } => ("already_rejected", format!("{by} rejected it already")),
        Judgement::Expired => {
            let text = "nobody approved in time; start the deployment again";
            ("approval_expired", text.to_owned())
        }
    };
    Err(Refused::State(why, text))
}

fn nothing_pending(row: &RolloutRow) -> Refused {
    let text = format!(
        "the deployment is in phase {}, no approval is pending",
        row.phase
    );
    Refused::State("nothing_pending", text)
}

async fn record(
    coordinator: &Coordinator,
    caller: &Caller,
    row: &RolloutRow,
    rule: &ApprovalRule,
    approver: &str,
    decision: &str,
    reason: &str,
) -> Result<(), Refused> {
    let now = coordinator.clock.now();
    let expiry = i64::try_from(rule.expiry_ms).unwrap_or(i64::MAX);
    let for_other = approver != caller.subject;
    let approval = ApprovalRow {
        approver_id: approver.to_owned(),
        plan_hash: row.plan_hash.clone(),
        asked_at: row.created_at,
        expires_at: row.created_at.saturating_add(expiry),
        method: if for_other { "for_other" } else { "token" }.to_owned(),
        decision: decision.to_owned(),
        reason: reason.to_owned(),
        rule_version: RULE_VERSION.to_owned(),
        decided_at: now.as_millis(),
    };
    let detail = serde_json::json!({
        "approver": approver,
        "plan_hash": row.plan_hash,
        "reason": reason,
    });
    let action = format!("deployment.{decision}");
    let audit = coordinator.audit(
        ("token", &caller.subject),
        &action,
        &row.deployment_id,
        detail,
    );
    let recorded = coordinator
        .db
        .record_approval(&row.deployment_id, approval, decision, audit)
        .await;
    match recorded {
        Ok(true) => Ok(()),
        Ok(false) => {
            let text = format!("`{approver}` has said so about this plan already");
            Err(Refused::State("already_answered", text))
        }
        // It moved on between the look and the write.
        Err(StoreError::Conflict(text)) => Err(Refused::State("nothing_pending", text)),
        Err(error) => Err(error.into()),
    }
}
