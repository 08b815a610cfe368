//! Builds and their stages: created whole, read for pages and pipelines.

use slipway_core::build::Need;
use slipway_core::id::{BuildId, DeliveryId, RepoId, StageId};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// A build to be created, with everything that follows from it in the same transaction.
#[derive(Clone, Debug)]
pub struct NewBuild {
    /// Its id.
    pub build_id: BuildId,
    /// Of which repository.
    pub repo_id: RepoId,
    /// The pipeline's name.
    pub pipeline: String,
    /// Full commit id.
    pub commit_sha: String,
    /// First line first.
    pub commit_message: String,
    /// Display name; gates nothing.
    pub author: String,
    /// `refs/heads/…` or `refs/tags/…`.
    pub ref_name: String,
    /// The branch, for people; empty for tags.
    pub branch: String,
    /// push | manual | scheduled.
    pub trigger_type: String,
    /// The exact cause.
    pub event: String,
    /// trusted | untrusted.
    pub trust: String,
    /// One build per (repository, key).
    pub event_key: Option<String>,
    /// Older builds of this lane are superseded.
    pub lane: Option<String>,
    /// Build-wide concurrency group and limit.
    pub group: Option<(String, u32)>,
    /// Hotfix or rollback by a maintainer.
    pub urgent: bool,
    /// Problems that end the build at once (the pipeline file does not parse), JSON array.
    pub errors: serde_json::Value,
    /// Build variables, JSON object.
    pub variables: serde_json::Value,
    /// The deploy section as planned.
    pub deploy: Option<String>,
    /// Who asked.
    pub initiator: String,
    /// When the commit was made.
    pub committed_at: Option<Timestamp>,
    /// Now.
    pub created: Timestamp,
    /// Its stages, in file order, with their first state.
    pub stages: Vec<NewStage>,
    /// The delivery that led here; decided in the same transaction.
    pub delivery: Option<DeliveryId>,
    /// The status to start with (`failed` when the file does not parse).
    pub status: slipway_core::build::BuildStatus,
}

/// One stage of a build to be created.
#[derive(Clone, Debug)]
pub struct NewStage {
    /// Its id.
    pub stage_id: StageId,
    /// Unique in the build.
    pub name: String,
    /// As planned, JSON.
    pub spec: String,
    /// What must end first.
    pub needs: Vec<Need>,
    /// `success`, `failure` or `always`.
    pub runs_on: String,
    /// Its failure does not fail the build.
    pub failure_ignored: bool,
    /// Never repeated by us once it may have been executed.
    pub at_most_once: bool,
    /// 0–9.
    pub priority: u8,
    /// Labels that an agent must match, JSON object.
    pub labels: String,
    /// Concurrency group and limit.
    pub group: Option<(String, u32)>,
    /// Time-out, milliseconds.
    pub timeout_ms: u64,
    /// Its first cache key; empty = none.
    pub cache_key: String,
    /// Longest expected time from here to the build's end, milliseconds.
    pub critical_ms: u64,
    /// What is known of its inputs, JSON; empty = nothing.
    pub inputs: String,
    /// Whether equal stages are looked for before it is executed.
    pub ask: bool,
    /// Why not.
    pub memo_note: String,
    /// waiting | ready | skipped.
    pub state: slipway_core::build::StageState,
    /// Why it is skipped.
    pub reason: Option<String>,
}

/// What became of a build that was to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// A new build, with its number and the held attempts of older builds that it replaces.
    New {
        /// Its number in the repository.
        number: i64,
        /// Attempts to be stopped: (stage, attempt, agent).
        superseded: Vec<(String, i64, Option<String>)>,
    },
    /// There is one for this event already.
    Existing(String),
}

/// A build as stored.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct BuildRow {
    pub build_id: String,
    pub repo_id: String,
    pub repo_url: String,
    pub repo_name: String,
    pub number: i64,
    pub pipeline: String,
    pub commit_sha: String,
    pub commit_message: String,
    pub author: String,
    pub ref_name: String,
    pub branch: String,
    pub status: String,
    pub trigger_type: String,
    pub event: String,
    pub trust: String,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub duration: Option<i64>,
    pub log_url: Option<String>,
    pub docker_image_uri: Option<String>,
    pub test_coverage: Option<f64>,
    pub errors: String,
    pub variables: String,
    pub deploy: Option<String>,
    pub handover: String,
    pub source_root: Option<String>,
    pub committed_at: Option<i64>,
    pub superseded_by: Option<String>,
    pub initiator: String,
    pub created_at: i64,
}

/// What decides about the files that a later stage begins with.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LayerRow {
    /// Its build.
    pub build_id: String,
    /// The stage's name in its build.
    pub stage_name: String,
    /// Its needs, as JSON.
    pub needs: String,
    /// What it left in the workspace.
    pub output_layer: Option<String>,
}

