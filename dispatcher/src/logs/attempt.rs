//! One attempt's log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slipway_core::id::{BuildId, StageId};
use slipway_core::time::Timestamp;
use slipway_daemon::Clock;
use slipway_objects::{Key, ObjectError, ObjectStore};
use tokio::sync::{Mutex, watch};

/// A chunk is sealed at this size …
const SEAL_BYTES: usize = 4 * 1024 * 1024;
/// … or when its first byte has waited so long.
const SEAL_AGE: Duration = Duration::from_secs(30);
/// Largest log of one attempt.
pub const LOG_MAX: u64 = 256 * 1024 * 1024;
/// Compression level of stored chunks: text shrinks well at any level; this one costs little.
const LEVEL: i32 = 3;

/// A run of output.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Where it begins.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
    /// The last one: the digest of the whole.
    pub close: Option<String>,
}

/// The answer to a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Bytes received.
    pub received: u64,
    /// Bytes that are durable.
    pub durable: u64,
    /// Send again from here.
    pub rewind: Option<u64>,
    /// Refused for good.
    pub refused: Option<&'static str>,
    /// Whether the log is complete and durable.
    pub complete: bool,
}

/// How far a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that can be read.
    pub length: u64,
    /// Whether nothing more comes.
    pub ended: bool,
}

/// One sealed chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) length: u64,
}

pub(super) struct State {
    pub(super) chunks: Vec<Chunk>,
    /// Bytes after the last chunk.
    pub(super) tail: Vec<u8>,
    /// When output arrived: (offset behind it, when), for the tail.
    pub(super) marks: Vec<(u64, i64)>,
    tail_since: Option<Timestamp>,
    hasher: blake3::Hasher,
    lines: u64,
    closed: bool,
}

impl State {
    pub(super) fn sealed(&self) -> u64 {
        self.chunks.last().map_or(0, |c| c.start + c.length)
    }

    fn received(&self) -> u64 {
        self.sealed() + self.tail.len() as u64
    }
}

/// One attempt's log: what is sealed, and the tail in memory.
pub struct AttemptLog {
    pub(super) objects: Arc<dyn ObjectStore>,
    clock: Clock,
    pub(super) folder: String,
    pub(super) state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

impl AttemptLog {
    /// Finds out what object storage has.
    ///
    /// # Errors
    /// When object storage is not available.
    pub(super) async fn load(
        objects: Arc<dyn ObjectStore>,
        clock: Clock,
        build: &BuildId,
        stage: &StageId,
        attempt: u32,
    ) -> Result<Self, ObjectError> {
        let folder = format!("logs/{build}/{stage}/{attempt}");
        let listed = objects.list(&key(&folder)?).await?;
        let mut chunks: Vec<Chunk> = listed.iter().filter_map(|l| chunk_of(&l.key)).collect();
        chunks.sort_by_key(|c| c.start);
        // Only what follows without a gap counts.
        let mut end = 0;
        chunks.retain(|c| {
            let follows = c.start == end;
            if follows {
                end += c.length;
            }
            follows
        });
        let closed = listed.iter().any(|l| l.key.ends_with("/end"));
        let log = Self {
            objects,
            clock,
            folder,
            state: Mutex::new(State {
                chunks,
                tail: Vec::new(),
                marks: Vec::new(),
                tail_since: None,
                hasher: blake3::Hasher::new(),
                lines: 0,
                closed,
            }),
            progress: watch::Sender::new(Progress {
                length: end,
                ended: closed,
            }),
        };
        if !closed && end > 0 {
            log.rehash().await?;
        }
        Ok(log)
    }

    async fn rehash(&self) -> Result<(), ObjectError> {
        let mut state = self.state.lock().await;
        let mut hasher = blake3::Hasher::new();
        let mut lines = 0;
        for chunk in state.chunks.clone() {
            let bytes = self.chunk(chunk).await?;
            lines += count_lines(&bytes);
            hasher.update(&bytes);
        }
        state.hasher = hasher;
        state.lines = lines;
        Ok(())
    }

    /// Watches how far the log is.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How far the log is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Takes a frame in.
    ///
    /// # Errors
    /// When object storage is not available; the agent sends again.
    pub async fn append(&self, frame: Frame) -> Result<Ack, ObjectError> {
        let mut state = self.state.lock().await;
        let received = state.received();
        if state.closed {
            let durable = state.sealed();
            return Ok(Ack {
                received,
                durable,
                complete: true,
                ..Ack::default()
            });
        }
        if frame.offset > received {
            return Ok(self.rewind(&state, received));
        }
        // What is there already is cut off.
        let known = usize::try_from(received - frame.offset).unwrap_or(usize::MAX);
        let fresh = frame.bytes.get(known..).unwrap_or_default();
        if received + fresh.len() as u64 > LOG_MAX {
            return Ok(Ack {
                received,
                durable: state.sealed(),
                refused: Some("log_limit"),
                ..Ack::default()
            });
        }
        if !fresh.is_empty() {
            state.hasher.update(fresh);
            state.lines += count_lines(fresh);
            state.tail.extend_from_slice(fresh);
            let now = self.clock.now();
            let end = state.received();
            state.marks.push((end, now.as_millis()));
            state.tail_since.get_or_insert(now);
        }
        if let Some(digest) = frame.close {
            if state.hasher.finalize().to_hex().as_str() != digest {
                tracing::warn!(log = self.folder, "the whole log does not match its digest");
                return self.start_over(&mut state).await;
            }
            self.seal(&mut state).await?;
            self.close(&mut state, false).await?;
        } else if state.tail.len() >= SEAL_BYTES {
            self.seal(&mut state).await?;
        }
        self.announce(&state);
        Ok(Ack {
            received: state.received(),
            durable: state.sealed(),
            complete: state.closed,
            ..Ack::default()
        })
    }

