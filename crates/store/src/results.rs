//! How stages end: accepted results, losses, cancels; and what follows in the build, in the same
//! transaction. Every statement carries the attempt number: an older one changes nothing (I-11).

use std::collections::BTreeMap;

use slipway_core::build::{BuildStatus, RunsOn, StageState, StageView, Transition, advance};
use slipway_core::id::{AgentId, BuildId, StageId};
use slipway_core::time::Timestamp;

use crate::artifacts::{NewArtifact, NewReport};
use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A result as the dispatcher derived it.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// Which stage.
    pub stage_id: StageId,
    /// Which attempt: the fence.
    pub attempt: i64,
    /// Who reports: checked against the row.
    pub agent_id: AgentId,
    /// Digest over the reported facts, so that a repetition is recognised.
    pub digest: String,
    /// succeeded | failed | cancelled.
    pub state: StageState,
    /// A failed attempt of a stage that may be tried again: goes back to ready.
    pub try_again: bool,
    /// One word.
    pub reason: Option<String>,
    /// A sentence.
    pub detail: String,
    /// As reported.
    pub exit_code: i32,
    /// What the stage left in the workspace.
    pub output_layer: Option<String>,
    /// The source workspace it captured.
    pub source_root: Option<String>,
    /// The image it built, by digest.
    pub image_uri: Option<String>,
    /// Files kept; visible from now on.
    pub artifacts: Vec<NewArtifact>,
    /// Test and coverage reports.
    pub reports: Vec<NewReport>,
    /// Milliseconds: prepare, execute, collect.
    pub spent_ms: [i64; 3],
    /// Bytes of its workspace: moved from other agents, there already.
    pub cache_bytes: [i64; 2],
    /// When the dispatcher heard it.
    pub now: Timestamp,
}

/// What became of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is the stage's result now; the state recorded may be `cancelled`.
    Accepted(StageState),
    /// The same result was accepted before.
    AlreadyAccepted,
    /// Not the current attempt, not this agent's, or ended otherwise.
    Stale,
}

/// What followed in the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildChange {
    /// Which build.
    pub build_id: String,
    /// Its status now.
    pub status: BuildStatus,
    /// Stages that became ready.
    pub ready: Vec<String>,
}

/// Acceptance and what followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Whether it was accepted.
    pub acceptance: Acceptance,
    /// What followed, when accepted.
    pub change: Option<BuildChange>,
}

/// One attempt's history.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct AttemptRow {
    pub stage_id: String,
    pub attempt: i64,
    pub agent_id: String,
    pub assigned_ms: i64,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    pub outcome: Option<String>,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub exit_code: Option<i64>,
    pub moved_bytes: i64,
    pub reused_bytes: i64,
    pub log_length: i64,
    pub log_lines: i64,
    pub log_digest: Option<String>,
    pub log_sealed: i64,
}

#[derive(sqlx::FromRow)]
pub(crate) struct Ended {
    pub(crate) build_id: String,
    pub(crate) state: String,
    /// Under which key it may be recalled, where it was accepted and has one.
    #[sqlx(default)]
    pub(crate) stage_key: Option<String>,
}

#[derive(Clone, sqlx::FromRow)]
struct Graph {
    build_id: String,
    stage_id: String,
    stage_name: String,
    state: String,
    needs: String,
    failure_ignored: i64,
    runs_on: String,
}

#[derive(sqlx::FromRow)]
struct Status {
    status: String,
}

#[derive(sqlx::FromRow)]
struct BuildStatusRow {
    build_id: String,
    status: String,
}

impl Db {
    /// Records a result, once, if it is the current attempt's; promotes its outputs; moves the build.
    ///
    /// # Errors
    /// When it cannot be made durable: the agent keeps the result and sends it again.
    pub async fn finish_attempt(&self, result: AttemptResult) -> Result<Finished, StoreError> {
        self.groups().results.submit(result).await
    }

