//! Logs of a build: the last lines, a raw download, or a live stream.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use slipway_core::id::{BuildId, StageId};
use slipway_store::StageRow;
use utoipa::{IntoParams, ToSchema};

use super::builds::build_id;
use super::time::shown;
use crate::api::problem::Problem;
use crate::logs::{AttemptLog, level_of};
use crate::state::App;

/// Most lines of one answer.
const LINES_MAX: usize = 10_000;

/// What to show.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Wanted {
    /// The last so many lines over all stages; 100, at most 10 000.
    lines: Option<usize>,
    /// Only this stage, by name.
    stage: Option<String>,
    /// debug | info | warn | error
    level: Option<String>,
    /// 1 = a live stream (server-sent events).
    follow: Option<u8>,
}

/// One line.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLine {
    timestamp: String,
    level: String,
    message: String,
    stage: String,
    stream: String,
    /// Offset of the line in its stage's log.
    line: u64,
}

/// Lines.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogLines {
    logs: Vec<LogLine>,
}

/// Shows the log of a build.
#[utoipa::path(get, path = "/builds/{build_id}/logs", tag = "builds", params(("build_id" = String, Path), Wanted),
    security(("token" = [])),
    responses((status = 200, body = LogLines), (status = 404, body = Problem)))]
pub async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = build_id(&id)?;
    let known = app.db.build(&id).await?;
    known.ok_or_else(|| Problem::not_found("build"))?;
    let mut stages = app.db.stages(&id).await?;
    if let Some(name) = &wanted.stage {
        stages.retain(|s| &s.stage_name == name);
        if stages.is_empty() {
            return Err(Problem::not_found("stage"));
        }
    }
    if wanted.follow == Some(1) {
        let from = headers
            .get("last-event-id")
            .and_then(|v| v.to_str().ok())
            .and_then(position);
        return Ok(follow(app, id, wanted.stage, from).into_response());
    }
    let plain = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.starts_with("text/plain"));
    if plain {
        return raw(&app, &id, stages).await;
    }
    let count = wanted.lines.unwrap_or(100);
    if count == 0 || count > LINES_MAX {
        return Err(Problem::invalid(
            "/lines",
            "out_of_range",
            "`lines` is 1 to 10 000",
        ));
    }
    let mut logs = Vec::new();
    for stage in stages {
        let Some((log, banner)) = open(&app, &id, &stage).await? else {
            continue;
        };
        logs.extend(banner.map(|text| origin_line(&stage, text)));
        let lines = log.last_lines(count).await.map_err(unreadable)?;
        // What is replayed stands where the stage was recalled, not where it was executed.
        let replayed = stage.recalled.as_ref().and(stage.started_at);
        logs.extend(lines.into_iter().map(|line| {
            (
                replayed.unwrap_or(line.at_ms),
                LogLine {
                    timestamp: shown(line.at_ms),
                    level: level_of(&line.text).to_owned(),
                    message: line.text,
                    stage: stage.stage_name.clone(),
                    stream: "output".to_owned(),
                    line: line.offset,
                },
            )
        }));
    }
    // Stages may have executed at once: their lines are laid together by arrival.
    logs.sort_by_key(|(at, _)| *at);
    if let Some(level) = &wanted.level {
        logs.retain(|(_, line)| &line.level == level);
    }
    let skip = logs.len().saturating_sub(count);
    let logs = logs.into_iter().skip(skip).map(|(_, line)| line).collect();
    Ok(axum::Json(LogLines { logs }).into_response())
}

