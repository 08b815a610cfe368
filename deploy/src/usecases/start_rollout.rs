//! Hands a release over: checked whole, stored whole, and only then driven.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};
use slipway_core::access::{Caller, Deed, Role};
use slipway_core::gate::GateRules;
use slipway_core::manifest::{Asked, Manifests};
use slipway_core::pipeline::{DeploySpec, EnvironmentSpec, Strategy};
use slipway_core::rollout::{
    Facts, Kind, RolloutPlan, State, Timings, VersionSpec, Wish, pinned_digest,
};
use slipway_daemon::border;
use slipway_store::{Begun, EnvironmentRow, NewRollout, NewVersion, RolloutRow};

use super::Refused;
use super::from_file::{approval, gates, steps, stickiness, variables};
use crate::places::{EnvironmentTarget, Policy};
use crate::run::Coordinator;

/// The largest deploy section.
const DEPLOY_MAX: usize = 256 * 1024;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Start {
    pub(crate) idempotency_key: String,
    pub(crate) build_id: String,
    pub(crate) repo_id: String,
    pub(crate) commit_sha: String,
    pub(crate) environment: String,
    pub(crate) image: String,
    pub(crate) deploy_json: String,
    pub(crate) strategy: String,
    pub(crate) initiator: String,
    /// Rollouts that are under way there go back to stable first.
    pub(crate) supersede: bool,
}

/// Starts a rollout. The same idempotency key gives the same rollout.
pub(crate) async fn start_rollout(
    coordinator: &Coordinator,
    caller: &Caller,
    start: Start,
) -> Result<RolloutRow, Refused> {
    if !caller.may(Deed::StartDeployment) {
        return Err(Refused::MayNot {
            who: caller.subject.clone(),
            what: "start a deployment",
            needed: "the role deployer or admin",
        });
    }
    let initiators = initiators(caller, &start.initiator)?;
    let key = (!start.idempotency_key.is_empty())
        .then(|| format!("start/{}/{}", caller.subject, start.idempotency_key));
    let supersede = start.supersede;
    let row = begin(
        coordinator,
        ("token", &caller.subject),
        initiators,
        key,
        start,
    )
    .await?;
    if supersede {
        superseded(coordinator, caller, &row).await?;
    }
    Ok(row)
}

/// Never from one new version to another: whatever is on its way there goes back to stable, and then
/// the place is this one's.
async fn superseded(
    coordinator: &Coordinator,
    caller: &Caller,
    row: &RolloutRow,
) -> Result<(), Refused> {
    for other in super::roll_back::active_rollouts(coordinator, row).await? {
        if other >= row.deployment_id {
            continue;
        }
        let wish = Wish::Abort {
            reason: format!("superseded by {}", row.deployment_id),
        };
        match super::steer(coordinator, caller, &other, &wish).await {
            // It ended meanwhile: nothing is in the way.
            Ok(_) | Err(Refused::State(..)) => {}
            Err(refused) => return Err(refused),
        }
    }
    Ok(())
}

/// Checks and stores a rollout that `actor` may start.
pub(super) async fn begin(
    coordinator: &Coordinator,
    actor: (&str, &str),
    initiators: BTreeSet<String>,
    key: Option<String>,
    start: Start,
) -> Result<RolloutRow, Refused> {
    let spec = read(&start)?;
    let environment = spec
        .environments
        .iter()
        .find(|known| known.name == start.environment);
    let environment = environment.cloned().ok_or_else(|| {
        let text = format!(
            "names `{}`, which the deploy section does not have",
            start.environment
        );
        Refused::Field("environment", text)
    })?;
    let registered = registered(coordinator, &environment).await?;
    let policy: Policy = serde_json::from_str(&registered.policy).map_err(|error| {
        anyhow::anyhow!(
            "the policy of environment `{}` is not readable: {error}",
            registered.name
        )
    })?;
    let now = coordinator.clock.now();
    let id = coordinator.rng.ulid(now);
    let pods = described(&spec, &environment, &registered, &policy)?;
    let asked = (&spec, &environment);
    let mut plan = plan(coordinator, (&id, &start), asked, &registered, pods)?;
    plan.initiators = initiators;
    plan.approval = approval(&environment, &policy);
    plan.gates = gates(&environment)?;
    answered(&plan.gates, &registered)?;
    if policy.max_error_ppm > 0 {
        plan.gates.watch_error_ppm = plan.gates.watch_error_ppm.min(policy.max_error_ppm);
    }
    plan.check()?;
    let known = coordinator
        .db
        .services()
        .await?
        .into_iter()
        .find(|s| s.name == spec.service);
    let owner = known.as_ref().map_or("", |known| &known.repo_id);
    is_of(owner, &start.repo_id, &spec.service)?;
    let service_id = known.map_or_else(|| coordinator.rng.ulid(now), |known| known.service_id);
    let (barred, under_way) = coordinator.barred_by(&service_id, &plan).await?;
    if let Some(reason) = barred.filter(|_| !under_way) {
        return Err(Refused::State("staging_required", reason));
    }
    // Nothing was written before this line: a refusal leaves no trace.
    let service = coordinator
        .db
        .ensure_service(&service_id, &start.repo_id, &spec.service, now)
        .await?;
    // Of two that name it first at once, one owns it.
    is_of(&service.repo_id, &start.repo_id, &spec.service)?;
    let place = (&service.service_id, &registered.environment_id);
    let good = coordinator.good_version(place.0, place.1).await?;
    plan.first = good.is_none();
    let mut new = stored(coordinator, actor, &start, plan, &registered, place.0, good)?;
    new.idem_key = key;
    border::reach("before begin", "");
    let begun = coordinator.db.begin_rollout(new).await?;
    border::reach("after begin", "");
    let row = match begun {
        Begun::New(row) | Begun::Existing(row) => row,
    };
    coordinator.nudge(&row.deployment_id);
    Ok(row)
}