    /// Puts stages of an ended build back to waiting and moves the build on.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn rerun_stages(
        &self,
        build: &BuildId,
        stages: Vec<StageId>,
        now: Timestamp,
    ) -> Result<BuildChange, StoreError> {
        let build = build.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                for stage in stages {
                    let args = args![stage.as_str()];
                    tx.execute(sql!("artifacts/remove_of_stage"), args.clone())
                        .await?;
                    tx.execute(sql!("build_stages/reset_for_rerun"), args)
                        .await?;
                }
                settle(tx, &build, now).await
            })
        })
        .await
    }

    /// A person decides about a stage whose outcome is unknown.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn decide_unknown(
        &self,
        stage: &StageId,
        state: StageState,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<BuildChange>, StoreError> {
        let (stage, reason) = (stage.to_string(), reason.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![stage, state.as_str(), reason];
                let ended: Option<Ended> =
                    tx.row(sql!("build_stages/decide_unknown"), args).await?;
                match ended {
                    Some(ended) => settle(tx, &ended.build_id, now).await.map(Some),
                    None => Ok(None),
                }
            })
        })
        .await
    }

    /// Records how much of an attempt's log is stored.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn set_log(
        &self,
        stage: &StageId,
        attempt: i64,
        length: i64,
        lines: i64,
        digest: Option<String>,
        sealed: bool,
    ) -> Result<(), StoreError> {
        let stage = stage.to_string();
        self.write_leading(move |tx| {
            Box::pin(async move {
                let args = args![stage, attempt, length, lines, digest, sealed];
                tx.execute(sql!("attempts/set_log"), args).await.map(|_| ())
            })
        })
        .await
    }

    /// The attempts of a stage.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn attempts(&self, stage: &StageId) -> Result<Vec<AttemptRow>, StoreError> {
        self.rows(sql!("attempts/of_stage"), args![stage.as_str()])
            .await
    }

    /// The attempts of a build, by stage.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn attempts_of_build(&self, build: &BuildId) -> Result<Vec<AttemptRow>, StoreError> {
        self.rows(sql!("attempts/of_build"), args![build.as_str()])
            .await
    }
}

/// Asks core what follows from the stages' states and writes it.
pub(crate) async fn settle(
    tx: &mut Tx,
    build: &str,
    now: Timestamp,
) -> Result<BuildChange, StoreError> {
    let one = BTreeMap::from([(build.to_owned(), now)]);
    let settled = settle_all(tx, &one).await?.remove(build);
    settled.ok_or_else(|| StoreError::Corrupt(format!("build `{build}` was not settled")))
}

/// The same for many builds at once, each with when it moved.
pub(crate) async fn settle_all(
    tx: &mut Tx,
    builds: &BTreeMap<String, Timestamp>,
) -> Result<BTreeMap<String, BuildChange>, StoreError> {
    let known = lock_and_read(tx, builds).await?;
    let mut changes = BTreeMap::new();
    let (mut ready, mut latest) = (Vec::new(), Timestamp::default());
    let mut moved = Vec::new();
    for (build, now) in builds {
        let (before, graph) = known.get(build).cloned().unwrap_or_default();
        let change = follow(tx, build, *now, &graph).await?;
        if before.is_some_and(|before| before != change.status.as_str()) {
            moved.push((build, change.status, *now));
        }
        ready.extend(change.ready.iter().cloned());
        latest = latest.max(*now);
        changes.insert(build.clone(), change);
    }
    set_statuses(tx, &moved).await?;
    set_ready(tx, &ready, latest).await?;
    Ok(changes)
}

async fn set_statuses(
    tx: &mut Tx,
    moved: &[(&String, BuildStatus, Timestamp)],
) -> Result<(), StoreError> {
    if matches!(tx, Tx::Postgres(_)) && moved.len() > 1 {
        let moved = moved.iter().map(|(build, status, now)| {
            serde_json::json!({
                "build_id": build,
                "status": status.as_str(),
                "now": now.as_millis(),
                "final": i64::from(status.is_final()),
            })
        });
        let moved = serde_json::Value::Array(moved.collect()).to_string();
        tx.execute(sql!("builds/set_statuses.postgres"), args![moved])
            .await?;
        return Ok(());
    }
    for (build, status, now) in moved {
        let args = args![*build, status.as_str(), *now, status.is_final()];
        tx.execute(sql!("builds/set_status"), args).await?;
    }
    Ok(())
}

