//! Results of attempts, as many as wait at once: each is recorded if it is the current attempt's, and what
//! follows in a build is asked once for all of them.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use slipway_core::build::StageState;
use slipway_core::time::Timestamp;

use crate::artifacts::show;
use crate::error::StoreError;
use crate::results::{Acceptance, AttemptResult, Ended, Finished, settle_all};
use crate::sql::{args, sql};
use crate::writer::Tx;

#[derive(sqlx::FromRow)]
struct Known {
    result_attempt: Option<i64>,
    result_digest: Option<String>,
}

/// A result that was accepted.
struct Accepted {
    build: String,
    state: StageState,
    /// As its caller hears it.
    known_as: StageState,
}

/// What the statement for many answers of one of them.
#[derive(sqlx::FromRow)]
struct EndedStage {
    stage_id: String,
    build_id: String,
    state: String,
    stage_key: Option<String>,
}

/// Records results that waited at once.
pub(crate) fn together(
    tx: &mut Tx,
    results: Vec<AttemptResult>,
) -> BoxFuture<'_, Result<Vec<Finished>, StoreError>> {
    Box::pin(finish_all(tx, results))
}

async fn finish_all(tx: &mut Tx, results: Vec<AttemptResult>) -> Result<Vec<Finished>, StoreError> {
    let mut recorded = Vec::with_capacity(results.len());
    let mut builds: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut at_once = accept_at_once(tx, &results).await?;
    for result in &results {
        let outcome = record(tx, result, at_once.remove(result.stage_id.as_str())).await?;
        if let Ok(accepted) = &outcome {
            builds.insert(accepted.build.clone(), result.now);
        }
        recorded.push(outcome);
    }
    let changes = settle_all(tx, &builds).await?;
    let finished = results.iter().zip(recorded).map(|(result, outcome)| {
        let accepted = match outcome {
            Ok(accepted) => accepted,
            Err(refused) => {
                return Finished {
                    acceptance: refused,
                    change: None,
                };
            }
        };
        let mut change = changes.get(&accepted.build).cloned();
        if let Some(change) = &mut change
            && accepted.state == StageState::Ready
        {
            change.ready.push(result.stage_id.to_string());
        }
        Finished {
            acceptance: Acceptance::Accepted(accepted.known_as),
            change,
        }
    });
    Ok(finished.collect())
}

/// Writes one result, once, if it is the current attempt's; why not otherwise. `ended`: it was written
/// already, with others.
async fn record(
    tx: &mut Tx,
    r: &AttemptResult,
    mut ended: Option<Ended>,
) -> Result<Result<Accepted, Acceptance>, StoreError> {
    if ended.is_none() && may_go_back(r) {
        ended = try_again(tx, r).await?;
    }
    if ended.is_none() {
        // Also where it was cancelled meanwhile.
        ended = accept(tx, r).await?;
    }
    let Some(ended) = ended else {
        return refusal(tx, r).await.map(Err);
    };
    let state = state_of(&ended)?;
    if matches!(state, StageState::Succeeded | StageState::Failed) {
        promote(tx, r, &ended.build_id, state).await?;
    }
    if state == StageState::Succeeded && ended.stage_key.is_some() {
        crate::memo::record(tx, r).await?;
    }
    let mut known_as = state;
    if state == StageState::Cancelled {
        let args = args![r.stage_id.as_str()];
        let superseded = tx
            .execute(sql!("build_stages/mark_superseded"), args)
            .await?;
        if superseded > 0 {
            known_as = StageState::Superseded;
        }
    }
    Ok(Ok(Accepted {
        build: ended.build_id,
        state,
        known_as,
    }))
}

async fn refusal(tx: &mut Tx, r: &AttemptResult) -> Result<Acceptance, StoreError> {
    let known: Option<Known> = tx
        .row(sql!("build_stages/get"), args![r.stage_id.as_str()])
        .await?;
    let same = known.is_some_and(|k| {
        k.result_attempt == Some(r.attempt) && k.result_digest.as_ref() == Some(&r.digest)
    });
    Ok(if same {
        Acceptance::AlreadyAccepted
    } else {
        Acceptance::Stale
    })
}

