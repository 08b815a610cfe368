//! An agent reports how an attempt ended. The outcome is derived here; the statement that records it
//! checks that the attempt is the current one and this agent's.

use std::collections::BTreeMap;

use slipway_core::build::{Ending, Outcome, StageState, derive_outcome};
use slipway_core::id::{AgentId, StageId};
use slipway_core::lease::fence::{self, Judgement, Record};
use slipway_core::pipeline::PlannedStage;
use slipway_core::queue::AgentState;
use slipway_proto::convert::{self, AttemptKey, WireError};
use slipway_proto::v1;
use slipway_store::{Acceptance, AttemptResult, NewArtifact, NewReport, StageRow, StoreError};

use crate::state::App;

/// Artifacts and reports of one attempt.
const ITEMS_MAX: usize = 10_000;
/// Bytes of one attempt's workspace that are believed: a pebibyte.
const CACHE_BYTES_MAX: u64 = 1 << 50;
/// Failed tests kept per report.
const FAILURES_MAX: usize = 200;

/// Takes a result in and says what became of it.
///
/// # Errors
/// When it cannot be made durable: the agent keeps the result and sends it again.
pub async fn accept_result(
    app: &App,
    agent: &AgentId,
    result: v1::Result,
) -> Result<v1::ResultAck, StoreError> {
    let name = result.attempt.clone();
    let ack = |acceptance: v1::Acceptance, detail: String| v1::ResultAck {
        attempt: name.clone(),
        acceptance: acceptance.into(),
        detail,
        passed: false,
    };
    let key = match AttemptKey::try_from(result.attempt.clone()) {
        Ok(key) => key,
        Err(e) => return Ok(ack(v1::Acceptance::Invalid, e.to_string())),
    };
    let Some(row) = app.db.stage(&key.stage).await? else {
        return Ok(ack(
            v1::Acceptance::StaleAttempt,
            "no such stage".to_owned(),
        ));
    };
    let planned: PlannedStage = match serde_json::from_str(&row.spec) {
        Ok(planned) => planned,
        Err(e) => return Err(StoreError::Corrupt(format!("spec: {e}"))),
    };
    let checked = match check(app, agent, &key, &row, &planned, &result) {
        Ok(checked) => checked,
        Err(e) => return Ok(ack(v1::Acceptance::Invalid, e.to_string())),
    };
    if let Checked::Lost(reason) = checked {
        let current = |record: Record<'_>| record.is_current(key.attempt, agent.as_str());
        if !record(&row).is_some_and(current) {
            return Ok(ack(v1::Acceptance::StaleAttempt, String::new()));
        }
        lose(app, &key.stage, row.attempt, &reason).await?;
        return Ok(ack(v1::Acceptance::Accepted, reason));
    }
    let Checked::Ended(ended) = checked else {
        return Ok(ack(v1::Acceptance::Invalid, String::new()));
    };
    // What the rule refuses is answered without a write; what it allows, the statement judges again.
    let passed = ended.state == StageState::Succeeded;
    let taken = |acceptance: v1::Acceptance| v1::ResultAck {
        passed: passed && counts(acceptance),
        ..ack(acceptance, String::new())
    };
    let refused = record(&row).map(|record| {
        record.judge(&fence::Report {
            attempt: key.attempt,
            agent: agent.as_str(),
            state: ended.state,
            digest: &ended.digest,
        })
    });
    match refused {
        Some(Judgement::AlreadyAccepted) => {
            return Ok(taken(v1::Acceptance::AlreadyAccepted));
        }
        Some(Judgement::Stale) => return Ok(taken(v1::Acceptance::StaleAttempt)),
        Some(Judgement::Accepted(_)) | None => {}
    }
    // Before anybody who needs it can be given out.
    app.tracker.made(agent, &result);
    let failed = ended.state == StageState::Failed;
    let finished = app.db.finish_attempt(*ended).await?;
    if let Some(change) = &finished.change {
        if failed {
            fail_fast(app, &row, &planned).await?;
        }
        app.build_changed(change).await;
    }
    Ok(taken(said(finished.acceptance)))
}

/// Whether it is this report that the stage's outcome is made of.
fn counts(acceptance: v1::Acceptance) -> bool {
    use v1::Acceptance::{Accepted, AlreadyAccepted};
    matches!(acceptance, Accepted | AlreadyAccepted)
}

