//! One commit and one cause → builds in the store: one per pipeline file that wants the event.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use slipway_core::build::critical::{UNKNOWN, critical};
use slipway_core::build::{BuildStatus, StageState, advance};
use slipway_core::id::{BuildId, DeliveryId, RepoId};
use slipway_core::memo;
use slipway_core::pipeline::{self, Facts, Group, Outcome, Plan, PlannedStage};
use slipway_core::time::Timestamp;
use slipway_core::trigger::outside;
use slipway_store::{Created, NewBuild, NewStage, RepositoryRow, StoreError};

use super::capture_pods::capture_pods;
use super::expected::expected;
use crate::source::Commit;
use crate::state::App;

/// Why a commit is built.
#[derive(Clone, Debug)]
pub struct Cause {
    /// `push`, `pull_request`, `tag`, `cron`, `manual` or `reconciled`.
    pub event: String,
    /// push | manual | scheduled.
    pub trigger_type: &'static str,
    /// Full ref.
    pub ref_name: String,
    /// Full commit id.
    pub sha: String,
    /// One build per (repository, key, pipeline).
    pub event_key: Option<String>,
    /// Whether it may replace older builds of its ref.
    pub newest: bool,
    /// The code comes from somebody without the right to push.
    pub untrusted: bool,
    /// Who asked.
    pub initiator: String,
    /// Only this pipeline.
    pub pipeline: Option<String>,
    /// Name of the schedule.
    pub cron: String,
    /// Values of declared variables.
    pub variables: BTreeMap<String, String>,
    /// Everything is executed, whatever was executed before.
    pub fresh: bool,
    /// The delivery that led here.
    pub delivery: Option<DeliveryId>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// Builds: (id, number, whether new).
    Builds(Vec<(String, i64, bool)>),
    /// Nothing to build, and why.
    NotWanted(String),
}

/// Plans and stores the builds of a commit.
///
/// # Errors
/// When the store is not available.
pub async fn plan_build(
    app: &App,
    repo: &RepositoryRow,
    commit: &Commit,
    cause: &Cause,
) -> Result<Planned, StoreError> {
    if commit.pipelines.is_empty() {
        return Ok(Planned::NotWanted(
            "the commit has no .slipway.yml".to_owned(),
        ));
    }
    let mut builds = Vec::new();
    let mut reasons = Vec::new();
    for (name, text) in &commit.pipelines {
        if cause.pipeline.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let build_id: BuildId = app.rng.id(app.clock.now());
        let facts = facts(app, repo, commit, cause, &build_id);
        let new = match pipeline::plan(text, &facts) {
            Ok(Outcome::NotWanted(reason)) => {
                reasons.push(reason);
                continue;
            }
            Ok(Outcome::Build(mut plan, warnings)) => {
                let mut new = blank(app, repo, commit, cause, name, build_id)?;
                // A fork's file decides nothing about deployments, and nothing of it is rendered.
                if let Some(deploy) = plan.deploy.as_mut().filter(|_| !cause.untrusted)
                    && let Err(mistake) = capture_pods(app, repo, cause, deploy).await
                {
                    new.errors = json!([mistake]);
                    new.status = BuildStatus::Failed;
                    builds.push(create(app, new).await?);
                    continue;
                }
                new.errors = json!(warnings);
                let expected = expected(app, &new.repo_id, name).await;
                fill(app, &mut new, *plan, cause, &repo.branch);
                look_into(&mut new, commit, cause)?;
                weigh(&mut new, &expected);
                new
            }
            Err(mistakes) => NewBuild {
                errors: json!(mistakes),
                status: BuildStatus::Failed,
                ..blank(app, repo, commit, cause, name, build_id)?
            },
        };
        builds.push(create(app, new).await?);
    }
    Ok(if builds.is_empty() {
        reasons.dedup();
        let why = if reasons.is_empty() {
            "the commit has no such pipeline".to_owned()
        } else {
            reasons.join("; ")
        };
        Planned::NotWanted(why)
    } else {
        Planned::Builds(builds)
    })
}

