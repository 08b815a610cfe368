//! One line per request, as JSON, for people and for what collects logs.
//!
//! Never holds a request up: lines wait in a bounded queue, and what does not fit is left out and counted.
//! Whoever rotates the file renames it: the next lines go to a new one. Queries, headers and bodies are not
//! written, because that is where secrets are.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use slipway_daemon::Shutdown;
use tokio::sync::mpsc;

/// Lines that wait: a second of a busy router.
const QUEUE: usize = 16_384;
/// Lines written at once.
const BATCH: usize = 1_024;
/// Longest path that is written; the rest is cut.
const PATH_MAX: usize = 1_024;
/// Before a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// One request, when it is over.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// When it began, milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// The client's address.
    pub(crate) client: String,
    pub(crate) method: String,
    pub(crate) host: String,
    /// Without its query.
    pub(crate) path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub(crate) protocol: String,
    pub(crate) tls: bool,
    pub(crate) status: u16,
    /// Of the answer's body.
    pub(crate) bytes: u64,
    /// From the head of the request to the end of the answer.
    pub(crate) ms: f64,
    /// Whether the client got all of the answer.
    pub(crate) whole: bool,
    /// Empty where the router answered by itself.
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) instance: String,
}

/// The door to the log. Cheap to clone; without a file it takes nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessLog {
    queue: Option<mpsc::Sender<Line>>,
    left_out: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the file, and writes until `shutdown`; an empty path = no log.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn open(path: &Path, shutdown: &Shutdown) -> std::io::Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let file = File::open(path)?;
        let (queue, lines) = mpsc::channel(QUEUE);
        let left_out: Arc<AtomicU64> = Arc::default();
        shutdown.spawn("access log", write(file, lines, shutdown.clone()));
        Ok(Self {
            queue: Some(queue),
            left_out,
        })
    }

    /// Whether anybody wants lines.
    pub(crate) fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    pub(crate) fn write(&self, line: Line) {
        if let Some(queue) = &self.queue
            && queue.try_send(line).is_err()
        {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that did not fit.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

/// The path of a target, without its query.
pub(crate) fn path_of(uri: &http::Uri) -> String {
    uri.path().chars().take(PATH_MAX).collect()
}

async fn write(file: File, mut lines: mpsc::Receiver<Line>, shutdown: Shutdown) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut file = Some(file);
    loop {
        let got = tokio::select! {
            biased;
            got = lines.recv_many(&mut batch, BATCH) => got,
            // What was taken is written: the requests are over by then.
            () = shutdown.cancelled() => return,
        };
        if got == 0 {
            return;
        }
        let mut text = Vec::with_capacity(batch.len() * 256);
        for line in batch.drain(..) {
            if serde_json::to_writer(&mut text, &line).is_ok() {
                text.push(b'\n');
            }
        }
        let Some(mut open) = file.take() else { return };
        let writing = tokio::task::spawn_blocking(move || {
            let outcome = open.append(&text);
            (open, outcome)
        });
        match writing.await {
            Ok((open, Ok(()))) => file = Some(open),
            Ok((open, Err(error))) => {
                tracing::warn!(%error, "lines of the access log are lost");
                file = Some(open);
                tokio::time::sleep(AGAIN).await;
            }
            Err(_) => return,
        }
    }
}

/// The file, found again by its name.
struct File {
    path: PathBuf,
    open: std::fs::File,
}

impl File {
    fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self {
            open: append_to(path)?,
            path: path.to_owned(),
        })
    }

    fn append(&mut self, text: &[u8]) -> std::io::Result<()> {
        let there = self.path.metadata().map(|m| (m.dev(), m.ino())).ok();
        let ours = self.open.metadata().map(|m| (m.dev(), m.ino()))?;
        if there != Some(ours) {
            self.open = append_to(&self.path)?;
        }
        self.open.write_all(text)
    }
}

fn append_to(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::File::options();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.create(true).append(true).open(path)
}
