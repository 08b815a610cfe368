//! Brings the last good version back. Needs nobody's approval, no forge, no image registry and no
//! dispatcher: the version's instances are warm, or its image is on the host.

use slipway_core::access::{Caller, Deed};
use slipway_core::pipeline::Strategy;
use slipway_core::rollout::{Kind, RolloutPlan, State, Step, VersionSpec, Wish};
use slipway_core::traffic::FULL_BP;
use slipway_daemon::border;
use slipway_store::{Begun, NewRollout, RolloutFilter, RolloutRow, VersionRow};

use super::{Refused, steer};
use crate::run::Coordinator;

/// Failed rollbacks of one deployment before somebody must look.
const TRIES_MAX: usize = 20;

/// What a rollback came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RolledBack {
    /// The version that gets the traffic back.
    pub(crate) version: String,
    /// The deployment that carries it out.
    pub(crate) deployment: String,
}

/// Rolls a deployment back. Answered once the intent is durable.
pub(crate) async fn roll_back(
    coordinator: &Coordinator,
    caller: &Caller,
    id: &str,
    reason: &str,
    to: &str,
) -> Result<RolledBack, Refused> {
    steer::reason_is_given(reason)?;
    if !caller.may(Deed::RollBack) {
        return Err(Refused::MayNot {
            who: caller.subject.clone(),
            what: "roll a deployment back",
            needed: "the role deployer, maintainer, approver or admin",
        });
    }
    let row = coordinator
        .db
        .rollout(id)
        .await?
        .ok_or(Refused::NoSuch("deployment"))?;
    match row.status.as_str() {
        "in_progress" if row.kind == "rollout" => abort(coordinator, caller, &row, reason).await,
        "in_progress" => Ok(RolledBack {
            version: row.target_version.clone(),
            deployment: row.deployment_id.clone(),
        }),
        "completed" => begin(coordinator, caller, &row, reason, to).await,
        "rolled_back" => Ok(RolledBack {
            version: row.source_version.clone().unwrap_or_default(),
            deployment: row.superseded_by.clone().unwrap_or(row.deployment_id),
        }),
        _ => {
            let text = "the deployment failed before it had traffic; nothing to roll back";
            Err(Refused::State("no_previous_version", text.to_owned()))
        }
    }
}

/// An active rollout goes back by itself once it is told to.
async fn abort(
    coordinator: &Coordinator,
    caller: &Caller,
    row: &RolloutRow,
    reason: &str,
) -> Result<RolledBack, Refused> {
    let state: State = serde_json::from_str(&row.state_json).map_err(anyhow::Error::from)?;
    let good = coordinator
        .good_version(&row.service_id, &row.environment_id)
        .await?;
    let back_to = state.stable.clone().or(good);
    if back_to.is_none() && state.traffic_touched {
        return Err(no_previous(row));
    }
    let wish = Wish::Abort {
        reason: reason.to_owned(),
    };
    steer::steer(coordinator, caller, &row.deployment_id, &wish).await?;
    Ok(RolledBack {
        version: back_to.unwrap_or_default(),
        deployment: row.deployment_id.clone(),
    })
}