fn facts(app: &App, repo: &RepositoryRow, commit: &Commit, cause: &Cause, id: &BuildId) -> Facts {
    // A push that was found instead of delivered is a push all the same.
    let event = match cause.event.as_str() {
        "reconciled" if cause.ref_name.starts_with("refs/tags/") => "tag",
        "reconciled" => "push",
        other => other,
    };
    Facts {
        event: event.to_owned(),
        ref_name: cause.ref_name.clone(),
        sha: cause.sha.clone(),
        build_id: id.to_string(),
        number: 0,
        url: format!("{}/ui/builds/{id}", app.settings.public_url),
        repo: repo.name.clone(),
        default_branch: repo.branch.clone(),
        cron: cause.cron.clone(),
        untrusted: cause.untrusted,
        variables: cause.variables.clone(),
        changed: commit.changed.clone(),
        files: Some(commit.files.clone()),
    }
}

fn blank(
    app: &App,
    repo: &RepositoryRow,
    commit: &Commit,
    cause: &Cause,
    pipeline: &str,
    build_id: BuildId,
) -> Result<NewBuild, StoreError> {
    let repo_id: RepoId = repo
        .repo_id
        .parse()
        .map_err(|_| StoreError::Corrupt("repo_id".to_owned()))?;
    let branch = cause.ref_name.strip_prefix("refs/heads/").unwrap_or("");
    Ok(NewBuild {
        build_id,
        repo_id,
        pipeline: pipeline.to_owned(),
        commit_sha: cause.sha.clone(),
        commit_message: commit.message.clone(),
        author: commit.author.clone(),
        ref_name: cause.ref_name.clone(),
        branch: branch.to_owned(),
        trigger_type: cause.trigger_type.to_owned(),
        event: cause.event.clone(),
        trust: if cause.untrusted {
            "untrusted"
        } else {
            "trusted"
        }
        .to_owned(),
        event_key: cause
            .event_key
            .as_ref()
            .map(|key| format!("{key}/{pipeline}")),
        lane: None,
        group: None,
        urgent: false,
        errors: json!([]),
        variables: json!({}),
        deploy: None,
        initiator: cause.initiator.clone(),
        committed_at: (commit.time_s > 0)
            .then(|| Timestamp::from_millis(commit.time_s.saturating_mul(1_000))),
        created: app.clock.now(),
        stages: Vec::new(),
        delivery: cause.delivery.clone(),
        status: BuildStatus::Queued,
    })
}

/// Replaced by newer ones: pull requests and side branches; never the default branch, tags, or what
/// deploys, unless the file says so.
fn lane(new: &NewBuild, plan: &Plan, cause: &Cause, default_branch: &str) -> Option<String> {
    let side =
        cause.event == "pull_request" || (!new.branch.is_empty() && new.branch != default_branch);
    let wanted = plan
        .cancel_superseded
        .unwrap_or(side && plan.deploy.is_none());
    (wanted && cause.newest).then(|| format!("{}|{}", new.pipeline, cause.ref_name))
}

/// Notes how long the build still takes from each stage on.
fn weigh(new: &mut NewBuild, expected: &BTreeMap<String, Duration>) {
    let graph = new.stages.iter();
    let graph: Vec<_> = graph.map(|s| (s.name.clone(), s.needs.clone())).collect();
    let critical = critical(&graph, expected);
    for stage in &mut new.stages {
        let longest = critical.get(stage.name.as_str());
        let longest = longest.copied().unwrap_or(UNKNOWN);
        stage.critical_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    }
}

/// Notes what is known of each stage's inputs.
fn look_into(new: &mut NewBuild, commit: &Commit, cause: &Cause) -> Result<(), StoreError> {
    let source = memo::Source {
        tree: &commit.tree,
        files: &commit.files,
        modes: &commit.modes,
        named: commit.named.as_deref(),
    };
    for stage in &mut new.stages {
        let planned: PlannedStage = serde_json::from_str(&stage.spec)
            .map_err(|e| StoreError::Corrupt(format!("spec: {e}")))?;
        let inputs = memo::inputs(&planned, &source, cause.fresh);
        stage.ask = inputs.never.is_none();
        stage.memo_note = inputs.never.clone().unwrap_or_default();
        stage.inputs = json!(inputs).to_string();
    }
    Ok(())
}

