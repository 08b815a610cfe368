//! What is seen of the world before a decision.

use std::time::Duration;

use slipway_core::rollout::{
    Effect, Health, InstanceView, Kind, Needs, Observed, Phase, Refusal, RolloutPlan, Smoke, State,
    TargetView, TrafficView, instances_at, standing, unheard,
};
use slipway_core::traffic::{FULL_BP, TrafficTable};
use slipway_store::RolloutRow;

use super::drive::Driver;
use super::gates::{self, Window};
use crate::probes::HealthMemory;
use crate::targets::{Instances, TargetError};
use crate::traffic::Reading;

/// A target that says nothing for so long is not waited for on the way back.
const SILENT: Duration = Duration::from_secs(1);

/// What a driver remembers between two looks; lost with it, and then looked at again.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) target: Option<TargetView>,
    pub(super) table: Option<TrafficTable>,
    pub(super) window: Option<Window>,
    /// When stable was first brought, wall-clock milliseconds.
    pub(super) stable_since: Option<i64>,
    /// What the target says no to, since when, and why.
    pub(super) refused: Option<(Effect, Duration, String)>,
    /// Some of several routers took a step's table and others did not.
    pub(super) partial: Option<String>,
    health: HealthMemory,
    smoke: Option<Smoke>,
    seen_router_at: Option<Duration>,
}

/// Looks at what the decision needs. What cannot be seen is `None`.
pub(super) async fn observe(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
    needs: Needs,
) -> Observed {
    let now = driver.coordinator.clock.monotonic();
    let plan = driver.plan.clone();
    let mut observed = Observed {
        refused: refusal(driver, state, now),
        ..Observed::default()
    };
    if needs.target || needs.health || needs.smoke {
        observed.target = look_at_target(driver, state).await;
    }
    if !needs.traffic {
        gates::before(driver, state).await;
    }
    if needs.traffic {
        look_at_traffic(driver, row, state, &mut observed).await;
    }
    let instances = match (&observed.target, &driver.memory.target) {
        (Some(target), _) | (None, Some(target)) => target.new.clone(),
        (None, None) => Vec::new(),
    };
    if needs.health {
        let health = look_at_health(driver, state, &instances, now).await;
        observed.health = Some(health);
    }
    if needs.smoke {
        if driver.memory.smoke.is_none() && observed.target.is_some() {
            let limit = Duration::from_millis(plan.timings.smoke_deadline_ms);
            let via = &driver.adapters.traffic;
            let checking = driver
                .coordinator
                .prober
                .smoke(&plan.smoke, &instances, via);
            let result = tokio::time::timeout(limit, checking).await;
            let late = |_| Smoke::Failed("smoke checks did not end in time".to_owned());
            driver.memory.smoke = Some(result.unwrap_or_else(late));
        }
        observed.smoke.clone_from(&driver.memory.smoke);
    } else if state.phase != Phase::Smoke {
        driver.memory.smoke = None;
    }
    observed.hosts = driver.adapters.target.hosts();
    if state.phase == Phase::Shift {
        observed.partial.clone_from(&driver.memory.partial);
    } else {
        driver.memory.partial = None;
    }
    observed
}

/// A round of health checks of the present step's instances.
async fn look_at_health(
    driver: &mut Driver<'_>,
    state: &State,
    instances: &[InstanceView],
    now: Duration,
) -> Health {
    let plan = &driver.plan;
    // Of this step's instances: later ones come with their weight.
    let mut some = plan.new.clone();
    some.replicas = instances_at(plan, weight_at(plan, state));
    let hosts = driver.adapters.target.hosts();
    if !hosts.is_empty() {
        let (count, all) = (some.replicas, plan.new.replicas);
        let going_back = plan.kind == Kind::Rollback;
        some.replicas = standing(instances, &hosts, count, all, going_back).wanted;
    }
    let (via, passes) = (&driver.adapters.traffic, plan.timings.warm_passes);
    let memory = &mut driver.memory.health;
    let prober = &driver.coordinator.prober;
    prober
        .health(memory, &some, passes, instances, now, via)
        .await
}

/// What the routers say, and the gates of it; not known where it is not enough to go by.
async fn look_at_traffic(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
    observed: &mut Observed,
) {
    let now = driver.coordinator.clock.monotonic();
    let read = driver.adapters.traffic.read(&driver.route).await;
    let since = *driver.memory.seen_router_at.get_or_insert(now);
    match (read, not_enough(driver, state)) {
        (Ok(reading), Some(why)) => {
            // What some of them say is used for the way back, and proves nothing.
            driver.memory.table.clone_from(&reading.table);
            tracing::warn!(rollout = driver.id, why, "not every router can be read");
            observed.blind_for = now.saturating_sub(since);
        }
        (Ok(reading), None) => {
            driver.memory.seen_router_at = Some(now);
            driver.memory.table.clone_from(&reading.table);
            observed.traffic = Some(traffic_view(&reading, &driver.plan));
            observed.gates = gates::judge(driver, row, state, &reading).await;
        }
        (Err(error), _) => {
            tracing::warn!(rollout = driver.id, %error, "cannot read the router");
            observed.blind_for = now.saturating_sub(since);
            if let Some(step) = &state.step {
                driver.not_done(step.effect, error.into());
            }
        }
    }
}

