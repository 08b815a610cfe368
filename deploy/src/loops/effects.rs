//! Carries out one effect, under the stored fence.

use std::time::Duration;

use slipway_core::rollout::{Effect, InstanceView, State, StepState, VersionSpec};
use slipway_core::traffic::{FULL_BP, Fence, Instance, Share, TrafficTable};

use super::drive::Driver;
use crate::targets::TargetError;
use crate::traffic::TrafficError;

/// Why an effect is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub(super) enum EffectError {
    /// Somebody with a newer token has been there.
    #[error("stale_token: {seen} was seen there")]
    Stale {
        /// That token.
        seen: u64,
    },
    /// Anything else: the read-back decides.
    #[error("{0}")]
    Other(String),
}

impl From<TargetError> for EffectError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::StaleToken { seen } => Self::Stale { seen },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<TrafficError> for EffectError {
    fn from(error: TrafficError) -> Self {
        match error {
            TrafficError::StaleToken { seen } => Self::Stale { seen },
            other => Self::Other(other.to_string()),
        }
    }
}

/// Does what `step` says. Answers with evidence for the history.
pub(super) async fn carry_out(
    driver: &Driver<'_>,
    state: &State,
    step: &StepState,
) -> Result<serde_json::Value, EffectError> {
    let fence = Fence {
        token: step.token,
        generation: step.generation,
    };
    let target = &driver.adapters.target;
    let plan = &driver.plan;
    let grace = Duration::from_millis(driver.coordinator.defaults.stop_ms);
    match step.effect {
        Effect::EnsureNew => target.ensure(fence, &driver.place, &plan.new).await?,
        Effect::EnsureStable => {
            let stable = stable_spec(driver, state).await?;
            target.ensure(fence, &driver.place, &stable).await?;
        }
        Effect::Route { new_bp } => {
            let table = table(driver, state, new_bp);
            driver.adapters.traffic.apply(fence, &table).await?;
            let hash = table.hash().to_string();
            return Ok(serde_json::json!({ "table_hash": hash, "new_bp": new_bp }));
        }
        Effect::DrainNew => {
            let deadline = Duration::from_millis(plan.timings.drain_ms);
            let version = &plan.new.version_id;
            let cut = driver
                .adapters
                .traffic
                .drain(&driver.route, version, deadline)
                .await?;
            return Ok(serde_json::json!({ "cut": cut }));
        }
        Effect::RetireNew => {
            target
                .retire(fence, &driver.place, &plan.new.version_id, grace)
                .await?;
        }
    }
    Ok(serde_json::json!({}))
}

async fn stable_spec(driver: &Driver<'_>, state: &State) -> Result<VersionSpec, EffectError> {
    let other = |text: String| EffectError::Other(text);
    let id = state
        .stable
        .as_deref()
        .ok_or_else(|| other("there is no stable version".into()))?;
    let row = driver
        .coordinator
        .db
        .version(id)
        .await
        .map_err(|e| other(e.to_string()))?;
    let row = row.ok_or_else(|| other(format!("version {id} is not stored")))?;
    serde_json::from_str(&row.config_json).map_err(|e| other(e.to_string()))
}

/// The whole table: the new version's share and stable's, with the instances that live. Stable's
/// are taken from the table in use when the target cannot be read: the way back must not wait.
fn table(driver: &Driver<'_>, state: &State, new_bp: u32) -> TrafficTable {
    let seen = driver.memory.target.clone().unwrap_or_default();
    let share = |version: &str, weight_bp: u32, instances: &[InstanceView]| {
        let live: Vec<Instance> = instances
            .iter()
            .filter_map(|one| {
                Some(Instance {
                    id: one.id.clone(),
                    address: one.address.clone()?,
                })
            })
            .collect();
        let known = driver
            .memory
            .table
            .iter()
            .flat_map(|table| &table.versions)
            .find(|share| share.version == version)
            .map(|share| share.instances.clone());
        let instances = if live.is_empty() {
            known.unwrap_or_default()
        } else {
            live
        };
        Share {
            version: version.to_owned(),
            weight_bp,
            instances,
        }
    };
    let mut versions = vec![share(&driver.plan.new.version_id, new_bp, &seen.new)];
    if let Some(stable) = &state.stable {
        versions.push(share(stable, FULL_BP.saturating_sub(new_bp), &seen.stable));
    }
    TrafficTable {
        service: driver.route.clone(),
        hosts: driver.address.hosts.clone(),
        listen: driver.address.listen.clone(),
        versions,
        upstream_timeout_ms: driver.coordinator.defaults.upstream_timeout_ms,
    }
}
