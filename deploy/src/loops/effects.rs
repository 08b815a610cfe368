//! Carries out one effect, under the stored fence.

use std::time::Duration;

use slipway_core::pipeline::Strategy;
use slipway_core::rollout::{
    Effect, InstanceView, Kind, State, StepState, VersionSpec, host_of, instances_at, parked_to,
    share_of, standing,
};
use slipway_core::traffic::{CanaryLease, FULL_BP, Fence, Instance, Share, TrafficTable};

use super::drive::Driver;
use crate::targets::TargetError;
use crate::traffic::TrafficError;

/// A new version keeps its weight for this long without a coordinator that looks: twelve ticks.
const LEASE_MS: u64 = 60_000;
/// Up to a tenth of the traffic, weight stays where it is even then.
const LEASE_HOLDS_BP: u32 = 1_000;

/// Why an effect is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub(super) enum EffectError {
    /// Somebody with a newer token has been there.
    #[error("stale_token: {seen} was seen there")]
    Stale {
        /// That token.
        seen: u64,
    },
    /// The target says no, and why: trying again may not help.
    #[error("{0}")]
    Refused(String),
    /// Somebody else changed what carries the traffic: not taken from them on the way forward.
    #[error("{0}")]
    Foreign(String),
    /// Some of several routers took it and others did not.
    #[error("{0}")]
    Partial(String),
    /// Anything else: the read-back decides.
    #[error("{0}")]
    Other(String),
}

impl From<TargetError> for EffectError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::StaleToken { seen } => Self::Stale { seen },
            TargetError::Refused(_) => Self::Refused(error.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<TrafficError> for EffectError {
    fn from(error: TrafficError) -> Self {
        match error {
            TrafficError::StaleToken { seen } => Self::Stale { seen },
            TrafficError::Foreign(_) => Self::Foreign(error.to_string()),
            TrafficError::Refused(_) => Self::Refused(error.to_string()),
            TrafficError::Partial(_) => Self::Partial(error.to_string()),
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
        Effect::EnsureNew { count } => {
            let count = if count > 0 { count } else { plan.new.replicas };
            revive(driver, fence, grace).await?;
            target
                .ensure_some(fence, &driver.place, &plan.new, count)
                .await?;
        }
        Effect::EnsureStable => {
            let stable = stable_spec(driver, state).await?;
            target.ensure(fence, &driver.place, &stable).await?;
        }
        Effect::ParkStable { keep } => {
            let stable = state.stable.as_deref().unwrap_or_default();
            target
                .park(fence, &driver.place, stable, keep, grace)
                .await?;
        }
        Effect::Route { .. } | Effect::Seal => {
            let (new_bp, leased) = match step.effect {
                Effect::Route { new_bp } => (new_bp, new_bp > 0),
                _ => (FULL_BP, false),
            };
            let table = table(driver, state, new_bp, leased);
            let traffic = &driver.adapters.traffic;
            if new_bp == 0 || plan.kind == Kind::Rollback {
                traffic.take_back(fence, &table).await?;
            } else {
                traffic.apply(fence, &table).await?;
            }
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

/// A rollback goes to a version whose removal may be under way, here or at a coordinator that died: that is
/// finished first, so that nothing which is started now is taken for what was to go.
async fn revive(driver: &Driver<'_>, fence: Fence, grace: Duration) -> Result<(), EffectError> {
    if driver.plan.kind != Kind::Rollback {
        return Ok(());
    }
    let (db, id) = (&driver.coordinator.db, &driver.plan.new.version_id);
    let other = |error: slipway_store::StoreError| EffectError::Other(error.to_string());
    let Some(version) = db.version(id).await.map_err(other)? else {
        return Ok(());
    };
    if version.state == "stopped" {
        let target = &driver.adapters.target;
        target.retire(fence, &driver.place, id, grace).await?;
    }
    db.revive_version(id).await.map_err(other)
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

/// Those of stable's instances that go on beside a new version with this weight, on each host its share.
fn left_of(stable: &[InstanceView], new_bp: u32) -> Vec<InstanceView> {
    let count = |list: usize| u32::try_from(list).unwrap_or(u32::MAX);
    let keep = count(parked_to(stable.len(), new_bp));
    let on = |one: &&InstanceView, host: Option<&str>| host_of(&one.id).1 == host;
    let mut left: Vec<InstanceView> = Vec::new();
    for one in stable {
        let host = host_of(&one.id).1;
        let own = stable.iter().filter(|other| on(other, host)).count();
        let taken = left.iter().filter(|other| on(other, host)).count();
        if count(taken) < share_of(keep, count(stable.len()), count(own)) {
            left.push(one.clone());
        }
    }
    left
}

/// The whole table: the new version's share and stable's, with the instances that live. Stable's
/// are taken from the table in use when the target cannot be read: the way back must not wait.
fn table(driver: &Driver<'_>, state: &State, new_bp: u32, leased: bool) -> TrafficTable {
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
    let hosts = driver.adapters.target.hosts();
    let several = !hosts.is_empty();
    let mut new = seen.new.clone();
    if several && new_bp > 0 {
        let count = instances_at(&driver.plan, new_bp);
        let found = standing(
            &new,
            &hosts,
            count,
            driver.plan.new.replicas,
            driver.plan.kind == Kind::Rollback,
        );
        let takes_part = |host: &str| found.taking_part.iter().any(|name| name == host);
        new.retain(|one| host_of(&one.id).1.is_none_or(takes_part));
    }
    let mut versions = vec![share(&driver.plan.new.version_id, new_bp, &new)];
    if let Some(stable) = &state.stable {
        // What this batch takes over gets no request any more, and is stopped after it.
        let left = match driver.plan.strategy {
            Strategy::Rolling if new_bp > 0 && new_bp < FULL_BP => left_of(&seen.stable, new_bp),
            _ => seen.stable.clone(),
        };
        versions.push(share(stable, FULL_BP.saturating_sub(new_bp), &left));
    }
    // Without a stable version there is nothing that the router could go back to by itself.
    let watched = leased && state.stable.is_some() && driver.plan.kind == Kind::Rollout;
    TrafficTable {
        canary: if watched {
            driver.plan.new.version_id.clone()
        } else {
            String::new()
        },
        stickiness: driver.plan.stickiness.clone(),
        lease: watched.then_some(CanaryLease {
            ms: LEASE_MS,
            // A host that is cut off does not hear that the others went back: there the weight always ends.
            revert: several || new_bp > LEASE_HOLDS_BP,
        }),
        service: driver.route.clone(),
        hosts: driver.address.hosts.clone(),
        listen: driver.address.listen.clone(),
        versions,
        upstream_timeout_ms: driver.coordinator.defaults.upstream_timeout_ms,
    }
}
