//! Hands a release over: checked whole, stored whole, and only then driven.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use slipway_core::access::{ApprovalRule, Caller, Deed, Role};
use slipway_core::gate::{GateRules, OnInconclusive, OnUnproven, read_rules};
use slipway_core::pipeline::{DeploySpec, EnvValue, EnvironmentSpec, Strategy};
use slipway_core::rollout::{
    Facts, Kind, RolloutPlan, State, Step, Timings, VersionSpec, Wish, pinned_digest,
};
use slipway_core::traffic::{FULL_BP, Stickiness};
use slipway_store::{Begun, EnvironmentRow, NewRollout, NewVersion, RolloutRow};

use super::Refused;
use crate::places::Policy;
use crate::run::Coordinator;

/// The largest deploy section.
const DEPLOY_MAX: usize = 256 * 1024;

/// A canary's steps when nobody says others: weight and bake.
const USUAL_STEPS: [(u32, u64); 4] = [
    (100, 300_000),
    (1_000, 300_000),
    (5_000, 600_000),
    (FULL_BP, 0),
];

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
    let mut plan = plan(coordinator, &id, &start, &spec, &environment, &registered)?;
    plan.initiators = initiators;
    plan.approval = approval(&environment, &policy);
    plan.gates = gates(&environment)?;
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
    let place = (&service.service_id, &registered.environment_id);
    let good = coordinator.good_version(place.0, place.1).await?;
    plan.first = good.is_none();
    let mut new = stored(coordinator, actor, &start, plan, &registered, place.0, good)?;
    new.idem_key = key;
    let row = match coordinator.db.begin_rollout(new).await? {
        Begun::New(row) | Begun::Existing(row) => row,
    };
    coordinator.nudge(&row.deployment_id);
    Ok(row)
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