fn fill(app: &App, new: &mut NewBuild, plan: Plan, cause: &Cause, default_branch: &str) {
    new.lane = lane(new, &plan, cause, default_branch);
    let repo = new.repo_id.clone();
    let held = |group: &Group| held(group, cause, &repo);
    new.group = plan.group.as_ref().map(held);
    new.variables = json!(plan.variables);
    // A fork's file decides nothing about deployments.
    new.deploy = plan
        .deploy
        .as_ref()
        .filter(|_| !cause.untrusted)
        .map(|deploy| json!(deploy).to_string());
    let views: Vec<_> = plan.stages.iter().map(view(cause)).collect();
    let (moved, status) = advance(&views);
    new.status = status;
    let now = app.clock.now();
    new.stages = plan
        .stages
        .into_iter()
        .zip(views)
        .map(|(stage, view)| {
            let (state, reason) = match moved.get(&stage.name) {
                Some(slipway_core::build::Transition::Ready) => (StageState::Ready, None),
                Some(slipway_core::build::Transition::Skipped(why)) => {
                    (StageState::Skipped, Some(why.clone()))
                }
                None if view.state == StageState::Skipped => {
                    (StageState::Skipped, skip_reason(&stage, cause.untrusted))
                }
                None => (view.state, None),
            };
            let group = stage.group.as_ref().map(held);
            NewStage {
                group,
                ..new_stage(app, stage, state, reason, cause, default_branch, now)
            }
        })
        .collect();
}

/// Why a stage is not executed at all in this build.
pub(super) fn skip_reason(stage: &PlannedStage, untrusted: bool) -> Option<String> {
    match &stage.skipped {
        Some(why) => Some(why.clone()),
        None if untrusted => outside::withheld(&stage.spec).map(str::to_owned),
        None => None,
    }
}

/// A group with its limit, as the store keeps it.
fn held(group: &Group, cause: &Cause, repo: &RepoId) -> (String, u32) {
    let group = if cause.untrusted {
        outside::group(&cause.ref_name, group).of(repo)
    } else {
        group.of(repo)
    };
    (group.name, group.limit)
}

fn view(cause: &Cause) -> impl Fn(&PlannedStage) -> slipway_core::build::StageView + '_ {
    move |stage| slipway_core::build::StageView {
        name: stage.name.clone(),
        state: if skip_reason(stage, cause.untrusted).is_some() {
            StageState::Skipped
        } else {
            StageState::Waiting
        },
        needs: stage.needs.clone(),
        failure_ignored: stage.failure_ignored,
        runs_on: stage.runs_on,
    }
}

fn new_stage(
    app: &App,
    stage: PlannedStage,
    state: StageState,
    reason: Option<String>,
    cause: &Cause,
    default_branch: &str,
    now: Timestamp,
) -> NewStage {
    let branch = cause.ref_name.strip_prefix("refs/heads/").unwrap_or("");
    let usual = match cause.event.as_str() {
        "cron" => 3,
        "tag" => 6,
        "pull_request" => 5,
        _ if branch == default_branch => 6,
        _ => 5,
    };
    let runs_on = json!(stage.runs_on)
        .as_str()
        .unwrap_or("success")
        .to_owned();
    let mut labels = stage.labels.clone();
    if cause.untrusted {
        labels.insert(outside::PROVEN.0.to_owned(), outside::PROVEN.1.to_owned());
    }
    NewStage {
        stage_id: app.rng.id(now),
        name: stage.name.clone(),
        needs: stage.needs.clone(),
        runs_on,
        failure_ignored: stage.failure_ignored,
        at_most_once: stage.at_most_once,
        priority: if cause.untrusted {
            outside::priority(stage.priority, usual)
        } else {
            stage.priority.unwrap_or(usual)
        },
        labels: json!(labels).to_string(),
        group: None,
        timeout_ms: stage.spec.timeout_ms,
        cache_key: stage
            .spec
            .caches
            .first()
            .map(|c| c.key.clone())
            .unwrap_or_default(),
        critical_ms: 0,
        inputs: String::new(),
        ask: false,
        memo_note: String::new(),
        state,
        reason,
        spec: json!(stage).to_string(),
    }
}

async fn create(app: &App, new: NewBuild) -> Result<(String, i64, bool), StoreError> {
    let id = new.build_id.clone();
    let status = new.status;
    Ok(match app.db.create_build(new).await? {
        Created::Existing(existing) => (existing, 0, false),
        Created::New { number, superseded } => {
            for (stage, attempt, agent) in superseded {
                app.link.cancel(agent.as_deref(), &stage, attempt);
            }
            let change = slipway_store::BuildChange {
                build_id: id.to_string(),
                status,
                ready: Vec::new(),
            };
            app.build_changed(&change).await;
            (id.to_string(), number, true)
        }
    })
}
