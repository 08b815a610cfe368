//! Everything an agent needs for one attempt, out of the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use slipway_core::build::Need;
use slipway_core::digest::Digest;
use slipway_core::id::{BuildId, RepoId};
use slipway_core::memo::{self, Inputs};
use slipway_core::pipeline::{PlannedStage, Sandbox};
use slipway_core::queue::Assignment;
use slipway_core::trigger::outside;
use slipway_proto::v1;
use slipway_store::{BuildRow, LayerRow, StageRow, StoreError};

use crate::seal::SealError;
use crate::state::App;

/// Why an assignment cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// The stage or its build is gone.
    #[error("the stage is gone")]
    Gone,
    /// A secret is not there.
    #[error("secret `{0}` is not set for this repository")]
    MissingSecret(String),
    /// It is code from outside, and such code does not get what the stage needs.
    #[error("code_from_outside: the stage is not executed, because {0}")]
    Withheld(&'static str),
    /// A secret does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Puts the message together. `token` is the attempt's own.
///
/// # Errors
/// Why it cannot be done.
pub async fn assign_stage(
    app: &App,
    given: &Assignment,
    token: String,
) -> Result<v1::Assign, AssignError> {
    let (stage_id, attempt) = (&given.stage, given.attempt + 1);
    let row = app.db.stage(stage_id).await?.ok_or(AssignError::Gone)?;
    let build_id: BuildId = row.build_id.parse().map_err(|_| AssignError::Gone)?;
    let build = app.db.build(&build_id).await?.ok_or(AssignError::Gone)?;
    let mut planned: PlannedStage =
        serde_json::from_str(&row.spec).map_err(|e| StoreError::Corrupt(format!("spec: {e}")))?;
    if build.trust != "trusted" {
        // Such stages are skipped when planned; this is the second lock.
        if let Some(why) = outside::withheld(&planned.spec) {
            return Err(AssignError::Withheld(why));
        }
        planned.spec.sandbox = Sandbox::Strict;
    }
    // Most stages of a wide build need nothing.
    let needed = match needs(&row.needs).is_empty() {
        true => Vec::new(),
        false => app.db.layers(&build_id).await?,
    };
    let spec_json = serde_json::to_string(&planned.spec)
        .map_err(|e| StoreError::Corrupt(format!("spec: {e}")))?;
    let input_layers = input_layers(&row.needs, &needed);
    let wanted = build.source_root.iter().chain(&input_layers);
    let wanted: Vec<Digest> = wanted.filter_map(|layer| layer.parse().ok()).collect();
    let whose = (build.repo_id.as_str(), stage_id.as_str());
    let with = (&*app.authority, app.clock.now());
    let (sources, capability) = app.tracker.sources(&given.agent, &wanted, whose, with);
    Ok(v1::Assign {
        sources,
        capability,
        attempt: Some(v1::AttemptRef {
            stage_id: stage_id.to_string(),
            attempt,
        }),
        spec_json,
        source: Some(v1::Source {
            repo_url: build.repo_url.clone(),
            commit_sha: build.commit_sha.clone(),
            ref_name: build.ref_name.clone(),
            root: build.source_root.clone(),
            depth: planned.spec.clone.depth,
            submodules: planned.spec.clone.submodules,
            lfs: planned.spec.clone.lfs,
        }),
        input_layers,
        environment: visible(&row, environment(app, &build, &row))
            .into_iter()
            .collect(),
        secrets: secrets(app, &build, &planned).await?,
        attempt_token: token,
        lease_ms: u64::try_from(app.settings.terms.lease.as_millis()).unwrap_or(60_000),
        at_most_once: row.at_most_once == 1,
        build_id: build.build_id.clone(),
        repo_id: build.repo_id.clone(),
        source_date_epoch: build.committed_at.unwrap_or(0) / 1_000,
        cache_scope: Some(cache_scope(&build)),
    })
}

/// Whose entries a stage's `cache:` reads and writes: those of its repository and of its trust, and never
/// what anybody else could have chosen. Builds of tags and releases begin from nothing: what they make is
/// given away.
fn cache_scope(build: &BuildRow) -> v1::CacheScope {
    if matches!(build.event.as_str(), "tag" | "release") || build.ref_name.starts_with("refs/tags/")
    {
        return v1::CacheScope::default();
    }
    let trusted = build.trust == "trusted";
    let of_repository = |scope: String| format!("{}/{scope}", build.repo_id);
    let read = memo::readable_scopes(trusted, &build.ref_name);
    v1::CacheScope {
        read: read.into_iter().map(of_repository).collect(),
        write: of_repository(memo::own_scope(trusted, &build.ref_name)),
        trusted,
    }
}

/// The layers of everything this stage needs, directly or through others, in file order: a later
/// stage's files win over an earlier one's.
pub(super) fn input_layers(of: &str, stages: &[LayerRow]) -> Vec<String> {
    let by_name: BTreeMap<&str, &LayerRow> =
        stages.iter().map(|s| (s.stage_name.as_str(), s)).collect();
    let mut wanted = BTreeSet::new();
    let mut todo = vec![of];
    while let Some(of) = todo.pop() {
        for need in needs(of) {
            if let Some(found) = by_name.get(need.stage.as_str())
                && wanted.insert(found.stage_name.as_str())
            {
                todo.push(&found.needs);
            }
        }
    }
    let mut layers = Vec::new();
    // Needs come before what needs them: a walk that repeats until nothing is left.
    let mut left: Vec<&LayerRow> = stages
        .iter()
        .filter(|s| wanted.contains(s.stage_name.as_str()))
        .collect();
    let mut laid: BTreeSet<&str> = BTreeSet::new();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|stage| {
            let free = needs(&stage.needs)
                .iter()
                .all(|n| laid.contains(n.stage.as_str()) || !wanted.contains(n.stage.as_str()));
            if free {
                laid.insert(&stage.stage_name);
                layers.extend(stage.output_layer.clone());
            }
            !free
        });
        if left.len() == before {
            break;
        }
    }
    layers
}