fn said(acceptance: Acceptance) -> v1::Acceptance {
    match acceptance {
        Acceptance::Accepted(StageState::Cancelled | StageState::Superseded) => {
            v1::Acceptance::Cancelled
        }
        Acceptance::Accepted(_) => v1::Acceptance::Accepted,
        Acceptance::AlreadyAccepted => v1::Acceptance::AlreadyAccepted,
        Acceptance::Stale => v1::Acceptance::StaleAttempt,
    }
}

async fn lose(app: &App, stage: &StageId, attempt: i64, reason: &str) -> Result<(), StoreError> {
    let lost = super::lose_attempt::lose_attempt(app, stage, attempt, reason).await?;
    if let Some(change) = &lost.change {
        app.build_changed(change).await;
    }
    if let Some(agent) = lost.quarantined {
        app.agent_state(agent, AgentState::Quarantined).await;
    }
    Ok(())
}

/// What the rule of acceptance looks at; `None` when the row cannot be read.
pub fn record(row: &StageRow) -> Option<Record<'_>> {
    let result = row.result_attempt.zip(row.result_digest.as_deref());
    Some(Record {
        state: row.state.parse().ok()?,
        attempt: u32::try_from(row.attempt).ok()?,
        agent: row.agent_id.as_deref(),
        cancelled: row.cancel_ms.is_some(),
        result: result.and_then(|(attempt, digest)| Some((u32::try_from(attempt).ok()?, digest))),
    })
}

enum Checked {
    Lost(String),
    Ended(Box<AttemptResult>),
}

fn check(
    app: &App,
    agent: &AgentId,
    key: &AttemptKey,
    row: &StageRow,
    planned: &PlannedStage,
    result: &v1::Result,
) -> Result<Checked, WireError> {
    let ending = convert::ending(result.ending)?;
    if result.artifacts.len() + result.tests.len() + result.coverage.len() > ITEMS_MAX {
        return Err(WireError::Unknown("artifacts"));
    }
    let reports = reports(result)?;
    let mut detail: String = result.detail.chars().take(2_000).collect();
    let (state, reason) = match derive_outcome(ending, result.exit_code, &result.reason) {
        Outcome::Lost(reason) => return Ok(Checked::Lost(reason)),
        Outcome::Cancelled => (StageState::Cancelled, Some("cancelled".to_owned())),
        Outcome::Failed(reason) => (StageState::Failed, Some(reason)),
        Outcome::Succeeded => match coverage_problem(planned, result) {
            Some(problem) => {
                detail = problem;
                (StageState::Failed, Some("coverage".to_owned()))
            }
            None => (StageState::Succeeded, None),
        },
    };
    let try_again = state == StageState::Failed && may_try_again(planned, row, ending, result);
    let image = result
        .image
        .as_ref()
        .map(|image| format!("{}@{}", image.repository, image.digest));
    Ok(Checked::Ended(Box::new(AttemptResult {
        stage_id: key.stage.clone(),
        attempt: i64::from(key.attempt),
        agent_id: agent.clone(),
        digest: digest(result),
        state,
        try_again,
        reason,
        detail,
        exit_code: result.exit_code,
        output_layer: result.output_layer.clone(),
        source_root: result.source_root.clone(),
        image_uri: image,
        artifacts: artifacts(app, &key.stage, result)?,
        reports,
        spent_ms: [result.prepare_ms, result.execute_ms, result.collect_ms]
            .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
        // What one agent says of itself must not make a sum over a build overflow.
        cache_bytes: [result.moved_bytes, result.reused_bytes]
            .map(|bytes| i64::try_from(bytes.min(CACHE_BYTES_MAX)).unwrap_or(0)),
        now: app.clock.now(),
    })))
}

/// The user's own repetitions, `retry:`.
fn may_try_again(
    planned: &PlannedStage,
    row: &StageRow,
    ending: Ending,
    result: &v1::Result,
) -> bool {
    let retry = &planned.retry;
    let left = row.failures < i64::from(retry.max);
    let kind = match ending {
        Ending::TimedOut => retry.on_timeout,
        Ending::Exited => {
            retry.on_failure
                && (retry.exit_codes.is_empty() || retry.exit_codes.contains(&result.exit_code))
        }
        _ => false,
    };
    left && kind && !planned.at_most_once
}

