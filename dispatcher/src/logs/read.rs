//! Reading logs: by offset for followers and downloads, by line for the API.

use slipway_objects::ObjectError;

use super::attempt::{AttemptLog, Chunk};

/// Bytes handed to a reader at once.
pub const READ_MAX: usize = 256 * 1024;
/// How much of the end of a log is looked at for its last lines.
const LAST_MAX: u64 = 16 * 1024 * 1024;

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it begins.
    pub offset: u64,
    /// When it arrived, epoch milliseconds.
    pub at_ms: i64,
    /// Its text, without the line's end; broken UTF-8 is shown as such.
    pub text: String,
}

/// The level that a line claims by the markers that users' tools already print.
#[must_use]
pub fn level_of(line: &str) -> &'static str {
    let line = line.trim_start();
    if line.starts_with("::error") {
        "error"
    } else if line.starts_with("::warning") {
        "warn"
    } else if line.starts_with("::debug") {
        "debug"
    } else {
        "info"
    }
}

impl AttemptLog {
    pub(super) async fn chunk(&self, chunk: Chunk) -> Result<Vec<u8>, ObjectError> {
        let damaged = || ObjectError::Unavailable("a log chunk is damaged".to_owned());
        let packed = self
            .objects
            .get(&self.chunk_key(chunk, "zst")?)
            .await?
            .ok_or_else(damaged)?;
        let length = usize::try_from(chunk.length).map_err(|_| damaged())?;
        zstd::bulk::decompress(&packed, length).map_err(|_| damaged())
    }

    async fn marks(&self, chunk: Chunk) -> Vec<(u64, i64)> {
        let Ok(key) = self.chunk_key(chunk, "marks") else {
            return Vec::new();
        };
        match self.objects.get(&key).await {
            Ok(Some(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Bytes from an offset, at most [`READ_MAX`]; empty at the end.
    ///
    /// # Errors
    /// When object storage is not available.
    pub async fn read(&self, offset: u64) -> Result<Vec<u8>, ObjectError> {
        let found = {
            let state = self.state.lock().await;
            let sealed = state.sealed();
            if offset >= sealed {
                let from = usize::try_from(offset - sealed).unwrap_or(usize::MAX);
                let rest = state.tail.get(from..).unwrap_or_default();
                return Ok(rest[..rest.len().min(READ_MAX)].to_vec());
            }
            state
                .chunks
                .iter()
                .find(|c| offset < c.start + c.length)
                .copied()
        };
        let Some(chunk) = found else {
            return Ok(Vec::new());
        };
        let bytes = self.chunk(chunk).await?;
        let from = usize::try_from(offset - chunk.start).unwrap_or(usize::MAX);
        let rest = bytes.get(from..).unwrap_or_default();
        Ok(rest[..rest.len().min(READ_MAX)].to_vec())
    }

    /// The last lines.
    ///
    /// # Errors
    /// When object storage is not available.
    pub async fn last_lines(&self, count: usize) -> Result<Vec<Line>, ObjectError> {
        let (chunks, tail, mut marks, sealed) = {
            let state = self.state.lock().await;
            (
                state.chunks.clone(),
                state.tail.clone(),
                state.marks.clone(),
                state.sealed(),
            )
        };
        let mut bytes = tail;
        let mut start = sealed;
        for chunk in chunks.iter().rev() {
            let enough = bytes.iter().filter(|b| **b == b'\n').count() > count;
            if enough || bytes.len() as u64 > LAST_MAX {
                break;
            }
            let mut earlier = self.chunk(*chunk).await?;
            earlier.extend_from_slice(&bytes);
            bytes = earlier;
            start = chunk.start;
            let mut known = self.marks(*chunk).await;
            known.append(&mut marks);
            marks = known;
        }
        let mut lines = split(&bytes, start, &marks);
        // The first piece may be the end of a line that began earlier.
        if start > 0 && lines.len() > count {
            lines.remove(0);
        }
        let skip = lines.len().saturating_sub(count);
        Ok(lines.split_off(skip))
    }
}

fn split(bytes: &[u8], start: u64, marks: &[(u64, i64)]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut at = start;
    for piece in bytes.split_inclusive(|b| *b == b'\n') {
        let end = at + piece.len() as u64;
        let mark = marks.partition_point(|(behind, _)| *behind < end);
        let text = piece.strip_suffix(b"\n").unwrap_or(piece);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        lines.push(Line {
            offset: at,
            at_ms: marks.get(mark).or(marks.last()).map_or(0, |(_, ms)| *ms),
            text: String::from_utf8_lossy(text).into_owned(),
        });
        at = end;
    }
    lines
}
