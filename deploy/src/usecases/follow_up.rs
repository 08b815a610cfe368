//! What comes after a rollout that succeeded: the environments whose `after` names its own.
//!
//! Found from the store, so that a coordinator that died right after the success forgets nothing;
//! stored under one key per build and environment, so that it happens once.

use std::collections::BTreeSet;

use slipway_core::pipeline::DeploySpec;
use slipway_core::rollout::RolloutPlan;
use slipway_store::{RolloutFilter, RolloutRow};

use super::start_rollout::{Start, begin};
use super::{Refused, later};
use crate::run::Coordinator;

/// The newest successes that are looked at: what is older was followed up long ago.
const LOOKED_AT: u32 = 50;
/// Remembered ones; beyond it they are looked at again, which is harmless.
const REMEMBERED: usize = 1_000;

/// Starts whatever follows from the newest successes. `done` are those that need no other look.
pub(crate) async fn follow_up(
    coordinator: &Coordinator,
    done: &mut BTreeSet<String>,
) -> Result<(), Refused> {
    let filter = RolloutFilter {
        status: "completed".to_owned(),
        limit: LOOKED_AT,
        ..RolloutFilter::default()
    };
    if done.len() > REMEMBERED {
        done.clear();
    }
    for row in coordinator.db.rollouts(&filter).await? {
        if row.kind != "rollout" || done.contains(&row.deployment_id) {
            continue;
        }
        if follow_one(coordinator, &row).await? {
            done.insert(row.deployment_id);
        }
    }
    Ok(())
}

/// Answers whether nothing is left to do for this one.
async fn follow_one(coordinator: &Coordinator, row: &RolloutRow) -> Result<bool, Refused> {
    let Ok(plan) = serde_json::from_str::<RolloutPlan>(&row.plan_json) else {
        return Ok(true);
    };
    let Ok(section) = serde_json::from_str::<DeploySpec>(&plan.section) else {
        return Ok(true);
    };
    // A newer version succeeded here since: what follows is that one's business.
    if coordinator.db.later_success(row).await?.is_some() {
        return Ok(true);
    }
    let mut all = true;
    for next in section.environments.iter().filter(|next| next.auto) {
        if !next.after.contains(&row.target_environment)
            || overtaken(coordinator, row, &next.name).await?
        {
            continue;
        }
        let start = Start {
            build_id: row.build_id.clone(),
            commit_sha: plan.facts.commit_sha.clone(),
            environment: next.name.clone(),
            image: plan.new.image.clone(),
            deploy_json: plan.section.clone(),
            initiator: row.initiator_id.clone(),
            ..Start::default()
        };
        let key = Some(format!("after/{}/{}", row.build_id, next.name));
        let actor = ("system", "coordinator");
        match begin(coordinator, actor, plan.initiators.clone(), key, start).await {
            Ok(begun) => {
                tracing::info!(
                    rollout = begun.deployment_id,
                    environment = next.name,
                    "follows {}",
                    row.deployment_id
                );
            }
            Err(refused) if later(&refused) => all = false,
            Err(refused) => {
                let environment = &next.name;
                tracing::warn!(
                    rollout = row.deployment_id,
                    environment,
                    "does not follow: {refused}"
                );
            }
        }
    }
    Ok(all)
}

/// Whether this build, or a newer rollout, is in that environment already.
async fn overtaken(
    coordinator: &Coordinator,
    row: &RolloutRow,
    environment: &str,
) -> Result<bool, Refused> {
    let filter = RolloutFilter {
        service: row.service_name.clone(),
        environment: environment.to_owned(),
        limit: 100,
        ..RolloutFilter::default()
    };
    let there = coordinator.db.rollouts(&filter).await?;
    Ok(there
        .iter()
        .any(|other| other.build_id == row.build_id || other.deployment_id > row.deployment_id))
}