fn coverage_problem(planned: &PlannedStage, result: &v1::Result) -> Option<String> {
    planned.spec.coverage.iter().find_map(|promised| {
        let min = promised.min?;
        let report = result.coverage.iter().find(|r| r.path == promised.path)?;
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        let percent = report.lines_covered as f64 * 100.0 / report.lines_valid.max(1) as f64;
        (report.lines_valid > 0 && percent < min).then(|| {
            format!(
                "`{}`: {percent:.1} % of the lines are covered, less than {min} %",
                report.path
            )
        })
    })
}

/// What makes two reports of one attempt the same.
fn digest(result: &v1::Result) -> String {
    let facts = serde_json::json!([
        result.ending,
        result.exit_code,
        result.reason,
        result.output_layer,
        result.log_digest,
        result.image.as_ref().map(|i| &i.digest),
        result
            .artifacts
            .iter()
            .map(|a| &a.sha256)
            .collect::<Vec<_>>(),
    ]);
    slipway_core::digest::Digest::of(facts.to_string().as_bytes()).to_string()
}

fn artifacts(
    app: &App,
    stage: &StageId,
    result: &v1::Result,
) -> Result<Vec<NewArtifact>, WireError> {
    let attempt = result.attempt.as_ref().map_or(0, |a| a.attempt);
    // Only what this attempt itself uploaded can be named.
    let own = format!("artifacts/{stage}/{attempt}/");
    result
        .artifacts
        .iter()
        .map(|a| {
            let hex = a.sha256.len() == 64
                && a.sha256
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !hex || !a.object_key.starts_with(&own) || a.name.len() > 4_096 {
                return Err(WireError::Unknown("artifacts"));
            }
            Ok(NewArtifact {
                artifact_id: app.rng.id(app.clock.now()),
                name: a.name.clone(),
                artifact_type: a.artifact_type.chars().take(40).collect(),
                uri: a.object_key.clone(),
                file_size: i64::try_from(a.size).unwrap_or(i64::MAX),
                checksum: a.sha256.clone(),
            })
        })
        .collect()
}

fn reports(result: &v1::Result) -> Result<Vec<NewReport>, WireError> {
    let mut reports = Vec::new();
    let millis = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    for r in &result.tests {
        let failures: Vec<_> = r
            .failures
            .iter()
            .take(FAILURES_MAX)
            .map(|f| serde_json::json!({"suite": f.suite, "name": f.name, "message": f.message}))
            .collect();
        let counts = [r.total, r.passed, r.failed, r.skipped, r.flaky].map(i64::from);
        reports.push(NewReport {
            path: r.path.clone(),
            kind: "junit".into(),
            state: convert::report_state(r.state)?.into(),
            counts,
            duration_ms: millis(r.duration_ms),
            lines: [0, 0],
            failures: serde_json::json!(failures).to_string(),
            problem: r.problem.clone(),
        });
    }
    for r in &result.coverage {
        reports.push(NewReport {
            path: r.path.clone(),
            kind: "coverage".into(),
            state: convert::report_state(r.state)?.into(),
            counts: [0; 5],
            duration_ms: 0,
            lines: [millis(r.lines_covered), millis(r.lines_valid)],
            failures: "[]".to_owned(),
            problem: r.problem.clone(),
        });
    }
    Ok(reports)
}

/// One failed combination of a matrix ends the others, where the file says so.
async fn fail_fast(app: &App, row: &StageRow, planned: &PlannedStage) -> Result<(), StoreError> {
    let (Some(of), true) = (&planned.matrix_of, planned.fail_fast) else {
        return Ok(());
    };
    let Ok(build) = row.build_id.parse() else {
        return Ok(());
    };
    let siblings: BTreeMap<String, StageId> = app
        .db
        .stages(&build)
        .await?
        .into_iter()
        .filter(|s| s.stage_id != row.stage_id)
        .filter(|s| {
            let other: Option<PlannedStage> = serde_json::from_str(&s.spec).ok();
            other.is_some_and(|other| other.matrix_of.as_ref() == Some(of))
        })
        .filter_map(|s| Some((s.stage_name, s.stage_id.parse().ok()?)))
        .collect();
    let now = app.clock.now();
    let ids: Vec<StageId> = siblings.into_values().collect();
    let (held, change) = app
        .db
        .cancel_stages(&build, ids, "another combination failed", now)
        .await?;
    for (stage, attempt, agent) in held {
        app.link.cancel(agent.as_deref(), &stage, attempt);
    }
    app.build_changed(&change).await;
    Ok(())
}