fn needs(json: &str) -> Vec<Need> {
    serde_json::from_str(json).unwrap_or_default()
}

/// Of these variables, what the stage's container may see.
pub(super) fn visible(row: &StageRow, all: BTreeMap<String, String>) -> BTreeMap<String, String> {
    match serde_json::from_str::<Inputs>(&row.inputs) {
        Ok(inputs) => inputs.visible(all),
        // Planned by a version that looked into nothing: it has no key either.
        Err(_) => all,
    }
}

/// Every variable that there is for this stage, beside its own.
pub(super) fn environment(app: &App, build: &BuildRow, row: &StageRow) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> =
        serde_json::from_str(&build.variables).unwrap_or_default();
    let tag = build.ref_name.strip_prefix("refs/tags/").unwrap_or("");
    let page = format!("{}/ui/builds/{}", app.settings.public_url, build.build_id);
    let (owner, _) = build.repo_name.split_once('/').unwrap_or(("", ""));
    let request = build
        .ref_name
        .strip_prefix("refs/pull/")
        .and_then(|rest| rest.strip_suffix("/head"))
        .unwrap_or("");
    let pairs = [
        ("CI", "true"),
        ("SLIPWAY", "true"),
        ("CI_COMMIT_SHA", &build.commit_sha),
        ("CI_COMMIT_REF", &build.ref_name),
        ("CI_COMMIT_BRANCH", &build.branch),
        ("CI_COMMIT_TAG", tag),
        ("CI_COMMIT_MESSAGE", &build.commit_message),
        ("CI_COMMIT_AUTHOR", &build.author),
        ("CI_COMMIT_PULL_REQUEST", request),
        ("CI_PIPELINE_NUMBER", &build.number.to_string()),
        ("CI_PIPELINE_EVENT", &build.event),
        ("CI_PIPELINE_URL", &page),
        ("CI_REPO", &build.repo_name),
        ("CI_REPO_OWNER", owner),
        ("CI_REPO_URL", &build.repo_url),
        ("CI_REPO_CLONE_URL", &build.repo_url),
        ("CI_STEP_NAME", &row.stage_name),
        ("CI_STEP_URL", &page),
        ("CI_SYSTEM_NAME", "slipway"),
        ("CI_SYSTEM_URL", &app.settings.public_url),
        ("SLIPWAY_BUILD_ID", &build.build_id),
        ("SLIPWAY_STAGE_ID", &row.stage_id),
    ];
    for (name, value) in pairs {
        environment.insert(name.to_owned(), value.to_owned());
    }
    environment
}

async fn secrets(
    app: &App,
    build: &BuildRow,
    planned: &PlannedStage,
) -> Result<HashMap<String, String>, AssignError> {
    let names: BTreeSet<&str> = planned.spec.secrets().collect();
    let mut secrets = HashMap::new();
    let repo: RepoId = build.repo_id.parse().map_err(|_| AssignError::Gone)?;
    for name in names {
        let sealed = app
            .db
            .sealed_secret(&repo, name)
            .await?
            .ok_or_else(|| AssignError::MissingSecret(name.to_owned()))?;
        let place = format!("secret/{}/{name}", build.repo_id);
        let value = app.seal.open(&place, &sealed)?;
        let value = String::from_utf8(value).map_err(|_| SealError::DoesNotOpen)?;
        secrets.insert(name.to_owned(), value);
    }
    Ok(secrets)
}
