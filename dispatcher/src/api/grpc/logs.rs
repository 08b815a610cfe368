//! Output coming in, on a connection of its own.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use slipway_core::id::{AgentId, BuildId};
use slipway_proto::LOG_FRAME_MAX;
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1::{self, logs_server::Logs};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::leader;
use crate::api::auth;
use crate::logs::{Ack, AttemptLog, Frame};
use crate::state::App;

/// Acknowledgements that wait to be sent; the reader of frames waits when it is full.
const ACKS: usize = 64;
/// How often an agent flushes.
const FLUSH_MS: u32 = 200;

/// The service.
pub struct LogsService {
    app: Arc<App>,
}

impl LogsService {
    /// Over the shared parts.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }
}

type Acks = Pin<Box<dyn Stream<Item = Result<v1::LogAck, Status>> + Send>>;

#[tonic::async_trait]
impl Logs for LogsService {
    type AppendStream = Acks;

    async fn append(
        &self,
        request: Request<Streaming<v1::LogFrame>>,
    ) -> Result<Response<Acks>, Status> {
        let agent = auth::agent(&self.app, &request).await?;
        leader::is_here(&self.app).await?;
        let mut frames = request.into_inner();
        let (sender, receiver) = mpsc::channel(ACKS);
        let app = Arc::clone(&self.app);
        slipway_daemon::spawn("log stream", async move {
            let mut open = BTreeMap::new();
            while let Some(Ok(frame)) = frames.next().await {
                let answer = take(&app, &agent.id, &mut open, frame).await;
                let broken = answer.is_err();
                if sender.send(answer).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Open = BTreeMap<AttemptKey, Arc<AttemptLog>>;

async fn take(
    app: &App,
    agent: &AgentId,
    open: &mut Open,
    frame: v1::LogFrame,
) -> Result<v1::LogAck, Status> {
    let key = AttemptKey::try_from(frame.attempt.clone())
        .map_err(|e| Status::invalid_argument(e.to_string()))?;
    let wire = frame.attempt.clone();
    let answer = |ack: Ack| v1::LogAck {
        attempt: wire.clone(),
        received: ack.received,
        durable: ack.durable,
        rewind: ack.rewind,
        flush_ms: FLUSH_MS,
        refused: ack.refused.unwrap_or_default().to_owned(),
    };
    let log = match open.get(&key) {
        Some(log) => Arc::clone(log),
        None => match writable(app, agent, &key).await? {
            Some(log) => {
                open.insert(key.clone(), Arc::clone(&log));
                log
            }
            None => {
                return Ok(answer(Ack {
                    refused: Some("stale_attempt"),
                    ..Ack::default()
                }));
            }
        },
    };
    let bytes = decode(&frame)?;
    let Some(bytes) = bytes else {
        // Damaged on the way: asked for again.
        return Ok(answer(Ack {
            rewind: Some(frame.offset),
            ..Ack::default()
        }));
    };
    let close = frame.close.then(|| frame.digest.clone());
    let offset = frame.offset;
    let ack = log
        .append(Frame {
            offset,
            bytes,
            close,
        })
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    if ack.complete {
        open.remove(&key);
        record(app, &key, &log).await?;
    }
    Ok(answer(ack))
}

/// The log, if this agent may write it now: the present attempt, or one whose result is still on its
/// way.
async fn writable(
    app: &App,
    agent: &AgentId,
    key: &AttemptKey,
) -> Result<Option<Arc<AttemptLog>>, Status> {
    let row = app
        .db
        .stage(&key.stage)
        .await
        .map_err(|e| auth::unavailable(&e))?;
    let Some(row) = row else { return Ok(None) };
    let own =
        row.attempt == i64::from(key.attempt) && row.agent_id.as_deref() == Some(agent.as_str());
    let Ok(build) = row.build_id.parse::<BuildId>() else {
        return Ok(None);
    };
    if !own {
        return Ok(None);
    }
    app.logs
        .writable(&build, &key.stage, key.attempt)
        .await
        .map(Some)
        .map_err(|e| Status::unavailable(e.to_string()))
}

/// The raw bytes of a frame; `None` when they are damaged.
fn decode(frame: &v1::LogFrame) -> Result<Option<Bytes>, Status> {
    let length = usize::try_from(frame.raw_len).unwrap_or(usize::MAX);
    if length > LOG_FRAME_MAX || frame.data.len() > LOG_FRAME_MAX {
        return Err(Status::resource_exhausted("a log frame is at most 256 KiB"));
    }
    let raw = match frame.codec() {
        v1::Codec::None => frame.data.clone(),
        v1::Codec::Zstd => match zstd::bulk::decompress(&frame.data, length) {
            Ok(raw) => raw,
            Err(_) => return Ok(None),
        },
        v1::Codec::Unspecified if frame.data.is_empty() => Vec::new(),
        v1::Codec::Unspecified => {
            return Err(Status::invalid_argument(
                "field `codec` holds an unknown value",
            ));
        }
    };
    let good = raw.len() == length && crc32c::crc32c(&raw) == frame.crc32c;
    Ok(good.then(|| Bytes::from(raw)))
}

async fn record(app: &App, key: &AttemptKey, log: &AttemptLog) -> Result<(), Status> {
    let (length, lines, digest) = log.facts().await;
    let small = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    app.db
        .set_log(
            &key.stage,
            i64::from(key.attempt),
            small(length),
            small(lines),
            Some(digest),
            true,
        )
        .await
        .map_err(|e| auth::unavailable(&e))
}
