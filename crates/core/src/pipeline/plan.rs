//! What a pipeline file comes to once it is read, checked and expanded: the shapes that are stored,
//! sent to agents and handed to the coordinator. Everything here is plain data; every value was
//! checked by [`super::parse`] and is used as it stands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::build::{Need, RunsOn};
use crate::cache::remote::Tool;
use crate::id::RepoId;

/// A pipeline at one commit, ready to become a build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The stages, in file order, matrices expanded.
    pub stages: Vec<PlannedStage>,
    /// The deploy section, when there is one.
    pub deploy: Option<DeploySpec>,
    /// Variables of every stage, with the values of this start.
    pub variables: BTreeMap<String, String>,
    /// Build-wide concurrency group, with its limit.
    pub group: Option<Group>,
    /// Whether a newer build of the same ref ends this one.
    pub cancel_superseded: Option<bool>,
    /// Schedules of the file: (name, cron expression, time zone).
    pub schedules: Vec<Schedule>,
}

/// A named limit on what executes at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many at once.
    pub limit: u32,
}

impl Group {
    /// The group as one repository's own: a word in a file of another one does not hold it up.
    #[must_use]
    pub fn of(&self, repo: &RepoId) -> Self {
        Self {
            name: format!("{repo}:{}", self.name),
            limit: self.limit,
        }
    }

    /// The part of such a name that a person wrote.
    #[must_use]
    pub fn written(name: &str) -> &str {
        match name.split_once(':') {
            Some((repo, written)) if repo.parse::<RepoId>().is_ok() => written,
            _ => name,
        }
    }
}

/// One `on.cron` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Unique in the file.
    pub name: String,
    /// Five fields.
    pub schedule: String,
}

/// One stage with what the queue needs to know about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStage {
    /// Unique in the build, after expansion.
    pub name: String,
    /// What must end first.
    pub needs: Vec<Need>,
    /// After which outcome of its needs it is executed.
    pub runs_on: RunsOn,
    /// Why it is skipped from the start (a condition that does not hold).
    pub skipped: Option<String>,
    /// Its failure does not fail the build.
    pub failure_ignored: bool,
    /// Never repeated by us once it may have been executed.
    pub at_most_once: bool,
    /// 0–9; `None` = by event.
    pub priority: Option<u8>,
    /// Labels that an agent must match; a name that begins with `!` must be absent.
    pub labels: BTreeMap<String, String>,
    /// Concurrency group of this stage.
    pub group: Option<Group>,
    /// The stage of the file that this is one combination of.
    pub matrix_of: Option<String>,
    /// Whether a failure cancels the other combinations.
    pub fail_fast: bool,
    /// Repetitions after the user's own failures.
    pub retry: Retry,
    /// What the agent executes.
    pub spec: StageSpec,
}

/// `retry:` of a stage: for failures, not for losses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// At most this often more (0–2).
    pub max: u32,
    /// After an exit code other than 0.
    pub on_failure: bool,
    /// After a time-out.
    pub on_timeout: bool,
    /// Only these exit codes; empty = any.
    pub exit_codes: Vec<i32>,
}

/// What an agent executes: the JSON of `Assign.spec_json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageSpec {
    /// The stage's name in its build.
    pub name: String,
    /// Container image by reference; for an image stage empty.
    pub image: String,
    /// Shell lines, executed by one `sh -e`, each a fold of its own in the log.
    pub commands: Vec<String>,
    /// Containers beside it, reachable by their names.
    pub services: Vec<ServiceSpec>,
    /// Variables of this stage.
    pub environment: BTreeMap<String, EnvValue>,
    /// Stage caches.
    pub caches: Vec<CacheSpec>,
    /// Files to keep.
    pub artifacts: Vec<ArtifactRule>,
    /// How long artifacts are kept, seconds; `None` = the server's default.
    pub artifacts_expire_s: Option<u64>,
    /// JUnit reports that the stage promises.
    pub junit: Vec<String>,
    /// Coverage reports that the stage promises.
    pub coverage: Vec<CoverageSpec>,
    /// Ends the stage when it takes longer.
    pub timeout_ms: u64,
    /// How much the container may.
    pub sandbox: Sandbox,
    /// Builds an image instead of executing commands.
    pub build: Option<ImageBuild>,
    /// How the commit is fetched.
    pub clone: CloneSpec,
    /// Whether an equal stage's result may be reused.
    pub memoize: bool,
    /// Globs of the files that decide about its result; empty = all.
    #[serde(default)]
    pub memoize_inputs: Vec<String>,
    /// Tools that are told where the cache speaks their protocol; empty = none of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_cache: Vec<Tool>,
}