/// Says where a recalled stage's output comes from, before it.
fn origin_line(stage: &StageRow, message: String) -> (i64, LogLine) {
    let at = stage.started_at.unwrap_or(0);
    let line = LogLine {
        timestamp: shown(at),
        level: "info".to_owned(),
        message,
        stage: stage.stage_name.clone(),
        stream: "slipway".to_owned(),
        line: 0,
    };
    (at, line)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err's shape")]
fn unreadable(error: slipway_objects::ObjectError) -> Problem {
    tracing::warn!(%error, "a log cannot be read");
    Problem::unavailable("the log cannot be read now; try again")
}

async fn open(
    app: &App,
    build: &BuildId,
    stage: &StageRow,
) -> Result<Option<(Arc<AttemptLog>, Option<String>)>, Problem> {
    if let Some(origin) = Origin::of(stage) {
        let log = app
            .logs
            .of(&origin.build_id, &origin.stage_id, origin.attempt);
        let log = log.await.map_err(unreadable)?;
        return Ok(Some((log, Some(origin.banner()))));
    }
    let Ok(id) = stage.stage_id.parse::<StageId>() else {
        return Ok(None);
    };
    match u32::try_from(stage.attempt) {
        Ok(attempt) if attempt > 0 => {
            let log = app.logs.of(build, &id, attempt).await;
            log.map(|log| Some((log, None))).map_err(unreadable)
        }
        _ => Ok(None),
    }
}

/// The attempt that a recalled stage's output is replayed from.
#[derive(Deserialize)]
struct Origin {
    build_id: BuildId,
    stage_id: StageId,
    attempt: u32,
    agent_id: String,
}

impl Origin {
    fn of(stage: &StageRow) -> Option<Self> {
        serde_json::from_str(stage.recalled.as_ref()?).ok()
    }

    fn banner(&self) -> String {
        format!(
            "[slipway] recalled, not executed: this is the output of build {}, attempt {} by agent {}",
            self.build_id, self.attempt, self.agent_id
        )
    }
}

async fn raw(app: &App, build: &BuildId, stages: Vec<StageRow>) -> Result<Response, Problem> {
    let mut logs = Vec::new();
    for stage in stages {
        logs.extend(open(app, build, &stage).await?);
    }
    let bytes = futures::stream::iter(logs).flat_map(|(log, banner)| {
        let banner = banner.map(|text| Ok::<_, Infallible>(format!("{text}\n").into_bytes()));
        let log = futures::stream::unfold((log, 0_u64), |(log, at)| async move {
            match log.read(at).await {
                Ok(bytes) if bytes.is_empty() => None,
                Ok(bytes) => {
                    let next = at + bytes.len() as u64;
                    Some((Ok::<_, Infallible>(bytes), (log, next)))
                }
                Err(_) => None,
            }
        });
        futures::stream::iter(banner).chain(log)
    });
    // An attachment: text from a stage is never shown as a page of ours.
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"build.log\"",
        ),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

/// `stage index:attempt:offset` of the last event that a reader saw.
fn position(text: &str) -> Option<(i64, i64, u64)> {
    let mut parts = text.splitn(3, ':');
    let idx = parts.next()?.parse().ok()?;
    let attempt = parts.next()?.parse().ok()?;
    Some((idx, attempt, parts.next()?.parse().ok()?))
}

struct Follower {
    app: Arc<App>,
    build: BuildId,
    stage: Option<String>,
    /// Stages that were shown to their end.
    done: Vec<(i64, i64)>,
    at: Option<(i64, i64, u64)>,
    /// Recalled stages whose origin was told.
    announced: Vec<i64>,
    /// Whether a place that a reader came back with was looked at.
    resumed: bool,
    queue: std::collections::VecDeque<Event>,
    ended: bool,
}

/// Every stage's output, one stage after the other in file order among those that have begun; ends
/// with the build.
fn follow(
    app: Arc<App>,
    build: BuildId,
    stage: Option<String>,
    from: Option<(i64, i64, u64)>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let follower = Follower {
        app,
        build,
        stage,
        done: Vec::new(),
        at: from,
        announced: Vec::new(),
        resumed: from.is_none(),
        queue: std::collections::VecDeque::new(),
        ended: false,
    };
    let events = futures::stream::unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.queue.pop_front() {
                return Some((Ok(event), follower));
            }
            if follower.ended || follower.advance().await.is_err() {
                return None;
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

impl Follower {
    /// A reader that comes back has seen the stages before the one it names, to their end.
    fn skip_what_was_seen(&mut self, stages: &[StageRow]) {
        let Some((idx, attempt, _)) = self.at.filter(|_| !self.resumed) else {
            return;
        };
        self.resumed = true;
        let named = stages.iter().find(|s| (s.idx, s.attempt) == (idx, attempt));
        if let Some(named) = named {
            let before = stages.iter().filter(|s| order(s) < order(named));
            self.done.extend(before.map(|s| (s.idx, s.attempt)));
        }
    }

    /// Says once where a recalled stage's output comes from.
    fn announce(&mut self, stage: &StageRow, banner: Option<String>) {
        let Some(banner) = banner.filter(|_| !self.announced.contains(&stage.idx)) else {
            return;
        };
        self.announced.push(stage.idx);
        let text = format!("{banner}\n");
        let data = serde_json::json!({"stage": stage.stage_name, "offset": 0, "text": text});
        let event = Event::default().event("output").data(data.to_string());
        self.queue.push_back(event);
    }

    /// Reads on; queues at least one event, or marks the end, or waits.
    async fn advance(&mut self) -> Result<(), Problem> {
        let changes = &mut self.app.changes.subscribe();
        let build = self.app.db.build(&self.build).await?;
        let over = build.is_none_or(|b| !matches!(b.status.as_str(), "queued" | "building"));
        let mut stages = self.app.db.stages(&self.build).await?;
        if let Some(name) = &self.stage {
            stages.retain(|s| &s.stage_name == name);
        }
        stages.retain(|s| s.attempt > 0 || s.recalled.is_some());
        self.skip_what_was_seen(&stages);
        let next = stages
            .into_iter()
            .filter(|s| !self.done.contains(&(s.idx, s.attempt)))
            .min_by_key(order);
        let Some(stage) = next else {
            if over {
                self.queue
                    .push_back(Event::default().event("end").data("{}"));
                self.ended = true;
            } else {
                wait(changes).await;
            }
            return Ok(());
        };
        let place = (stage.idx, stage.attempt);
        let offset = match self.at {
            Some((idx, attempt, offset)) if (idx, attempt) == place => offset,
            _ => 0,
        };
        let Some((log, banner)) = open(&self.app, &self.build, &stage).await? else {
            wait(changes).await;
            return Ok(());
        };
        if offset == 0 {
            self.announce(&stage, banner);
        }
        let mut watch = log.watch();
        let progress = *watch.borrow_and_update();
        let bytes = log.read(offset).await.map_err(unreadable)?;
        if bytes.is_empty() {
            let final_state = !matches!(stage.status.as_str(), "queued" | "running");
            if progress.ended || final_state {
                self.done.push(place);
                let data = serde_json::json!({"stage": stage.stage_name, "status": stage.status});
                self.queue
                    .push_back(Event::default().event("stage").data(data.to_string()));
            } else {
                let grown =
                    tokio::time::timeout(std::time::Duration::from_secs(1), watch.changed());
                let _slow_tick_looks_again = grown.await;
            }
            return Ok(());
        }
        let end = offset + bytes.len() as u64;
        self.at = Some((stage.idx, stage.attempt, end));
        let data = serde_json::json!({
            "stage": stage.stage_name, "offset": offset,
            "text": String::from_utf8_lossy(&bytes),
        });
        let id = format!("{}:{}:{end}", stage.idx, stage.attempt);
        self.queue.push_back(
            Event::default()
                .event("output")
                .id(id)
                .data(data.to_string()),
        );
        Ok(())
    }
}

/// Stages are shown one after the other, in this order.
fn order(stage: &StageRow) -> (i64, i64) {
    (stage.started_at.unwrap_or(i64::MAX), stage.idx)
}

async fn wait(changes: &mut tokio::sync::broadcast::Receiver<BuildId>) {
    let change = tokio::time::timeout(std::time::Duration::from_secs(1), changes.recv());
    let _slow_tick_looks_again = change.await;
}
