//! Records of what stages came to, by their keys: written with the result that made them, read before an
//! equal stage would be executed. The first record of a key stays; a second one that left something
//! else is kept aside and shown.

use slipway_core::digest::Digest;
use slipway_core::id::{ArtifactId, BuildId, StageId};
use slipway_core::time::Timestamp;

use crate::artifacts::{NewArtifact, NewReport, show};
use crate::db::Db;
use crate::error::StoreError;
use crate::results::{AttemptResult, BuildChange, settle};
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A record that nobody used for so long is forgotten: a week.
const KEEP_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// A record.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0012_create_stage_outcomes.sql"
)]
pub struct OutcomeRow {
    pub outcome_id: String,
    pub stage_key: String,
    pub scope: String,
    pub state: String,
    pub stage_name: String,
    pub fields: String,
    pub build_id: String,
    pub stage_id: String,
    pub attempt: i64,
    pub agent_id: String,
    pub output_layer: Option<String>,
    pub artifacts: String,
    pub reports: String,
    pub outputs: String,
    pub duration: i64,
    pub created_at: i64,
}

/// What was found out about a stage before it would be executed.
#[derive(Clone, Debug)]
pub struct Memo {
    /// Which stage.
    pub stage_id: StageId,
    /// Its key; `None` = nothing is recorded under one.
    pub key: Option<String>,
    /// The digests of the key's fields, JSON.
    pub fields: String,
    /// Why it is recalled or not, a sentence.
    pub note: String,
    /// What becomes of it.
    pub decided: Decided,
}

/// What becomes of a stage that was looked up.
#[derive(Clone, Debug)]
pub enum Decided {
    /// It is executed.
    Execute,
    /// It has ended as this record says; its kept files get these ids.
    Recall(Box<OutcomeRow>, Vec<ArtifactId>),
}

impl OutcomeRow {
    /// The kept files.
    ///
    /// # Errors
    /// When the row was damaged.
    pub fn kept_files(&self) -> Result<Vec<NewArtifact>, StoreError> {
        let files = serde_json::from_str(&self.artifacts);
        files.map_err(|e| StoreError::Corrupt(format!("artifacts: {e}")))
    }

    /// Which attempt it is the record of, as a recalled stage keeps it.
    #[must_use]
    pub fn origin(&self) -> serde_json::Value {
        serde_json::json!({
            "outcome_id": self.outcome_id,
            "build_id": self.build_id,
            "stage_id": self.stage_id,
            "attempt": self.attempt,
            "agent_id": self.agent_id,
            "duration_ms": self.duration,
        })
    }

    fn reports(&self) -> Result<Vec<NewReport>, StoreError> {
        let reports = serde_json::from_str(&self.reports);
        reports.map_err(|e| StoreError::Corrupt(format!("reports: {e}")))
    }
}

impl Db {
    /// The record of a key in the first of these scopes that has one; at most two scopes.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn outcome(
        &self,
        repo: &str,
        key: &str,
        scopes: &[String],
    ) -> Result<Option<OutcomeRow>, StoreError> {
        let [first, second] = two(scopes);
        let found: Vec<OutcomeRow> = self
            .rows(
                sql!("stage_outcomes/find"),
                args![repo, key, first.as_str(), second.as_str()],
            )
            .await?;
        let by_scope = |scope: &String| found.iter().find(|row| row.scope == *scope).cloned();
        Ok(scopes.iter().find_map(by_scope))
    }

    /// The newest five records of a stage's name, whatever their keys; at most two scopes.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn outcomes_named(
        &self,
        repo: &str,
        stage_name: &str,
        scopes: &[String],
    ) -> Result<Vec<OutcomeRow>, StoreError> {
        let [first, second] = two(scopes);
        let args = args![repo, stage_name, first.as_str(), second.as_str()];
        self.rows(sql!("stage_outcomes/newest"), args).await
    }

    /// Writes down what was found out about stages of a build, and ends those that are recalled; what
    /// followed in the build, if any was.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn decide_memo(
        &self,
        build: &BuildId,
        all: Vec<Memo>,
        now: Timestamp,
    ) -> Result<Option<BuildChange>, StoreError> {
        let build = build.to_string();
        self.write_leading(move |tx| {
            Box::pin(async move {
                let mut recalled = false;
                for memo in &all {
                    recalled |= decide(tx, &build, memo, now).await?;
                }
                if recalled {
                    settle(tx, &build, now).await.map(Some)
                } else {
                    Ok(None)
                }
            })
        })
        .await
    }
}

impl Db {
    /// What recalled stages of a build left is nowhere any more: they wait for their execution, whatever
    /// was to begin with it waits for them, and their records are not offered again. `None` = the build
    /// has no such stage.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn undo_recalls(
        &self,
        build: &BuildId,
        now: Timestamp,
    ) -> Result<Option<BuildChange>, StoreError> {
        let build = build.to_string();
        self.write_leading(move |tx| Box::pin(async move { undo(tx, &build, now).await }))
            .await
    }
}

#[derive(sqlx::FromRow)]
struct Recalled {
    stage_id: String,
    recalled: String,
}