    fn rewind(&self, state: &State, to: u64) -> Ack {
        Ack {
            received: to,
            durable: state.sealed(),
            rewind: Some(to),
            ..Ack::default()
        }
    }

    /// Everything is thrown away and asked for again: the sender still has it, because nothing of a
    /// log is cut before the whole was acknowledged.
    async fn start_over(&self, state: &mut State) -> Result<Ack, ObjectError> {
        for chunk in std::mem::take(&mut state.chunks) {
            self.objects.remove(&self.chunk_key(chunk, "zst")?).await?;
            self.objects
                .remove(&self.chunk_key(chunk, "marks")?)
                .await?;
        }
        state.tail.clear();
        state.marks.clear();
        state.hasher = blake3::Hasher::new();
        state.lines = 0;
        self.announce(state);
        Ok(self.rewind(state, 0))
    }

    fn announce(&self, state: &State) {
        self.progress.send_replace(Progress {
            length: state.received(),
            ended: state.closed,
        });
    }

    pub(super) fn chunk_key(&self, chunk: Chunk, kind: &str) -> Result<Key, ObjectError> {
        key(&format!(
            "{}/{:020}-{}.{kind}",
            self.folder, chunk.start, chunk.length
        ))
    }

    async fn seal(&self, state: &mut State) -> Result<(), ObjectError> {
        if state.tail.is_empty() {
            return Ok(());
        }
        let chunk = Chunk {
            start: state.sealed(),
            length: state.tail.len() as u64,
        };
        let packed = zstd::bulk::compress(&state.tail, LEVEL)
            .map_err(|e| ObjectError::Unavailable(e.to_string()))?;
        let marks = serde_json::json!(state.marks).to_string();
        let marks_key = self.chunk_key(chunk, "marks")?;
        self.objects.put(&marks_key, marks.into()).await?;
        let chunk_key = self.chunk_key(chunk, "zst")?;
        self.objects.put(&chunk_key, packed.into()).await?;
        state.chunks.push(chunk);
        state.tail.clear();
        state.marks.clear();
        state.tail_since = None;
        Ok(())
    }

    async fn close(&self, state: &mut State, lost: bool) -> Result<(), ObjectError> {
        let facts = serde_json::json!({
            "length": state.sealed(), "lines": state.lines, "incomplete": lost,
            "digest": state.hasher.finalize().to_hex().as_str(),
        });
        let end = key(&format!("{}/end", self.folder))?;
        self.objects.put(&end, facts.to_string().into()).await?;
        state.closed = true;
        Ok(())
    }

    /// The attempt was lost: seals what is there, marked incomplete.
    pub(super) async fn abandon(&self) -> Result<(), ObjectError> {
        let mut state = self.state.lock().await;
        if !state.closed {
            self.seal(&mut state).await?;
            self.close(&mut state, true).await?;
            self.announce(&state);
        }
        Ok(())
    }

    /// Seals a tail that has waited long enough. Whether the log is closed.
    pub(super) async fn seal_if_due(&self) -> Result<bool, ObjectError> {
        let mut state = self.state.lock().await;
        let now = self.clock.now();
        if state.tail_since.is_some_and(|at| now.since(at) >= SEAL_AGE) {
            self.seal(&mut state).await?;
        }
        Ok(state.closed)
    }

    /// Facts for the store: length, lines, digest.
    pub async fn facts(&self) -> (u64, u64, String) {
        let state = self.state.lock().await;
        let digest = state.hasher.finalize().to_hex().to_string();
        (state.received(), state.lines, digest)
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|b| u64::from(*b == b'\n')).sum()
}

pub(super) fn key(text: &str) -> Result<Key, ObjectError> {
    Key::new(text).map_err(|e| ObjectError::Unavailable(e.to_string()))
}

fn chunk_of(key: &str) -> Option<Chunk> {
    let name = key.rsplit('/').next()?.strip_suffix(".zst")?;
    let (start, length) = name.split_once('-')?;
    Some(Chunk {
        start: start.parse().ok()?,
        length: length.parse().ok()?,
    })
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