impl StageSpec {
    /// Names of the secrets that it asks for, by whatever key; a name may come twice.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let services = self.services.iter();
        let variables = self.environment.values();
        let variables = variables.chain(services.flat_map(|s| s.environment.values()));
        let asked = variables.filter_map(|value| match value {
            EnvValue::FromSecret(name) => Some(name),
            EnvValue::Plain(_) => None,
        });
        let build = self.build.iter().flat_map(|build| build.secrets.values());
        asked.chain(build).map(String::as_str)
    }
}

/// A value of a variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvValue {
    /// As written.
    Plain(String),
    /// The secret of this name, given at attempt start.
    FromSecret(String),
}

/// A container that runs beside a stage; its host name is its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Host name on the attempt's network.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// Variables.
    pub environment: BTreeMap<String, EnvValue>,
    /// Command executed inside until it succeeds (60 s at most); the stage starts after it.
    pub ready: Option<String>,
    /// Replaces the image's command.
    pub command: Vec<String>,
}

/// One entry of `cache:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSpec {
    /// Exact key.
    pub key: String,
    /// Prefixes tried in order when the key is not there.
    pub restore_keys: Vec<String>,
    /// Folders, relative to the workspace, or below `~/`.
    pub paths: Vec<String>,
}

/// One entry of `artifacts.paths`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRule {
    /// A glob relative to the workspace, without its prefix.
    pub pattern: String,
    /// What the prefix asked for.
    pub rule: ArtifactKind,
}

/// What is expected of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// Kept when it matches.
    Keep,
    /// `=`: the stage fails when nothing matches.
    MustMatch,
    /// `%`: a file may change while it is read.
    MayChange,
    /// `!`: left out.
    Exclude,
}

/// A promised coverage report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoverageSpec {
    /// Relative to the workspace.
    pub path: String,
    /// `lcov` or `cobertura`.
    pub format: CoverageFormat,
    /// The stage fails below this percentage.
    pub min: Option<f64>,
    /// The stage fails when coverage drops by more percentage points than this.
    pub max_drop: Option<f64>,
}

/// Formats of coverage reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoverageFormat {
    /// LCOV tracefile.
    Lcov,
    /// Cobertura XML.
    Cobertura,
}

/// Sandbox profiles of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// For trusted stages.
    #[default]
    Standard,
    /// For everything untrusted, and where asked for.
    Strict,
    /// `standard` plus what an administrator named.
    Trusted,
}

/// `build:` of an image stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageBuild {
    /// Relative to `context`.
    pub dockerfile: String,
    /// Folder, relative to the workspace.
    pub context: String,
    /// Full references, e.g. `127.0.0.1:5000/shop:abc1234`; never empty.
    pub tags: Vec<String>,
    /// Whether to push them.
    pub push: bool,
    /// Empty = the agent's own.
    pub platforms: Vec<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Build secrets: id → secret name.
    pub secrets: BTreeMap<String, String>,
}

/// How the commit is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneSpec {
    /// 0 = everything.
    pub depth: u32,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Whether LFS objects are fetched.
    pub lfs: bool,
}

impl Default for CloneSpec {
    fn default() -> Self {
        Self {
            depth: 1,
            submodules: false,
            lfs: false,
        }
    }
}

/// The `deploy:` section: the JSON of `StartRolloutRequest.deploy_json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploySpec {
    /// The service's name.
    pub service: String,
    /// Where the image comes from: an expression such as `stages.image.image`, or a reference.
    pub image: String,
    /// The port that the service listens on inside its container.
    pub port: u16,
    /// Instances; 0 = as its manifests say, else one.
    pub replicas: u32,
    /// HTTP health path.
    pub health_path: String,
    /// What describes its pods on Kubernetes, unless an environment says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsSpec>,
    /// Environments, in file order.
    pub environments: Vec<EnvironmentSpec>,
}

/// What describes a service's pods: files of the repository, or a chart of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodsSpec {
    /// Where it stands in the pipeline file, for what is found out later.
    pub line: u32,
    /// `manifests`: paths in the repository.
    pub paths: Vec<String>,
    /// `chart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chart: Option<ChartSpec>,
    /// The text of the built commit; no files until the commit was read.
    pub manifests: crate::manifest::Manifests,
}