/// A gate that nobody answers would only hold the rollout up.
fn answered(gates: &GateRules, registered: &EnvironmentRow) -> Result<(), Refused> {
    let Some(gate) = gates.custom.first() else {
        return Ok(());
    };
    let target: EnvironmentTarget = serde_json::from_str(&registered.target).map_err(|error| {
        anyhow::anyhow!(
            "the target of `{}` is not readable: {error}",
            registered.name
        )
    })?;
    if target.prometheus.is_some() {
        return Ok(());
    }
    let text = format!(
        "gate `{}` asks Prometheus, and environment `{}` has none; add `\"prometheus\": {{\"url\": …}}` to \
         its target on the server, or remove the gate",
        gate.name, registered.name
    );
    Err(Refused::State("no_metric_source", text))
}

/// A pipeline file may name any service; only the repository that named it first deploys it. What follows
/// from a stored deployment names no repository: it was checked when that one began.
fn is_of(owner: &str, asking: &str, service: &str) -> Result<(), Refused> {
    if asking.is_empty() || owner.is_empty() || owner == asking {
        return Ok(());
    }
    let text = format!(
        "the service `{service}` belongs to another repository; give yours another name in the \
         deploy section"
    );
    Err(Refused::State("service_taken", text))
}

fn read(start: &Start) -> Result<DeploySpec, Refused> {
    if start.deploy_json.len() > DEPLOY_MAX {
        return Err(Refused::Field(
            "deploy_json",
            "is larger than 256 KiB".to_owned(),
        ));
    }
    if start.build_id.is_empty() || start.build_id.len() > 64 {
        return Err(Refused::Field(
            "build_id",
            "must have 1 to 64 bytes".to_owned(),
        ));
    }
    if start.idempotency_key.len() > 255 {
        return Err(Refused::Field(
            "idempotency_key",
            "is longer than 255 bytes".to_owned(),
        ));
    }
    serde_json::from_str(&start.deploy_json)
        .map_err(|error| Refused::Field("deploy_json", format!("is not a deploy section: {error}")))
}

/// Everybody who stands behind a start. A hand-over in somebody's name has that somebody, and the
/// one who hands over unless it is the system itself: naming another never hides the caller.
fn initiators(caller: &Caller, named: &str) -> Result<BTreeSet<String>, Refused> {
    let mut all = BTreeSet::from([caller.subject.clone()]);
    if named.is_empty() || named == caller.subject {
        return Ok(all);
    }
    if !caller.roles.contains(&Role::Admin) && caller.subject != "system" {
        return Err(Refused::MayNot {
            who: caller.subject.clone(),
            what: "start a deployment in another name",
            needed: "the role admin",
        });
    }
    all.insert(named.to_owned());
    Ok(all)
}

async fn registered(
    coordinator: &Coordinator,
    environment: &EnvironmentSpec,
) -> Result<EnvironmentRow, Refused> {
    let by_name = coordinator
        .db
        .environment_by_name(&environment.name)
        .await?;
    let found = match by_name {
        Some(row) => Some(row),
        None if environment.target.is_empty() => None,
        None => {
            coordinator
                .db
                .environment_by_name(&environment.target)
                .await?
        }
    };
    found.ok_or_else(|| {
        let text = format!(
            "environment `{}` is not registered on this server; register it with its target first",
            environment.name
        );
        Refused::State("environment_not_registered", text)
    })
}

/// The manifests of a service's pods there, judged by what the server allows.
fn described(
    spec: &DeploySpec,
    environment: &EnvironmentSpec,
    registered: &EnvironmentRow,
    policy: &Policy,
) -> Result<Option<(Manifests, Asked)>, Refused> {
    let Some(pods) = spec.pods_of(environment) else {
        return Ok(None);
    };
    let target: EnvironmentTarget = serde_json::from_str(&registered.target).map_err(|error| {
        anyhow::anyhow!(
            "the target of `{}` is not readable: {error}",
            registered.name
        )
    })?;
    let Some(place) = target.kubernetes.filter(|_| target.kind == "kubernetes") else {
        let text = format!(
            "environment `{}` is no cluster, and only a cluster has manifests; write `manifests` or `chart` into the \
             environments of the pipeline file that are clusters",
            registered.name
        );
        return Err(Refused::State("manifests_without_cluster", text));
    };
    let manifests = pods.manifests.clone();
    let asked = slipway_core::manifest::judge(&manifests, &place.namespace, &policy.pods);
    let asked = asked.map_err(|error| Refused::State("manifest_refused", error.to_string()))?;
    Ok(Some((manifests, asked)))
}

