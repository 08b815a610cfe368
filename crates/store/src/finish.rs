//! Results of attempts on their way to the writer: those that wait there at once are one command, and
//! what follows in a build is asked once for all of them. There is no timer: a result that is alone is
//! written alone.

use std::collections::BTreeMap;

use slipway_core::build::StageState;
use slipway_core::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::results::{Acceptance, AttemptResult, BuildChange, Ended, Finished, settle};
use crate::sql::{args, sql};
use crate::writer::{Tx, Writer, in_background};

/// Results that wait; beyond it callers wait.
const QUEUE: usize = 1_024;
/// Results of one command.
const GROUP: usize = 64;

type Answer = Result<Finished, StoreError>;

struct Waiting {
    result: AttemptResult,
    answer: oneshot::Sender<Answer>,
}

/// The door for results. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Finisher {
    queue: mpsc::Sender<Waiting>,
}

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

impl Finisher {
    pub(crate) fn start(writer: Writer) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        in_background(serve(writer, waiting));
        Self { queue }
    }

    pub(crate) async fn finish(&self, result: AttemptResult) -> Answer {
        let gone = || StoreError::Unavailable("the writer has stopped".to_owned());
        let (answer, done) = oneshot::channel();
        let waiting = Waiting { result, answer };
        self.queue.send(waiting).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

async fn serve(writer: Writer, mut waiting: mpsc::Receiver<Waiting>) {
    let mut group: Vec<Waiting> = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let results = group.iter().map(|w| w.result.clone()).collect();
        let written = write(&writer, results).await;
        match written {
            Ok(all) => {
                for (waiting, finished) in group.drain(..).zip(all) {
                    waiting.answer(Ok(finished));
                }
            }
            Err(StoreError::NotLeader) => {
                for waiting in group.drain(..) {
                    waiting.answer(Err(StoreError::NotLeader));
                }
            }
            Err(StoreError::Unavailable(why)) => {
                for waiting in group.drain(..) {
                    waiting.answer(Err(StoreError::Unavailable(why.clone())));
                }
            }
            // One of them is at fault: the others must not fail with it.
            Err(_) => {
                for waiting in group.drain(..) {
                    let alone = write(&writer, vec![waiting.result.clone()]).await;
                    let missing = || StoreError::Corrupt("a result without an answer".to_owned());
                    waiting.answer(alone.and_then(|mut all| all.pop().ok_or_else(missing)));
                }
            }
        }
    }
}

impl Waiting {
    fn answer(self, outcome: Answer) {
        // The caller may have gone; the write stands all the same.
        let _gone = self.answer.send(outcome);
    }
}

async fn write(writer: &Writer, results: Vec<AttemptResult>) -> Result<Vec<Finished>, StoreError> {
    let write = writer.submit(true, move |tx| Box::pin(finish_all(tx, results)));
    write.await
}

async fn finish_all(tx: &mut Tx, results: Vec<AttemptResult>) -> Result<Vec<Finished>, StoreError> {
    let mut recorded = Vec::with_capacity(results.len());
    let mut builds: BTreeMap<String, Timestamp> = BTreeMap::new();
    for result in &results {
        let outcome = record(tx, result).await?;
        if let Ok(accepted) = &outcome {
            builds.insert(accepted.build.clone(), result.now);
        }
        recorded.push(outcome);
    }
    let mut changes: BTreeMap<String, BuildChange> = BTreeMap::new();
    for (build, now) in builds {
        let change = settle(tx, &build, now).await?;
        changes.insert(build, change);
    }
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

/// Writes one result, once, if it is the current attempt's; why not otherwise.
async fn record(
    tx: &mut Tx,
    r: &AttemptResult,
) -> Result<Result<Accepted, Acceptance>, StoreError> {
    let mut again = None;
    if r.try_again && r.state == StageState::Failed {
        again = try_again(tx, r).await?;
    }
    let ended = match again {
        Some(ended) => Some(ended),
        // Also where it was cancelled meanwhile.
        None => accept(tx, r).await?,
    };
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

/// The result, and the end of its attempt's history: in one round trip where that costs one.
async fn accept(tx: &mut Tx, r: &AttemptResult) -> Result<Option<Ended>, StoreError> {
    let kept = r.state == StageState::Succeeded;
    let mut args = args![
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
    if matches!(tx, Tx::Postgres(_)) {
        args.extend(args![
            &r.detail,
            r.spent_ms[0],
            r.spent_ms[1],
            r.spent_ms[2]
        ]);
        return tx
            .row(sql!("build_stages/accept_and_note.postgres"), args)
            .await;
    }
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