fn plan(
    coordinator: &Coordinator,
    id: &str,
    start: &Start,
    spec: &DeploySpec,
    environment: &EnvironmentSpec,
    registered: &EnvironmentRow,
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
    let replicas = environment.replicas.unwrap_or(spec.replicas);
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

/// The steps of a strategy. A canary that the file says nothing about has the usual ones; rolling
/// takes a batch of instances at a time.
fn steps(
    strategy: Strategy,
    environment: &EnvironmentSpec,
    replicas: u32,
    batch_bake_ms: u64,
) -> Vec<Step> {
    let step = |weight_bp, bake_ms| Step {
        weight_bp,
        bake_ms,
        approval: false,
    };
    match strategy {
        Strategy::BlueGreen => vec![step(FULL_BP, 0)],
        Strategy::Canary if environment.steps.is_empty() => USUAL_STEPS
            .into_iter()
            .map(|(weight_bp, bake_ms)| step(weight_bp, bake_ms))
            .collect(),
        Strategy::Canary => {
            let given = environment.steps.iter();
            given
                .map(|given| Step {
                    weight_bp: given.weight_bp,
                    bake_ms: given.bake_ms,
                    approval: given.approval,
                })
                .collect()
        }
        Strategy::Rolling => {
            let batch = replicas * environment.max_surge_percent.min(100);
            let batch = batch.div_ceil(100).max(1);
            let ends = (1..=replicas.div_ceil(batch)).map(|i| (i * batch).min(replicas));
            ends.map(|count| step(count * FULL_BP / replicas.max(1), batch_bake_ms))
                .collect()
        }
    }
}

fn stickiness(environment: &EnvironmentSpec) -> Result<Stickiness, Refused> {
    match environment.stickiness.as_str() {
        "" => Ok(Stickiness::Auto),
        word => word
            .parse()
            .map_err(|error| Refused::Field("stickiness", format!("is `{word}`: {error}"))),
    }
}

fn variables(given: &BTreeMap<String, EnvValue>) -> Result<BTreeMap<String, String>, Refused> {
    let value = |(name, value): (&String, &EnvValue)| match value {
        EnvValue::Plain(text) => Ok((name.clone(), text.clone())),
        EnvValue::FromSecret(_) => Err(Refused::Field(
            "environment",
            format!(
                "`{name}` comes from a secret; services cannot be given secrets in this version"
            ),
        )),
    };
    given.iter().map(value).collect()
}

/// The file's gates. A gate that nothing here evaluates is refused: it must never look as if it had
/// passed.
fn gates(environment: &EnvironmentSpec) -> Result<GateRules, Refused> {
    if environment.on_failure == "hold" {
        let text = "`hold` is not available in this version; use `rollback`".to_owned();
        return Err(Refused::Field("on_failure", text));
    }
    let read = read_rules(&environment.gates);
    let mut rules = read.map_err(|text| Refused::Field("gates", text))?;
    rules.on_inconclusive = match environment.on_inconclusive.as_str() {
        "" | "pause" => OnInconclusive::Pause,
        "rollback" => OnInconclusive::Rollback,
        "proceed" => OnInconclusive::Proceed,
        other => return Err(Refused::Field("on_inconclusive", format!("is `{other}`"))),
    };
    rules.on_unproven = match environment.on_unproven.as_str() {
        "" | "proceed" => OnUnproven::Proceed,
        "pause" => OnUnproven::Pause,
        other => return Err(Refused::Field("on_unproven", format!("is `{other}`"))),
    };
    Ok(rules)
}

/// The stricter of what the file and the server ask for.
fn approval(environment: &EnvironmentSpec, policy: &Policy) -> Option<ApprovalRule> {
    let file = environment.approval.as_ref();
    if file.is_none() && !policy.approval && policy.min_approvals == 0 {
        return None;
    }
    let from_file: BTreeSet<String> = file
        .map(|spec| spec.groups.iter().cloned().collect())
        .unwrap_or_default();
    Some(ApprovalRule {
        groups: if policy.groups.is_empty() {
            from_file
        } else {
            policy.groups.clone()
        },
        min_approvals: file
            .map_or(1, |spec| spec.min_approvals)
            .max(policy.min_approvals)
            .max(1),
        // Without a file's word on it, a second person is needed.
        approver_not_initiator: policy.approver_not_initiator
            || file.is_none_or(|spec| spec.approver_not_initiator),
        expiry_ms: file.map_or(24 * 3_600_000, |spec| spec.expiry_ms),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(gates: serde_json::Value, on_failure: &str) -> EnvironmentSpec {
        EnvironmentSpec {
            name: "production".to_owned(),
            auto: true,
            after: vec![],
            target: String::new(),
            strategy: Strategy::BlueGreen,
            steps: vec![],
            smoke: vec![],
            approval: None,
            watch_ms: 0,
            retain_old_ms: 0,
            drain_ms: 0,
            replicas: None,
            environment: BTreeMap::new(),
            memory_bytes: 0,
            cpu_millis: 0,
            max_surge_percent: 0,
            max_unavailable_percent: 0,
            gates,
            on_inconclusive: String::new(),
            on_unproven: String::new(),
            stickiness: String::new(),
            on_failure: on_failure.to_owned(),
            require_staging: true,
        }
    }

    #[test]
    fn a_gate_that_nothing_evaluates_is_refused_and_never_skipped() {
        let ppm = |gates| gates_of(gates, "rollback").map(|rules| rules.watch_error_ppm);
        fn gates_of(given: serde_json::Value, on_failure: &str) -> Result<GateRules, String> {
            gates(&spec(given, on_failure)).map_err(|e| e.to_string())
        }
        assert_eq!(ppm(serde_json::Value::Null), Ok(10_000));
        let watch = serde_json::json!({ "watch": { "max_error_rate": "0.1%" } });
        assert_eq!(ppm(watch), Ok(1_000));
        assert!(ppm(serde_json::json!({ "custom": [] })).is_err());
        assert!(gates_of(serde_json::Value::Null, "hold").is_err());
    }

    #[test]
    fn rolling_goes_batch_by_batch_and_a_canary_has_its_usual_steps() {
        let mut environment = spec(serde_json::Value::Null, "rollback");
        environment.max_surge_percent = 25;
        let weights = |strategy, replicas| -> Vec<u32> {
            let all = steps(strategy, &environment, replicas, 1);
            all.iter().map(|step| step.weight_bp).collect()
        };
        assert_eq!(weights(Strategy::Rolling, 4), [2_500, 5_000, 7_500, 10_000]);
        assert_eq!(weights(Strategy::Rolling, 3), [3_333, 6_666, 10_000]);
        assert_eq!(weights(Strategy::Rolling, 1), [10_000]);
        assert_eq!(
            weights(Strategy::Rolling, 10),
            [3_000, 6_000, 9_000, 10_000]
        );
        assert_eq!(weights(Strategy::Canary, 1), [100, 1_000, 5_000, 10_000]);
    }

    #[test]
    fn the_stricter_of_file_and_server_holds() {
        let mut spec = spec(serde_json::Value::Null, "rollback");
        assert_eq!(approval(&spec, &Policy::default()), None);
        let server = Policy {
            approval: true,
            min_approvals: 2,
            ..Policy::default()
        };
        let rule = approval(&spec, &server).unwrap();
        assert_eq!((rule.min_approvals, rule.approver_not_initiator), (2, true));
        spec.approval = Some(slipway_core::pipeline::ApprovalSpec {
            groups: vec!["release".to_owned()],
            min_approvals: 1,
            approver_not_initiator: false,
            expiry_ms: 5,
        });
        let rule = approval(&spec, &Policy::default()).unwrap();
        assert!(!rule.approver_not_initiator && rule.groups.contains("release"));
        let strict = Policy {
            approver_not_initiator: true,
            ..server
        };
        assert!(approval(&spec, &strict).unwrap().approver_not_initiator);
    }
}
