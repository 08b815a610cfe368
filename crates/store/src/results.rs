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
    pub log_length: i64,
    pub log_lines: i64,
    pub log_digest: Option<String>,
    pub log_sealed: i64,
}

#[derive(sqlx::FromRow)]
pub(crate) struct Ended {
    pub(crate) build_id: String,
    pub(crate) state: String,
}

#[derive(sqlx::FromRow)]
struct Graph {
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
struct Known {
    result_attempt: Option<i64>,
    result_digest: Option<String>,
}

impl Db {
    /// Records a result, once, if it is the current attempt's; promotes its outputs; moves the build.
    ///
    /// # Errors
    /// When it cannot be made durable: the agent keeps the result and sends it again.
    pub async fn finish_attempt(&self, result: AttemptResult) -> Result<Finished, StoreError> {
        self.write(move |tx| Box::pin(finish(tx, result))).await
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
        self.write(move |tx| {
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

async fn finish(tx: &mut Tx, r: AttemptResult) -> Result<Finished, StoreError> {
    let ended = if r.try_again && r.state == StageState::Failed {
        match try_again(tx, &r).await? {
            // Cancelled meanwhile: the ordinary acceptance records that.
            None => accept(tx, &r).await?,
            again => again,
        }
    } else {
        accept(tx, &r).await?
    };
    let Some(ended) = ended else {
        let known: Option<Known> = tx
            .row(sql!("build_stages/get"), args![r.stage_id.as_str()])
            .await?;
        let same = known.is_some_and(|k| {
            k.result_attempt == Some(r.attempt) && k.result_digest.as_ref() == Some(&r.digest)
        });
        let acceptance = if same {
            Acceptance::AlreadyAccepted
        } else {
            Acceptance::Stale
        };
        return Ok(Finished {
            acceptance,
            change: None,
        });
    };
    let state: StageState = ended
        .state
        .parse()
        .map_err(|e| StoreError::Corrupt(format!("state: {e}")))?;
    record_history(tx, &r, state).await?;
    if matches!(state, StageState::Succeeded | StageState::Failed) {
        promote(tx, &r, &ended.build_id, state).await?;
    }
    let superseded = if state == StageState::Cancelled {
        let args = args![r.stage_id.as_str()];
        tx.execute(sql!("build_stages/mark_superseded"), args)
            .await?
    } else {
        0
    };
    let mut change = settle(tx, &ended.build_id, r.now).await?;
    if state == StageState::Ready {
        change.ready.push(r.stage_id.to_string());
    }
    let state = if superseded > 0 {
        StageState::Superseded
    } else {
        state
    };
    Ok(Finished {
        acceptance: Acceptance::Accepted(state),
        change: Some(change),
    })
}

async fn accept(tx: &mut Tx, r: &AttemptResult) -> Result<Option<Ended>, StoreError> {
    let kept = r.state == StageState::Succeeded;
    let args = args![
        r.state.as_str(),
        r.attempt,
        r.now,
        r.stage_id.as_str(),
        r.agent_id.as_str(),
        &r.digest,
        r.reason.clone(),
        i64::from(r.exit_code),
        r.output_layer.clone().filter(|_| kept),
        r.image_uri.clone().filter(|_| kept),
    ];
    tx.row(sql!("build_stages/accept"), args).await
}

async fn try_again(tx: &mut Tx, r: &AttemptResult) -> Result<Option<Ended>, StoreError> {
    let args = args![
        r.stage_id.as_str(),
        r.attempt,
        r.agent_id.as_str(),
        &r.digest,
        r.now,
        r.reason.clone(),
    ];
    tx.row(sql!("build_stages/retry_failed"), args).await
}

async fn record_history(
    tx: &mut Tx,
    r: &AttemptResult,
    state: StageState,
) -> Result<(), StoreError> {
    let outcome = if state == StageState::Ready {
        "failed"
    } else {
        state.as_str()
    };
    let args = args![
        r.stage_id.as_str(),
        r.attempt,
        r.now,
        outcome,
        r.reason.clone(),
        &r.detail,
        i64::from(r.exit_code),
        r.spent_ms[0],
        r.spent_ms[1],
        r.spent_ms[2],
    ];
    tx.execute(sql!("attempts/finish"), args).await.map(|_| ())
}

async fn promote(
    tx: &mut Tx,
    r: &AttemptResult,
    build: &str,
    state: StageState,
) -> Result<(), StoreError> {
    for artifact in &r.artifacts {
        artifact
            .insert(tx, build, r.stage_id.as_str(), r.now)
            .await?;
    }
    for report in &r.reports {
        report.put(tx, build, r.stage_id.as_str()).await?;
    }
    if r.reports.iter().any(|report| report.kind == "coverage") {
        tx.execute(sql!("builds/set_coverage"), args![build])
            .await?;
    }
    if let Some(root) = &r.source_root {
        tx.execute(sql!("builds/set_source_root"), args![build, root])
            .await?;
    }
    if let (Some(image), StageState::Succeeded) = (&r.image_uri, state) {
        tx.execute(sql!("builds/set_image"), args![build, image])
            .await?;
    }
    Ok(())
}

/// Asks core what follows from the stages' states and writes it.
pub(crate) async fn settle(
    tx: &mut Tx,
    build: &str,
    now: Timestamp,
) -> Result<BuildChange, StoreError> {
    // Two stages of one build may end at once on PostgreSQL: the build's row puts them in order.
    let before: Option<Status> = tx.row(sql!("builds/lock"), args![build]).await?;
    let graph: Vec<Graph> = tx.rows(sql!("build_stages/graph"), args![build]).await?;
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
            Transition::Ready => {
                tx.execute(sql!("build_stages/set_ready"), args![*id, now])
                    .await?;
                ready.push((*id).to_owned());
            }
            Transition::Skipped(reason) => {
                tx.execute(sql!("build_stages/set_skipped"), args![*id, now, reason])
                    .await?;
            }
        }
    }
    if before.is_some_and(|before| before.status != status.as_str()) {
        let args = args![build, status.as_str(), now, status.is_final()];
        tx.execute(sql!("builds/set_status"), args).await?;
    }
    Ok(BuildChange {
        build_id: build.to_owned(),
        status,
        ready,
    })
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
