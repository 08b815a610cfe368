//! How a build is written: with its stages, the older ones of its lane superseded and its delivery decided,
//! in one transaction.

use slipway_core::build::StageState;
use slipway_core::time::Timestamp;

use crate::builds::{BuildKey, Created, NewBuild, NewStage};
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

pub(crate) async fn create(tx: &mut Tx, new: NewBuild) -> Result<Created, StoreError> {
    if let Some(key) = &new.event_key {
        let args = args![new.repo_id.as_str(), key];
        let known: Option<BuildKey> = tx.row(sql!("builds/find_by_event"), args).await?;
        if let Some(known) = known {
            decide(tx, &new, "attached", &known.build_id).await?;
            return Ok(Created::Existing(known.build_id));
        }
    }
    let taken = tx
        .row(
            sql!("repositories/take_number"),
            args![new.repo_id.as_str()],
        )
        .await?;
    let Number { number } = taken.ok_or(StoreError::NotFound("repository"))?;
    insert(tx, &new, number).await?;
    insert_stages(tx, &new).await?;
    let superseded = supersede(tx, &new).await?;
    decide(tx, &new, "built", new.build_id.as_str()).await?;
    Ok(Created::New { number, superseded })
}

async fn insert(tx: &mut Tx, new: &NewBuild, number: i64) -> Result<(), StoreError> {
    let ended = new.status.is_final().then_some(new.created);
    let group = new.group.as_ref();
    let args = args![
        new.build_id.as_str(),
        new.repo_id.as_str(),
        number,
        &new.pipeline,
        &new.commit_sha,
        &new.commit_message,
        &new.author,
        &new.ref_name,
        &new.branch,
        new.status.as_str(),
        &new.trigger_type,
        &new.event,
        &new.trust,
        new.event_key.clone(),
        new.lane.clone(),
        group.map(|(name, _)| name.clone()),
        group.map_or(1, |(_, limit)| *limit),
        new.urgent,
        new.errors.to_string(),
        new.variables.to_string(),
        new.deploy.clone(),
        &new.initiator,
        new.created,
        format!("/api/v1/builds/{}/logs", new.build_id),
        ended,
        ended,
        ended.map(|_| 0),
        new.committed_at,
    ];
    tx.execute(sql!("builds/insert"), args).await.map(|_| ())
}

async fn insert_stages(tx: &mut Tx, new: &NewBuild) -> Result<(), StoreError> {
    if matches!(tx, Tx::Postgres(_)) {
        let rows: Result<Vec<_>, _> = (0..)
            .zip(&new.stages)
            .map(|(i, s)| row(new, i, s))
            .collect();
        let rows = serde_json::Value::Array(rows?).to_string();
        let statement = sql!("build_stages/insert_all.postgres");
        return tx.execute(statement, args![rows]).await.map(|_| ());
    }
    for (idx, stage) in (0..).zip(&new.stages) {
        insert_stage(tx, new, idx, stage).await?;
    }
    Ok(())
}

/// As the statement for all stages reads it.
pub(crate) fn row(
    new: &NewBuild,
    idx: i64,
    stage: &NewStage,
) -> Result<serde_json::Value, StoreError> {
    let group = stage.group.as_ref();
    Ok(serde_json::json!({
        "stage_id": stage.stage_id.as_str(),
        "build_id": new.build_id.as_str(),
        "repo_id": new.repo_id.as_str(),
        "idx": idx,
        "stage_name": stage.name,
        "spec": stage.spec,
        "needs": needs(stage)?,
        "runs_on": stage.runs_on,
        "failure_ignored": i64::from(stage.failure_ignored),
        "at_most_once": i64::from(stage.at_most_once),
        "priority": stage.priority,
        "labels": stage.labels,
        "concurrency_group": group.map(|(name, _)| name),
        "concurrency_limit": group.map_or(1, |(_, limit)| *limit),
        "timeout_ms": i64::try_from(stage.timeout_ms).unwrap_or(i64::MAX),
        "state": stage.state.as_str(),
        "reason": stage.reason,
        "ready_ms": ready_ms(new, stage).map(Timestamp::as_millis),
        "cache_key": stage.cache_key,
        "critical_ms": i64::try_from(stage.critical_ms).unwrap_or(i64::MAX),
        "inputs": stage.inputs,
        "memo": asks(stage),
        "memo_note": stage.memo_note,
    }))
}

fn needs(stage: &NewStage) -> Result<String, StoreError> {
    serde_json::to_string(&stage.needs).map_err(|e| StoreError::Corrupt(format!("needs: {e}")))
}

fn asks(stage: &NewStage) -> &'static str {
    if stage.ask { "ask" } else { "" }
}

fn ready_ms(new: &NewBuild, stage: &NewStage) -> Option<Timestamp> {
    (stage.state == StageState::Ready).then_some(new.created)
}

async fn insert_stage(
    tx: &mut Tx,
    new: &NewBuild,
    idx: i64,
    stage: &NewStage,
) -> Result<(), StoreError> {
    let group = stage.group.as_ref();
    let args = args![
        stage.stage_id.as_str(),
        new.build_id.as_str(),
        new.repo_id.as_str(),
        idx,
        &stage.name,
        &stage.spec,
        needs(stage)?,
        &stage.runs_on,
        stage.failure_ignored,
        stage.at_most_once,
        i64::from(stage.priority),
        &stage.labels,
        group.map(|(name, _)| name.clone()),
        group.map_or(1, |(_, limit)| *limit),
        i64::try_from(stage.timeout_ms).unwrap_or(i64::MAX),
        stage.state.as_str(),
        stage.reason.clone(),
        ready_ms(new, stage),
        &stage.cache_key,
        i64::try_from(stage.critical_ms).unwrap_or(i64::MAX),
        &stage.inputs,
        asks(stage),
        &stage.memo_note,
    ];
    tx.execute(sql!("build_stages/insert"), args)
        .await
        .map(|_| ())
}

pub(crate) async fn supersede(
    tx: &mut Tx,
    new: &NewBuild,
) -> Result<Vec<(String, i64, Option<String>)>, StoreError> {
    let Some(lane) = &new.lane else {
        return Ok(Vec::new());
    };
    let args = args![new.repo_id.as_str(), lane, new.build_id.as_str()];
    let older: Vec<BuildKey> = tx.rows(sql!("builds/older_in_lane"), args).await?;
    let mut held = Vec::new();
    for old in older {
        let args = args![&old.build_id, new.build_id.as_str()];
        tx.execute(sql!("builds/set_superseded"), args).await?;
        let reason = format!("superseded by build {}", new.build_id);
        held.extend(
            crate::cancels::cancel(tx, &old.build_id, "superseded", &reason, new.created).await?,
        );
    }
    Ok(held)
}

async fn decide(
    tx: &mut Tx,
    new: &NewBuild,
    state: &'static str,
    build: &str,
) -> Result<(), StoreError> {
    let Some(delivery) = &new.delivery else {
        return Ok(());
    };
    let args = args![delivery.as_str(), state, &new.event, build, new.created];
    tx.execute(sql!("inbox/decide"), args).await.map(|_| ())
}