async fn undo(tx: &mut Tx, build: &str, now: Timestamp) -> Result<Option<BuildChange>, StoreError> {
    let all: Vec<Recalled> = tx.rows(sql!("build_stages/recalled"), args![build]).await?;
    if all.is_empty() {
        return Ok(None);
    }
    for stage in &all {
        let origin: serde_json::Value = serde_json::from_str(&stage.recalled)
            .map_err(|e| StoreError::Corrupt(format!("recalled: {e}")))?;
        let record = origin["outcome_id"].as_str().unwrap_or_default();
        tx.execute(sql!("stage_outcomes/replace"), args![record])
            .await?;
        tx.execute(sql!("artifacts/remove_of_stage"), args![&stage.stage_id])
            .await?;
        let note = "was recalled, but what it left is nowhere any more";
        tx.execute(
            sql!("build_stages/undo_recall"),
            args![&stage.stage_id, note],
        )
        .await?;
    }
    tx.execute(sql!("build_stages/wait_again"), args![build])
        .await?;
    settle(tx, build, now).await.map(Some)
}

fn two(scopes: &[String]) -> [String; 2] {
    let first = scopes.first().cloned().unwrap_or_default();
    let second = scopes.get(1).cloned().unwrap_or_else(|| first.clone());
    [first, second]
}

/// Whether it was recalled.
async fn decide(tx: &mut Tx, build: &str, memo: &Memo, now: Timestamp) -> Result<bool, StoreError> {
    let stage = memo.stage_id.as_str();
    let key = memo.key.clone();
    let fields = key.as_ref().map(|_| memo.fields.clone());
    let Decided::Recall(outcome, ids) = &memo.decided else {
        let args = args![stage, key, fields, &memo.note];
        tx.execute(sql!("build_stages/ask_no_more"), args).await?;
        return Ok(false);
    };
    let args = args![
        stage,
        key,
        fields,
        &memo.note,
        &outcome.outcome_id,
        outcome.output_layer.clone(),
        now,
        outcome.origin().to_string(),
    ];
    if tx.execute(sql!("build_stages/recall"), args).await? == 0 {
        // Cancelled meanwhile, or the record is gone: looked at again.
        return Ok(false);
    }
    tx.execute(sql!("stage_outcomes/used"), args![&outcome.outcome_id, now])
        .await?;
    let named_anew = |(file, id): (NewArtifact, &ArtifactId)| NewArtifact {
        artifact_id: id.clone(),
        ..file
    };
    let files = outcome.kept_files()?.into_iter().zip(ids);
    let files: Vec<NewArtifact> = files.map(named_anew).collect();
    show(tx, (build, stage), &files, &outcome.reports()?, now).await?;
    Ok(true)
}

/// Records what a stage came to, in the transaction that accepts it.
pub(crate) async fn record(tx: &mut Tx, r: &AttemptResult) -> Result<(), StoreError> {
    let stage = r.stage_id.as_str();
    let outputs = outputs(&r.artifacts);
    let kept: Option<OutcomeRow> = tx
        .row(sql!("stage_outcomes/kept_for"), args![stage])
        .await?;
    let state = match &kept {
        None => "kept",
        Some(kept) if kept.outputs == outputs && kept.output_layer == r.output_layer => {
            let args = args![&kept.outcome_id, r.now];
            return tx
                .execute(sql!("stage_outcomes/used"), args)
                .await
                .map(|_| ());
        }
        // The same was kept; of the two layers the newer one is more likely to be somewhere.
        Some(kept) if kept.outputs == outputs => {
            tx.execute(sql!("stage_outcomes/replace"), args![&kept.outcome_id])
                .await?;
            "kept"
        }
        Some(kept) => {
            let note = not_reproducible(kept, &r.artifacts);
            tx.execute(sql!("build_stages/note_memo"), args![stage, note])
                .await?;
            "quarantined"
        }
    };
    let text = |json: Result<String, serde_json::Error>| {
        json.map_err(|e| StoreError::Corrupt(format!("a result: {e}")))
    };
    let args = args![
        format!("{stage}.{}", r.attempt),
        state,
        text(serde_json::to_string(&r.artifacts))?,
        text(serde_json::to_string(&r.reports))?,
        outputs,
        r.now,
        stage,
    ];
    tx.execute(sql!("stage_outcomes/insert"), args).await?;
    let unused = Timestamp::from_millis(r.now.as_millis().saturating_sub(KEEP_MS));
    tx.execute(sql!("stage_outcomes/forget"), args![unused])
        .await
        .map(|_| ())
}

/// What two executions of one key must agree on. A layer is not compared: it holds the times at which
/// files were written.
fn outputs(files: &[NewArtifact]) -> String {
    let mut facts: Vec<[&str; 2]> = files.iter().map(|f| [&*f.name, &*f.checksum]).collect();
    facts.sort_unstable();
    Digest::of(serde_json::json!(facts).to_string().as_bytes()).to_string()
}

/// Paths that are named in the sentence.
const PATHS_MAX: usize = 10;

fn not_reproducible(kept: &OutcomeRow, files: &[NewArtifact]) -> String {
    let before = kept.kept_files().unwrap_or_default();
    let differs = |file: &&NewArtifact, others: &[NewArtifact]| {
        let same = |o: &NewArtifact| o.name == file.name && o.checksum == file.checksum;
        !others.iter().any(same)
    };
    let mut paths: Vec<&str> = files
        .iter()
        .filter(|file| differs(file, &before))
        .chain(before.iter().filter(|file| differs(file, files)))
        .map(|file| file.name.as_str())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let more = if paths.len() > PATHS_MAX { ", …" } else { "" };
    paths.truncate(PATHS_MAX);
    format!(
        "not reproducible: with the same inputs, build {} kept something else: {}{more}",
        kept.build_id,
        paths.join(", ")
    )
}