fn state_of(ended: &Ended) -> Result<StageState, StoreError> {
    let state = ended.state.parse();
    state.map_err(|e| StoreError::Corrupt(format!("state: {e}")))
}

fn may_go_back(r: &AttemptResult) -> bool {
    r.try_again && r.state == StageState::Failed
}

/// On PostgreSQL: the first result of each stage, but for those that go back, in one statement with the end
/// of their attempts' histories; by stage, what was accepted. What was not is judged alone.
async fn accept_at_once(
    tx: &mut Tx,
    results: &[AttemptResult],
) -> Result<BTreeMap<String, Ended>, StoreError> {
    if !matches!(tx, Tx::Postgres(_)) {
        return Ok(BTreeMap::new());
    }
    let mut first: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
    for r in results {
        let known = first.contains_key(r.stage_id.as_str());
        if !known {
            first.insert(r.stage_id.as_str(), row(r));
        }
    }
    first.retain(|_, row| !row.is_null());
    if first.is_empty() {
        return Ok(BTreeMap::new());
    }
    let all = serde_json::Value::Array(first.into_values().collect());
    let statement = sql!("build_stages/accept_all.postgres");
    let ended: Vec<EndedStage> = tx.rows(statement, args![all.to_string()]).await?;
    let ended = ended.into_iter().map(|e| {
        let ended = Ended {
            build_id: e.build_id,
            state: e.state,
            stage_key: e.stage_key,
        };
        (e.stage_id, ended)
    });
    Ok(ended.collect())
}

/// As the statement for many reads it; null when it is not for that statement.
fn row(r: &AttemptResult) -> serde_json::Value {
    if may_go_back(r) {
        return serde_json::Value::Null;
    }
    let kept = r.state == StageState::Succeeded;
    serde_json::json!({
        "stage_id": r.stage_id.as_str(),
        "attempt": r.attempt,
        "agent_id": r.agent_id.as_str(),
        "state": r.state.as_str(),
        "digest": r.digest,
        "now": r.now.as_millis(),
        "reason": r.reason,
        "exit_code": r.exit_code,
        "output_layer": r.output_layer.as_ref().filter(|_| kept),
        "image_uri": r.image_uri.as_ref().filter(|_| kept),
        "detail": r.detail,
        "prepare_ms": r.spent_ms[0],
        "execute_ms": r.spent_ms[1],
        "collect_ms": r.spent_ms[2],
        "moved_bytes": r.cache_bytes[0],
        "reused_bytes": r.cache_bytes[1],
    })
}

/// The result, and the end of its attempt's history.
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
    let ended: Option<Ended> = tx.row(sql!("build_stages/accept"), args).await?;
    if let Some(ended) = &ended {
        record_history(tx, r, state_of(ended)?).await?;
    }
    Ok(ended)
}

/// Puts the stage back for its next attempt, and ends this one's history.
async fn try_again(tx: &mut Tx, r: &AttemptResult) -> Result<Option<Ended>, StoreError> {
    let args = args![
        r.stage_id.as_str(),
        r.attempt,
        r.agent_id.as_str(),
        &r.digest,
        r.now,
        r.reason.clone(),
    ];
    let ended: Option<Ended> = tx.row(sql!("build_stages/retry_failed"), args).await?;
    if let Some(ended) = &ended {
        record_history(tx, r, state_of(ended)?).await?;
    }
    Ok(ended)
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
        r.cache_bytes[0],
        r.cache_bytes[1],
    ];
    tx.execute(sql!("attempts/finish"), args).await.map(|_| ())
}

async fn promote(
    tx: &mut Tx,
    r: &AttemptResult,
    build: &str,
    state: StageState,
) -> Result<(), StoreError> {
    show(
        tx,
        (build, r.stage_id.as_str()),
        &r.artifacts,
        &r.reports,
        r.now,
    )
    .await?;
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