fn plan(
    coordinator: &Coordinator,
    (id, start): (&str, &Start),
    (spec, environment): (&DeploySpec, &EnvironmentSpec),
    registered: &EnvironmentRow,
    pods: Option<(Manifests, Asked)>,
) -> Result<RolloutPlan, Refused> {
    let strategy = match start.strategy.as_str() {
        "" => environment.strategy,
        "blue-green" => Strategy::BlueGreen,
        "canary" => Strategy::Canary,
        "rolling" => Strategy::Rolling,
        other => {
            let text = format!("is `{other}`; use blue-green, canary or rolling");
            return Err(Refused::Field("strategy", text));
        }
    };
    let said = environment.replicas.unwrap_or(spec.replicas);
    let replicas = match &pods {
        Some((_, asked)) if said == 0 => asked.replicas.unwrap_or(1),
        _ => said,
    };
    let steps = steps(
        strategy,
        environment,
        replicas,
        coordinator.defaults.min_ready_ms,
    );
    let defaults = coordinator.defaults;
    Ok(RolloutPlan {
        kind: Kind::Rollout,
        strategy,
        service: spec.service.clone(),
        environment: environment.name.clone(),
        section: start.deploy_json.clone(),
        new: VersionSpec {
            version_id: id.to_owned(),
            image: start.image.clone(),
            port: spec.port,
            replicas,
            health_path: spec.health_path.clone(),
            environment: variables(&environment.environment)?,
            memory_bytes: environment.memory_bytes,
            cpu_millis: environment.cpu_millis,
            pods: pods.map(|(manifests, _)| manifests),
        },
        steps,
        smoke: environment.smoke.clone(),
        approval: None,
        after: if environment.require_staging {
            environment.after.clone()
        } else {
            vec![]
        },
        initiators: BTreeSet::new(),
        timings: Timings {
            warm_passes: defaults.warm_passes,
            warm_deadline_ms: defaults.warm_deadline_ms,
            min_ready_ms: defaults.min_ready_ms,
            watch_ms: environment.watch_ms,
            retain_old_ms: environment.retain_old_ms,
            drain_ms: environment.drain_ms,
            tick_ms: defaults.tick_ms,
            ..Timings::default()
        },
        gates: GateRules::default(),
        stickiness: stickiness(environment)?,
        facts: Facts {
            build_id: start.build_id.clone(),
            commit_sha: start.commit_sha.clone(),
            pipeline_hash: hex::encode(Sha256::digest(start.deploy_json.as_bytes())),
            environment_id: registered.environment_id.clone(),
        },
        first: false,
    })
}

fn stored(
    coordinator: &Coordinator,
    actor: (&str, &str),
    start: &Start,
    plan: RolloutPlan,
    registered: &EnvironmentRow,
    service_id: &str,
    good: Option<String>,
) -> Result<NewRollout, Refused> {
    let now = coordinator.clock.now();
    let json = |value: serde_json::Result<String>| value.map_err(|e| Refused::Internal(e.into()));
    let id = plan.new.version_id.clone();
    let strategy = match plan.strategy {
        Strategy::BlueGreen => "blue-green",
        Strategy::Canary => "canary",
        Strategy::Rolling => "rolling",
    };
    let detail = serde_json::json!({
        "build": start.build_id,
        "image": plan.new.image,
        "environment": plan.environment,
        "initiators": plan.initiators,
        "first": plan.first,
    });
    let named = if start.initiator.is_empty() {
        actor.1
    } else {
        &start.initiator
    };
    Ok(NewRollout {
        build_id: start.build_id.clone(),
        initiator_id: named.to_owned(),
        service_id: service_id.to_owned(),
        environment_id: registered.environment_id.clone(),
        target_environment: plan.environment.clone(),
        strategy: strategy.to_owned(),
        source_version: good,
        target_version: id.clone(),
        approval_status: if plan.approval.is_some() {
            "pending"
        } else {
            "approved"
        }
        .to_owned(),
        kind: "rollout".to_owned(),
        plan_hash: plan.hash(&registered.target),
        state_json: json(serde_json::to_string(&State::planned(now)))?,
        idem_key: None,
        version: Some(NewVersion {
            image: plan.new.image.clone(),
            digest: pinned_digest(&plan.new.image)
                .unwrap_or_default()
                .to_owned(),
            config_hash: plan.config_hash(),
            config_json: json(serde_json::to_string(&plan.new))?,
        }),
        plan_json: json(serde_json::to_string(&plan))?,
        now,
        audit: coordinator.audit(actor, "deployment.start", &id, detail),
        deployment_id: id,
    })
}