/// Of each build: its status before, and its stages. Two stages of one build may end at once on PostgreSQL:
/// the build's row puts them in order.
async fn lock_and_read(
    tx: &mut Tx,
    builds: &BTreeMap<String, Timestamp>,
) -> Result<BTreeMap<String, (Option<String>, Vec<Graph>)>, StoreError> {
    let mut known: BTreeMap<String, (Option<String>, Vec<Graph>)> = BTreeMap::new();
    if matches!(tx, Tx::Postgres(_)) {
        let ids = array(builds.keys())?;
        let locked: Vec<BuildStatusRow> = tx
            .rows(sql!("builds/lock_all.postgres"), args![&ids])
            .await?;
        for row in locked {
            known.entry(row.build_id).or_default().0 = Some(row.status);
        }
        let statement = sql!("build_stages/graph_all.postgres");
        let graph: Vec<Graph> = tx.rows(statement, args![ids]).await?;
        for stage in graph {
            known
                .entry(stage.build_id.clone())
                .or_default()
                .1
                .push(stage);
        }
        return Ok(known);
    }
    for build in builds.keys() {
        let before: Option<Status> = tx.row(sql!("builds/lock"), args![build]).await?;
        let graph: Vec<Graph> = tx.rows(sql!("build_stages/graph"), args![build]).await?;
        known.insert(build.clone(), (before.map(|b| b.status), graph));
    }
    Ok(known)
}

/// What core says of one build's stages; what is skipped is written here, what is ready by the caller.
async fn follow(
    tx: &mut Tx,
    build: &str,
    now: Timestamp,
    graph: &[Graph],
) -> Result<BuildChange, StoreError> {
    let ids: BTreeMap<&str, &str> = graph
        .iter()
        .map(|g| (g.stage_name.as_str(), g.stage_id.as_str()))
        .collect();
    let views = graph.iter().map(view).collect::<Result<Vec<_>, _>>()?;
    let (moved, status) = advance(&views);
    let mut ready = Vec::new();
    for (name, transition) in moved {
        let Some(id) = ids.get(name.as_str()) else {
            continue;
        };
        match transition {
            Transition::Ready => ready.push((*id).to_owned()),
            Transition::Skipped(reason) => {
                tx.execute(sql!("build_stages/set_skipped"), args![*id, now, reason])
                    .await?;
            }
        }
    }
    Ok(BuildChange {
        build_id: build.to_owned(),
        status,
        ready,
    })
}

async fn set_ready(tx: &mut Tx, stages: &[String], now: Timestamp) -> Result<(), StoreError> {
    if stages.is_empty() {
        return Ok(());
    }
    if matches!(tx, Tx::Postgres(_)) {
        let args = args![array(stages.iter())?, now];
        tx.execute(sql!("build_stages/set_ready_all.postgres"), args)
            .await?;
        return Ok(());
    }
    for stage in stages {
        tx.execute(sql!("build_stages/set_ready"), args![stage, now])
            .await?;
    }
    Ok(())
}

/// Ids as the statements for many read them.
pub(crate) fn array<'a>(ids: impl Iterator<Item = &'a String>) -> Result<String, StoreError> {
    let ids: Vec<&String> = ids.collect();
    serde_json::to_string(&ids).map_err(|e| StoreError::Corrupt(format!("ids: {e}")))
}

fn view(g: &Graph) -> Result<StageView, StoreError> {
    Ok(StageView {
        name: g.stage_name.clone(),
        state: g
            .state
            .parse()
            .map_err(|e| StoreError::Corrupt(format!("state: {e}")))?,
        needs: serde_json::from_str(&g.needs)
            .map_err(|e| StoreError::Corrupt(format!("needs: {e}")))?,
        failure_ignored: g.failure_ignored == 1,
        runs_on: match g.runs_on.as_str() {
            "success" => RunsOn::Success,
            "failure" => RunsOn::Failure,
            "always" => RunsOn::Always,
            other => return Err(StoreError::Corrupt(format!("runs_on: `{other}`"))),
        },
    })
}
