//! What a rollout is asked to do, checked whole before anything outside is touched, and the hash
//! that an approval is bound to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::access::ApprovalRule;
use crate::gate::GateRules;
use crate::manifest::Manifests;
use crate::pipeline::{SmokeCheck, Strategy};
use crate::traffic::{FULL_BP, Stickiness};

/// Instances of one service that one coordinator starts on one host.
const REPLICAS_MAX: u32 = 100;
const STEPS_MAX: usize = 50;
const SMOKE_MAX: usize = 50;
const VARIABLES_MAX: usize = 500;
/// One day: longer bakes and watches are typing errors.
const WAIT_MAX_MS: u64 = 24 * 3_600 * 1_000;
/// Thirty days.
const RETAIN_MAX_MS: u64 = 30 * WAIT_MAX_MS;
const TEXT_MAX: usize = 2_048;

/// Forward, or back to a version that was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Brings a new version.
    Rollout,
    /// Brings an earlier good version back. Needs no approval.
    Rollback,
}

/// One copy of a service's version, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionSpec {
    /// Named after the deployment that first brought it.
    pub version_id: String,
    /// `repository@sha256:…`, or the id `sha256:…` of an image that is on the host. Never a tag.
    pub image: String,
    /// Port inside the instance.
    pub port: u16,
    /// Instances.
    pub replicas: u32,
    /// Answers 200 when the instance can serve.
    pub health_path: String,
    /// Variables.
    pub environment: BTreeMap<String, String>,
    /// Memory limit, bytes; 0 = none.
    pub memory_bytes: u64,
    /// CPU limit, thousandths; 0 = none.
    pub cpu_millis: u32,
    /// What describes its pods, on Kubernetes; without it Slipway does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<Manifests>,
}

/// One step of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Share of the new version, basis points.
    pub weight_bp: u32,
    /// How long it is looked at before the next step.
    pub bake_ms: u64,
    /// A person must agree before the next step.
    #[serde(default)]
    pub approval: bool,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Health passes in a row that make an instance ready.
    pub warm_passes: u32,
    /// All instances ready within this.
    pub warm_deadline_ms: u64,
    /// And they stay ready for this long.
    pub min_ready_ms: u64,
    /// All smoke checks within this.
    pub smoke_deadline_ms: u64,
    /// How long the new version is looked at with all traffic on it.
    pub watch_ms: u64,
    /// How long the old version stays warm afterwards.
    pub retain_old_ms: u64,
    /// How long requests in flight may take.
    pub drain_ms: u64,
    /// Without a verified step for this long the rollout goes back.
    pub progress_ms: u64,
    /// An applied step that does not read back within this is issued again.
    pub verify_ms: u64,
    /// A way back that is not proven within this is held, and a person asked.
    pub back_ms: u64,
    /// A pause ends the rollout after this.
    pub pause_ms: u64,
    /// Without counters for this long a rollout into production goes back.
    pub blind_ms: u64,
    /// Without counters for this long above a tenth of the traffic a rollout pauses.
    #[serde(default = "blind_pause_ms")]
    pub blind_pause_ms: u64,
    /// How often counters are read while gates look.
    #[serde(default = "tick_ms")]
    pub tick_ms: u64,
}

fn blind_pause_ms() -> u64 {
    60_000
}

fn tick_ms() -> u64 {
    5_000
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            warm_passes: 3,
            warm_deadline_ms: 60_000,
            min_ready_ms: 10_000,
            smoke_deadline_ms: 120_000,
            watch_ms: 300_000,
            retain_old_ms: 600_000,
            drain_ms: 30_000,
            progress_ms: 600_000,
            verify_ms: 5_000,
            back_ms: 60_000,
            pause_ms: 3_600_000,
            blind_ms: 300_000,
            blind_pause_ms: blind_pause_ms(),
            tick_ms: tick_ms(),
        }
    }
}

/// What a rollout launches, beyond the version itself; part of what is approved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The build it comes from.
    pub build_id: String,
    /// The commit.
    pub commit_sha: String,
    /// Hash of the pipeline's deploy section.
    pub pipeline_hash: String,
    /// Immutable id of the environment.
    pub environment_id: String,
}

