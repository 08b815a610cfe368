//! What the pipeline file's deploy section asks for, in the engine's words. What cannot be done is refused
//! here, with the field's name.

use std::collections::{BTreeMap, BTreeSet};

use slipway_core::access::ApprovalRule;
use slipway_core::gate::{GateRules, OnInconclusive, OnUnproven, read_rules};
use slipway_core::pipeline::{EnvValue, EnvironmentSpec, Strategy};
use slipway_core::rollout::Step;
use slipway_core::traffic::{FULL_BP, Stickiness};

use super::Refused;
use crate::places::Policy;

/// A canary's steps when nobody says others: weight and bake.
const USUAL_STEPS: [(u32, u64); 4] = [
    (100, 300_000),
    (1_000, 300_000),
    (5_000, 600_000),
    (FULL_BP, 0),
];

/// The steps of a strategy. A canary that the file says nothing about has the usual ones; rolling
/// takes a batch of instances at a time.
pub(super) fn steps(
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

pub(super) fn stickiness(environment: &EnvironmentSpec) -> Result<Stickiness, Refused> {
    match environment.stickiness.as_str() {
        "" => Ok(Stickiness::Auto),
        word => word
            .parse()
            .map_err(|error| Refused::Field("stickiness", format!("is `{word}`: {error}"))),
    }
}

pub(super) fn variables(
    given: &BTreeMap<String, EnvValue>,
) -> Result<BTreeMap<String, String>, Refused> {
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
pub(super) fn gates(environment: &EnvironmentSpec) -> Result<GateRules, Refused> {
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
pub(super) fn approval(environment: &EnvironmentSpec, policy: &Policy) -> Option<ApprovalRule> {
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
            pods: None,
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
        assert!(ppm(serde_json::json!({ "custom": {} })).is_err());
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