/// A stage as stored.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct StageRow {
    pub stage_id: String,
    pub build_id: String,
    pub repo_id: String,
    pub idx: i64,
    pub stage_name: String,
    pub spec: String,
    pub needs: String,
    pub at_most_once: i64,
    pub failure_ignored: i64,
    pub timeout_ms: i64,
    pub state: String,
    pub status: String,
    pub reason: Option<String>,
    pub attempt: i64,
    pub agent_id: Option<String>,
    pub cancel_ms: Option<i64>,
    pub ready_ms: Option<i64>,
    pub started_at: Option<i64>,
    pub ended_at: Option<i64>,
    pub duration: Option<i64>,
    pub result_attempt: Option<i64>,
    pub result_digest: Option<String>,
    pub exit_code: Option<i64>,
    pub losses: i64,
    pub failures: i64,
    pub lost_agents: String,
    pub output_layer: Option<String>,
    pub image_uri: Option<String>,
    pub inputs: String,
    pub memo: String,
    pub stage_key: Option<String>,
    pub memo_note: String,
    pub recalled: Option<String>,
}

/// Which builds a list shows; empty fields do not filter.
#[derive(Clone, Debug, Default)]
pub struct BuildFilter {
    /// Repository id.
    pub repo_id: String,
    /// Branch.
    pub branch: String,
    /// Status word.
    pub status: String,
    /// Commit, or its beginning (hex digits only; the caller checks).
    pub commit: String,
    /// Author.
    pub author: String,
    /// Exact cause.
    pub event: String,
    /// Not older than this.
    pub since: Timestamp,
    /// Only builds with a smaller id (the last one of the page before).
    pub before: String,
    /// How many at most.
    pub limit: u32,
}

#[derive(sqlx::FromRow)]
pub(crate) struct BuildKey {
    pub(crate) build_id: String,
}

impl Db {
    /// Creates a build with its stages; supersedes older ones of its lane; decides its delivery.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn create_build(&self, new: NewBuild) -> Result<Created, StoreError> {
        self.groups().creations.submit(new).await
    }

    /// A build.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn build(&self, id: &BuildId) -> Result<Option<BuildRow>, StoreError> {
        match self {
            Self::Postgres(db) => Ok(db.lookups.builds.ask(id.as_str()).await?.pop()),
            Self::Sqlite(_) => self.row(sql!("builds/get"), args![id.as_str()]).await,
        }
    }

    /// Builds, newest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn builds(&self, f: &BuildFilter) -> Result<Vec<BuildRow>, StoreError> {
        let args = args![
            &f.repo_id, &f.branch, &f.status, &f.commit, &f.author, &f.event, f.since, &f.before,
            f.limit
        ];
        self.rows(sql!("builds/list"), args).await
    }

    /// The stages of a build, in file order.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn stages(&self, build: &BuildId) -> Result<Vec<StageRow>, StoreError> {
        self.rows(sql!("build_stages/of_build"), args![build.as_str()])
            .await
    }

    /// What every stage of a build needs and left, in file order.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn layers(&self, build: &BuildId) -> Result<Vec<LayerRow>, StoreError> {
        match self {
            Self::Postgres(db) => db.lookups.layers.ask(build.as_str()).await,
            Self::Sqlite(_) => {
                self.rows(sql!("build_stages/layers"), args![build.as_str()])
                    .await
            }
        }
    }

    /// One stage.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn stage(&self, id: &StageId) -> Result<Option<StageRow>, StoreError> {
        match self {
            Self::Postgres(db) => Ok(db.lookups.stages.ask(id.as_str()).await?.pop()),
            Self::Sqlite(_) => self.row(sql!("build_stages/get"), args![id.as_str()]).await,
        }
    }

    /// A reconciled build of this commit that no delivery has claimed yet.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn unclaimed_reconciled_build(
        &self,
        repo: &RepoId,
        ref_name: &str,
        sha: &str,
    ) -> Result<Option<String>, StoreError> {
        let args = args![repo.as_str(), ref_name, sha];
        let row: Option<BuildKey> = self.row(sql!("builds/find_reconciled"), args).await?;
        Ok(row.map(|r| r.build_id))
    }

    /// The newest build of a commit on a ref.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn build_of_commit(
        &self,
        repo: &RepoId,
        ref_name: &str,
        sha: &str,
    ) -> Result<Option<String>, StoreError> {
        let args = args![repo.as_str(), ref_name, sha];
        let row: Option<BuildKey> = self.row(sql!("builds/find_by_commit"), args).await?;
        Ok(row.map(|r| r.build_id))
    }

    /// Builds that passed and are to be handed to the coordinator.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn handovers_due(&self) -> Result<Vec<BuildRow>, StoreError> {
        self.rows(sql!("builds/handovers_due"), args![]).await
    }

    /// Marks a hand-over as done (`handed`) or impossible (`failed`); false when it was not due.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn set_handover(
        &self,
        build: &BuildId,
        state: &'static str,
    ) -> Result<bool, StoreError> {
        let build = build.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                Ok(tx
                    .execute(sql!("builds/set_handover"), args![build, state])
                    .await?
                    == 1)
            })
        })
        .await
    }
}