/// Why what the routers said is not enough to go by.
fn not_enough(driver: &Driver<'_>, state: &State) -> Option<String> {
    unheard(
        &driver.adapters.traffic.hosts(),
        is_going_back(driver, state),
    )
}

/// A rollback, and the way back of a rollout.
fn is_going_back(driver: &Driver<'_>, state: &State) -> bool {
    driver.plan.kind == Kind::Rollback || state.phase.is_going_back()
}

/// What the target says of the present step.
fn refusal(driver: &Driver<'_>, state: &State, now: Duration) -> Option<Refusal> {
    let (effect, since, why) = driver.memory.refused.as_ref()?;
    let step = state.step.as_ref().filter(|step| step.effect == *effect);
    step.map(|_| Refusal {
        lasting: now.saturating_sub(*since),
        why: why.clone(),
    })
}

fn weight_at(plan: &RolloutPlan, state: &State) -> u32 {
    let step = usize::try_from(state.step_idx).ok();
    step.and_then(|idx| plan.steps.get(idx))
        .map_or(FULL_BP, |step| step.weight_bp)
}

/// Whether the version that a rollback goes to is being removed: what still runs of it is as good as gone.
/// `None` = not known.
async fn is_going(driver: &Driver<'_>, state: &State) -> Option<bool> {
    if driver.plan.kind != Kind::Rollback || state.phase != Phase::Prepare {
        return Some(false);
    }
    let id = &driver.plan.new.version_id;
    match driver.coordinator.db.version(id).await {
        Ok(version) => Some(version.is_some_and(|version| version.state == "stopped")),
        Err(error) => {
            tracing::warn!(rollout = driver.id, %error, "cannot read the version");
            None
        }
    }
}

async fn look_at_target(driver: &mut Driver<'_>, state: &State) -> Option<TargetView> {
    let is_going = is_going(driver, state).await?;
    match seen(driver).await {
        Ok(mut all) => {
            let mut new = all.remove(&driver.plan.new.version_id).unwrap_or_default();
            if is_going {
                new.iter_mut().for_each(|instance| instance.address = None);
            }
            let view = TargetView {
                new,
                stable: state
                    .stable
                    .as_ref()
                    .and_then(|s| all.remove(s))
                    .unwrap_or_default(),
            };
            driver.memory.target = Some(view.clone());
            Some(view)
        }
        Err(error) => {
            tracing::warn!(rollout = driver.id, %error, "cannot read the target");
            if is_going {
                return None;
            }
            let view = as_routed(driver, state).await?;
            driver.memory.target = Some(view.clone());
            Some(view)
        }
    }
}

/// What the target says. The way back does not wait for one that is silent.
async fn seen(driver: &Driver<'_>) -> Result<Instances, TargetError> {
    let asked = driver.adapters.target.observe(&driver.place);
    if driver.plan.kind != Kind::Rollback {
        return asked.await;
    }
    let late = || Err(TargetError::Unknown("no answer within 1 s".to_owned()));
    let answer = tokio::time::timeout(SILENT, asked).await;
    answer.unwrap_or_else(|_| late())
}

/// Instances as the router knows them, for a rollback to a version that is still warm while nobody can ask
/// the target: whether they live is what the health checks find out, which ask the instances themselves.
async fn as_routed(driver: &Driver<'_>, state: &State) -> Option<TargetView> {
    let on_the_way = matches!(
        state.phase,
        Phase::Prepare | Phase::Warm | Phase::Smoke | Phase::Shift
    );
    if driver.plan.kind != Kind::Rollback || !on_the_way {
        return None;
    }
    let reading = driver.adapters.traffic.read(&driver.route).await.ok()?;
    let table = reading.table?;
    let of = |version: &str| {
        let share = table.versions.iter().find(|one| one.version == version);
        let instances = share.into_iter().flat_map(|share| &share.instances);
        instances
            .map(|one| InstanceView {
                id: one.id.clone(),
                address: Some(one.address.clone()),
                exits: 0,
                oom: false,
            })
            .collect::<Vec<_>>()
    };
    let view = TargetView {
        new: of(&driver.plan.new.version_id),
        stable: state.stable.as_deref().map(of).unwrap_or_default(),
    };
    (!view.new.is_empty()).then_some(view)
}

fn traffic_view(reading: &Reading, plan: &RolloutPlan) -> TrafficView {
    let new = &plan.new.version_id;
    TrafficView {
        fence: reading.fence,
        weights: reading
            .table
            .iter()
            .flat_map(|table| &table.versions)
            .map(|share| (share.version.clone(), share.weight_bp))
            .collect(),
        leased: reading
            .table
            .as_ref()
            .is_some_and(|table| table.lease.is_some()),
        tripped: reading
            .tripped
            .as_ref()
            .filter(|(version, _)| version == new)
            .map(|(_, why)| why.clone()),
        apart: reading.apart.clone(),
    }
}