/// `chart:` of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChartSpec {
    /// Its folder in the repository.
    pub path: String,
    /// Files with values, in the repository; later ones win.
    pub values: Vec<String>,
    /// Values that win over every file's; a map, or null.
    pub set: serde_json::Value,
    /// What templates see as their namespace; empty = `default`.
    pub namespace: String,
}

impl DeploySpec {
    /// What describes the pods of an environment.
    #[must_use]
    pub fn pods_of<'a>(&'a self, environment: &'a EnvironmentSpec) -> Option<&'a PodsSpec> {
        environment.pods.as_ref().or(self.pods.as_ref())
    }

    /// Everything that describes pods here: the service's own, and that of its environments.
    pub fn pods_mut(&mut self) -> impl Iterator<Item = &mut PodsSpec> {
        let environments = self.environments.iter_mut();
        let environments = environments.filter_map(|one| one.pods.as_mut());
        self.pods.iter_mut().chain(environments)
    }
}

/// One environment of the `deploy:` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentSpec {
    /// Its name (`staging`, `production` …).
    pub name: String,
    /// Whether this build's event and ref may go there by themselves (`when`, `trigger: auto`).
    pub auto: bool,
    /// Environments where the same digest must have succeeded first.
    pub after: Vec<String>,
    /// Name of a target registered on the server; empty = the environment's only one.
    pub target: String,
    /// How traffic moves.
    pub strategy: Strategy,
    /// Canary steps.
    pub steps: Vec<CanaryStep>,
    /// Checks before traffic.
    pub smoke: Vec<SmokeCheck>,
    /// Who must agree; `None` = nobody.
    pub approval: Option<ApprovalSpec>,
    /// Watch time after all traffic moved.
    pub watch_ms: u64,
    /// How long the old version stays warm.
    pub retain_old_ms: u64,
    /// How long in-flight requests of the old version may take.
    pub drain_ms: u64,
    /// Overrides `DeploySpec::replicas`.
    pub replicas: Option<u32>,
    /// Overrides `DeploySpec::pods`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsSpec>,
    /// Variables of the service in this environment.
    pub environment: BTreeMap<String, EnvValue>,
    /// Memory limit of an instance, bytes; 0 = none.
    pub memory_bytes: u64,
    /// CPU limit of an instance, thousandths; 0 = none.
    pub cpu_millis: u32,
    /// Rolling: instances above the count, percent.
    pub max_surge_percent: u32,
    /// Rolling: instances below the count, percent.
    pub max_unavailable_percent: u32,
    /// Gates, as written; read by `core::gate`.
    pub gates: serde_json::Value,
    /// What doubt leads to: `pause`, `rollback` or `proceed`; empty = `pause`.
    #[serde(default)]
    pub on_inconclusive: String,
    /// What too little traffic leads to: `proceed` or `pause`; empty = `proceed`.
    #[serde(default)]
    pub on_unproven: String,
    /// Who stays where while two versions share traffic; empty = `auto`.
    #[serde(default)]
    pub stickiness: String,
    /// `rollback` or `hold`.
    pub on_failure: String,
    /// Whether the digest must have succeeded in the environments of `after`.
    pub require_staging: bool,
}

/// How traffic moves from the old version to the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// By weight, step by step.
    Canary,
    /// All at once, with the old version warm beside.
    BlueGreen,
    /// Instance by instance.
    Rolling,
}

/// One canary step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// Share of the new version in basis points (10 000 = all).
    pub weight_bp: u32,
    /// How long gates look at this weight.
    pub bake_ms: u64,
    /// Whether a person must agree before the next step.
    pub approval: bool,
}

/// A check before traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmokeCheck {
    /// A request through the router.
    Http {
        /// Path with query.
        path: String,
        /// Expected status.
        expect: u16,
        /// Text that the body must contain (within 64 KiB).
        contains: Option<String>,
        /// Slower is a failure.
        within_ms: u64,
    },
    /// A container executed by an agent with `SLIPWAY_TARGET_URL`.
    Container {
        /// Image reference.
        image: String,
        /// Shell lines.
        commands: Vec<String>,
        /// Ends it when it takes longer.
        timeout_ms: u64,
    },
}

/// `approval:` of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalSpec {
    /// Roles or groups whose members may approve; empty = role `approver`.
    pub groups: Vec<String>,
    /// How many different people.
    pub min_approvals: u32,
    /// Whoever started it may not approve it.
    pub approver_not_initiator: bool,
    /// The question is void after this time.
    pub expiry_ms: u64,
}