async fn begin(
    coordinator: &Coordinator,
    caller: &Caller,
    row: &RolloutRow,
    reason: &str,
    to: &str,
) -> Result<RolledBack, Refused> {
    if let Some(newer) = coordinator.db.later_success(row).await? {
        let text = format!("deployment {newer} has the traffic now; roll that one back");
        return Err(Refused::State("newer_deployment", text));
    }
    let versions = coordinator
        .db
        .versions(&row.service_id, &row.environment_id)
        .await?;
    let goal = goal(row, versions, to)?;
    let plan = plan(row, &goal)?;
    let new = stored(coordinator, caller, row, &plan, reason).await?;
    // Whatever is on its way there goes back first; its place in the queue is behind ours.
    for active in active_rollouts(coordinator, row).await? {
        let wish = Wish::Abort {
            reason: format!("a rollback was asked for: {reason}"),
        };
        steer::steer(coordinator, caller, &active, &wish)
            .await
            .map(drop)
            .or_else(|error| {
                // It ended meanwhile: nothing is in the way.
                if matches!(error, Refused::State(..)) {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
    }
    let begun = once(coordinator, row, new).await?;
    coordinator.nudge(&begun.deployment_id);
    Ok(RolledBack {
        version: begun.target_version,
        deployment: begun.deployment_id,
    })
}

/// Asked twice, it is one rollback; asked again after it failed, it is another one.
async fn once(
    coordinator: &Coordinator,
    row: &RolloutRow,
    mut new: NewRollout,
) -> Result<RolloutRow, Refused> {
    let mut key = format!("rollback/{}", row.deployment_id);
    for _ in 0..TRIES_MAX {
        new.idem_key = Some(key);
        border::reach("before begin", "");
        let begun = coordinator.db.begin_rollout(new.clone()).await?;
        border::reach("after begin", "");
        match begun {
            Begun::Existing(old) if old.status == "failed" => {
                key = format!("rollback/{}", old.deployment_id);
            }
            Begun::New(row) | Begun::Existing(row) => return Ok(row),
        }
    }
    let text = format!("{TRIES_MAX} rollbacks of this deployment failed; look at their reasons");
    Err(Refused::State("too_many_rollbacks", text))
}

fn no_previous(row: &RolloutRow) -> Refused {
    let text = format!(
        "no earlier version of `{}` was good in `{}`: there is nothing to go back to",
        row.service_name, row.target_environment
    );
    Refused::State("no_previous_version", text)
}

/// The version to go back to: never the one that has the traffic, never one that was not good.
fn goal(row: &RolloutRow, versions: Vec<VersionRow>, to: &str) -> Result<VersionRow, Refused> {
    let good = |version: &VersionRow| {
        version.last_good_at.is_some() && version.version_id != row.target_version
    };
    if to.is_empty() {
        return versions
            .into_iter()
            .find(good)
            .ok_or_else(|| no_previous(row));
    }
    match versions
        .into_iter()
        .find(|version| version.version_id == to)
    {
        Some(version) if good(&version) => Ok(version),
        Some(_) => {
            let text = format!("version {to} has the traffic already, or was never proven good");
            Err(Refused::State("not_a_good_version", text))
        }
        None => Err(Refused::NoSuch("version")),
    }
}

fn plan(row: &RolloutRow, goal: &VersionRow) -> Result<RolloutPlan, Refused> {
    let mut plan: RolloutPlan =
        serde_json::from_str(&row.plan_json).map_err(anyhow::Error::from)?;
    let new: VersionSpec = serde_json::from_str(&goal.config_json).map_err(anyhow::Error::from)?;
    plan.kind = Kind::Rollback;
    plan.new = new;
    plan.smoke = vec![];
    plan.approval = None;
    plan.after = vec![];
    plan.first = false;
    // One commit, whatever brought the version that goes.
    plan.strategy = Strategy::BlueGreen;
    plan.steps = vec![Step {
        weight_bp: FULL_BP,
        bake_ms: 0,
        approval: false,
    }];
    // It was good: one answer is enough, and nothing is watched before it counts.
    plan.timings.warm_passes = 1;
    plan.timings.min_ready_ms = 0;
    plan.timings.watch_ms = 0;
    plan.facts.build_id.clone_from(&goal.build_id);
    plan.check()?;
    Ok(plan)
}

pub(super) async fn active_rollouts(
    coordinator: &Coordinator,
    row: &RolloutRow,
) -> Result<Vec<String>, Refused> {
    let filter = RolloutFilter {
        service: row.service_name.clone(),
        environment: row.target_environment.clone(),
        status: "in_progress".to_owned(),
        limit: 100,
        ..RolloutFilter::default()
    };
    let rollouts = coordinator.db.rollouts(&filter).await?;
    let rollouts = rollouts.into_iter().filter(|other| other.kind == "rollout");
    Ok(rollouts.map(|other| other.deployment_id).collect())
}

async fn stored(
    coordinator: &Coordinator,
    caller: &Caller,
    row: &RolloutRow,
    plan: &RolloutPlan,
    reason: &str,
) -> Result<NewRollout, Refused> {
    let now = coordinator.clock.now();
    let id = coordinator.rng.ulid(now);
    let (environment, _) = coordinator.environment(&row.environment_id).await?;
    let json = |value: serde_json::Result<String>| value.map_err(|e| Refused::Internal(e.into()));
    let mut state = State::planned(now);
    state.reason = Some(reason.to_owned());
    let detail = serde_json::json!({
        "of": row.deployment_id,
        "to": plan.new.version_id,
        "reason": reason,
        "emergency": true,
    });
    Ok(NewRollout {
        audit: coordinator.audit(
            ("token", &caller.subject),
            "deployment.rollback",
            &id,
            detail,
        ),
        deployment_id: id,
        build_id: plan.facts.build_id.clone(),
        initiator_id: caller.subject.clone(),
        service_id: row.service_id.clone(),
        environment_id: row.environment_id.clone(),
        target_environment: row.target_environment.clone(),
        strategy: row.strategy.clone(),
        source_version: Some(row.target_version.clone()),
        target_version: plan.new.version_id.clone(),
        approval_status: "approved".to_owned(),
        kind: "rollback".to_owned(),
        plan_json: json(serde_json::to_string(plan))?,
        plan_hash: plan.hash(&environment.target),
        state_json: json(serde_json::to_string(&state))?,
        idem_key: None,
        version: None,
        now,
    })
}