/// Everything a rollout needs to know, frozen when it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutPlan {
    /// Forward or back.
    pub kind: Kind,
    /// How traffic moves.
    pub strategy: Strategy,
    /// The service's name.
    pub service: String,
    /// The environment's name.
    pub environment: String,
    /// What is brought.
    pub new: VersionSpec,
    /// Steps; the last one is everything.
    pub steps: Vec<Step>,
    /// Checks before traffic.
    pub smoke: Vec<SmokeCheck>,
    /// Who must agree.
    pub approval: Option<ApprovalRule>,
    /// Environments where the same digest must have succeeded first.
    pub after: Vec<String>,
    /// Everybody who asked for it.
    pub initiators: BTreeSet<String>,
    /// How long things may take.
    pub timings: Timings,
    /// What is too bad.
    #[serde(default)]
    pub gates: GateRules,
    /// Who stays where while two versions share traffic.
    #[serde(default)]
    pub stickiness: Stickiness,
    /// What else is launched.
    pub facts: Facts,
    /// The deploy section that it was planned from, JSON: what comes after it is read here. Its hash
    /// is among the facts.
    #[serde(default)]
    pub section: String,
    /// There was no good version when this was planned: there is nothing to go back to.
    pub first: bool,
}

/// Why a plan is refused, before any effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No steps.
    #[error("a rollout needs at least one step; leave `steps` out for the default ones")]
    NoSteps,
    /// A weight that is no share.
    #[error("step {0}: weight {1} is outside 1…10000 basis points (0.01 % … 100 %)")]
    Weight(usize, u32),
    /// A step that does not bring more traffic than the one before.
    #[error("step {0}: the weight must be above the one before it")]
    NotRising(usize),
    /// The end is not everything.
    #[error("the last step must have weight 100 %, it has {0} basis points")]
    NotAll(u32),
    /// Blue-green knows one step.
    #[error("blue-green moves all traffic at once: it has one step of 100 %")]
    BlueGreenSteps,
    /// A tag instead of a digest.
    #[error("image `{0}` is not pinned: it must be `repository@sha256:…` or a local image id")]
    NotPinned(String),
    /// A value outside its limits.
    #[error("`{field}` is {value}; it must be within {limits}")]
    Outside {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        limits: &'static str,
    },
    /// A text that cannot be used.
    #[error("`{0}` {1}")]
    Text(&'static str, &'static str),
    /// A smoke check that this coordinator cannot carry out.
    #[error("smoke check {0}: container checks are not available in this version; use `http`")]
    ContainerSmoke(usize),
}

/// Whether an image reference names exact content.
#[must_use]
pub fn is_pinned(image: &str) -> bool {
    pinned_digest(image).is_some()
}

/// The `sha256:…` of a pinned reference.
#[must_use]
pub fn pinned_digest(image: &str) -> Option<&str> {
    let digest = match image.rsplit_once('@') {
        Some((name, digest)) if is_name(name) => digest,
        Some(_) => return None,
        None => image,
    };
    let hex = digest.strip_prefix("sha256:")?;
    let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then_some(digest)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 512
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b':'))
}

fn within(
    field: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
    limits: &'static str,
) -> Result<(), PlanError> {
    if range.contains(&value) {
        Ok(())
    } else {
        Err(PlanError::Outside {
            field,
            value,
            limits,
        })
    }
}

fn path(field: &'static str, text: &str) -> Result<(), PlanError> {
    if !text.starts_with('/') {
        return Err(PlanError::Text(field, "must begin with `/`"));
    }
    if text.len() > TEXT_MAX || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(PlanError::Text(
            field,
            "is longer than 2048 bytes or holds a space or control character",
        ));
    }
    Ok(())
}

impl RolloutPlan {
    /// Whether this plan may start.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), PlanError> {
        self.check_steps()?;
        self.check_version()?;
        for (index, check) in self.smoke.iter().enumerate() {
            match check {
                SmokeCheck::Http {
                    path: at,
                    within_ms,
                    expect,
                    ..
                } => {
                    path("smoke.path", at)?;
                    within("smoke.within", *within_ms, 1..=60_000, "1 ms … 60 s")?;
                    within("smoke.expect", u64::from(*expect), 100..=599, "100…599")?;
                }
                SmokeCheck::Container { .. } => return Err(PlanError::ContainerSmoke(index)),
            }
        }
        let t = &self.timings;
        let smoke = u64::try_from(self.smoke.len()).unwrap_or(u64::MAX);
        within("smoke", smoke, 0..=SMOKE_MAX as u64, "0…50 checks")?;
        within("tick", t.tick_ms, 100..=60_000, "0.1 … 60 s")?;
        within("warm_passes", u64::from(t.warm_passes), 1..=100, "1…100")?;
        within("watch", t.watch_ms, 0..=WAIT_MAX_MS, "0 … 24 h")?;
        within("drain", t.drain_ms, 0..=WAIT_MAX_MS, "0 … 24 h")?;
        within("retain_old", t.retain_old_ms, 0..=RETAIN_MAX_MS, "0 … 30 d")?;
        Ok(())
    }

    /// Weights as every strategy must have them.
    ///
    /// # Errors
    /// The first step that is wrong.
    pub fn check_steps(&self) -> Result<(), PlanError> {
        let count = u64::try_from(self.steps.len()).unwrap_or(u64::MAX);
        within("steps", count, 0..=STEPS_MAX as u64, "1…50 steps")?;
        let Some(last) = self.steps.last() else {
            return Err(PlanError::NoSteps);
        };
        let mut before = 0;
        for (index, step) in self.steps.iter().enumerate() {
            if step.weight_bp == 0 || step.weight_bp > FULL_BP {
                return Err(PlanError::Weight(index, step.weight_bp));
            }
            if step.weight_bp <= before {
                return Err(PlanError::NotRising(index));
            }
            within("bake", step.bake_ms, 0..=WAIT_MAX_MS, "0 … 24 h")?;
            before = step.weight_bp;
        }
        if last.weight_bp != FULL_BP {
            return Err(PlanError::NotAll(last.weight_bp));
        }
        if self.strategy == Strategy::BlueGreen && self.steps.len() != 1 {
            return Err(PlanError::BlueGreenSteps);
        }
        Ok(())
    }

    fn check_version(&self) -> Result<(), PlanError> {
        let new = &self.new;
        if !is_pinned(&new.image) {
            return Err(PlanError::NotPinned(new.image.clone()));
        }
        within(
            "replicas",
            u64::from(new.replicas),
            1..=u64::from(REPLICAS_MAX),
            "1…100",
        )?;
        within("port", u64::from(new.port), 1..=65_535, "1…65535")?;
        path("health.path", &new.health_path)?;
        let count = u64::try_from(new.environment.len()).unwrap_or(u64::MAX);
        within(
            "environment",
            count,
            0..=VARIABLES_MAX as u64,
            "0…500 variables",
        )?;
        for (name, value) in &new.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(PlanError::Text(
                    "environment",
                    "holds an empty name, a name with `=`, or a NUL byte",
                ));
            }
        }
        Ok(())
    }

    /// Hash of what makes the version behave, beside its image.
    #[must_use]
    pub fn config_hash(&self) -> String {
        let new = &self.new;
        let own = (
            ("port", new.port),
            ("replicas", new.replicas),
            ("health_path", &new.health_path),
            ("environment", &new.environment),
            ("memory_bytes", new.memory_bytes),
            ("cpu_millis", new.cpu_millis),
        );
        // Without manifests as before there were any: what was approved stays approved.
        match &new.pods {
            None => sha256(&own),
            Some(pods) => sha256(&(own, ("pods", pods))),
        }
    }

    /// Hash of everything that is launched: what an approval is bound to. `target` is the
    /// environment's registered target as it stands now.
    #[must_use]
    pub fn hash(&self, target: &str) -> String {
        sha256(&(
            ("rule", 2),
            ("kind", self.kind),
            ("strategy", self.strategy),
            ("service", &self.service),
            ("environment_id", &self.facts.environment_id),
            ("target", target),
            ("image", &self.new.image),
            ("config", self.config_hash()),
            ("pipeline", &self.facts.pipeline_hash),
            ("commit", &self.facts.commit_sha),
            ("steps", &self.steps),
            ("gates", &self.gates),
            ("smoke", &self.smoke),
        ))
    }
}

/// SHA-256 over canonical JSON: lists of pairs in the order written here, maps sorted by key.
fn sha256(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    hex::encode(Sha256::digest(text.as_bytes()))
}
