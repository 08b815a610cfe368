//! Output on its way: masked, spooled to a file, sent in frames, kept until it is durable elsewhere.
//!
//! The spool holds exactly the masked bytes, so an offset of the protocol is an offset of the file;
//! whatever must be sent again is read again. After a restart of the agent the spool is written anew
//! from what the engine kept of the container's output: the same bytes at the same offsets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slipway_core::mask::{Masker, Patterns};
use slipway_daemon::Shutdown;
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1::logs_client::LogsClient;
use slipway_proto::v1::{self, LogAck, LogFrame};
use slipway_proto::{DECODE_MAX, LOG_FRAME_MAX};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::dispatchers::Dispatchers;

mod kept;

pub(crate) use kept::resume;

/// Bytes sent and not yet received by the dispatcher.
const WINDOW: u64 = 4 * 1024 * 1024;
/// Frames on their way to the wire.
const FRAMES: usize = 32;
/// Between two frames of a trickle: many small writes become one frame.
const FLUSH: Duration = Duration::from_millis(30);
/// Between two tries to open the stream.
const RETRY: Duration = Duration::from_secs(1);
/// Frames above this are compressed.
const COMPRESS_FROM: usize = 4 * 1024;

/// Room below the limit for our own words: why the stage ended is said in a full log, too.
const OWN_WORDS: u64 = 64 * 1024;

/// How much was written, and whether that is all.
#[derive(Clone, Debug, Default)]
struct Written {
    length: u64,
    /// The digest of the whole, once nothing more comes.
    closed: Option<String>,
}

/// How far the dispatcher is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Bytes received there.
    pub(crate) received: u64,
    /// Everything is durable there.
    pub(crate) complete: bool,
    /// It takes no more (limit, or not ours any more).
    pub(crate) refused: bool,
}

/// The writing end of an attempt's log.
pub(crate) struct LogWriter {
    file: File,
    path: PathBuf,
    hasher: blake3::Hasher,
    patterns: Arc<Patterns>,
    held: Vec<u8>,
    limit: u64,
    /// Output was cut off at the limit.
    cut: bool,
    line_open: bool,
    written: watch::Sender<Written>,
    sent: watch::Receiver<Sent>,
}

impl LogWriter {
    /// Opens an attempt's log and starts to send it.
    ///
    /// # Errors
    /// When the spool cannot be made.
    pub(crate) async fn open(
        spool: &Path,
        key: &AttemptKey,
        patterns: Arc<Patterns>,
        destination: Arc<Dispatchers>,
        limit: u64,
        shutdown: &Shutdown,
    ) -> std::io::Result<Self> {
        let path = spool.join(format!("{}.log", key.folder()));
        let file = File::create(&path).await?;
        // Written anew: what an earlier process closed is not what this one will close.
        let _none = tokio::fs::remove_file(kept::note(&path)).await;
        let (written, watching) = watch::channel(Written::default());
        let (progress, sent) = watch::channel(Sent::default());
        let sender = Sender {
            key: key.clone(),
            path: path.clone(),
            destination,
            written: watching,
            progress,
        };
        shutdown.spawn("send log", sender.run());
        Ok(Self {
            file,
            path,
            hasher: blake3::Hasher::new(),
            patterns,
            held: Vec::new(),
            limit,
            cut: false,
            line_open: false,
            written,
            sent,
        })
    }

    /// Adds a stage's output, as far as the limit allows; see [`LogWriter::is_cut`].
    ///
    /// # Errors
    /// When the spool cannot be written.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let out = self.mask(bytes);
        self.append(&out, self.limit.saturating_sub(OWN_WORDS))
            .await
    }

    /// Adds a line of our own, which begins a line whatever the stage printed last.
    ///
    /// # Errors
    /// When the spool cannot be written.
    pub(crate) async fn say(&mut self, text: &str) -> std::io::Result<()> {
        let open = self
            .held
            .last()
            .map_or(self.line_open, |last| *last != b'\n');
        let begin = if open { "\n" } else { "" };
        let out = self.mask(format!("{begin}slipway: {text}\n").as_bytes());
        self.append(&out, self.limit).await
    }

    fn mask(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        // The masker is made anew over what was held back: it borrows the patterns.
        let mut masker = Masker::new(&self.patterns);
        let held = std::mem::take(&mut self.held);
        masker.push(&held, &mut out);
        masker.push(bytes, &mut out);
        self.held = masker.into_held();
        out
    }

    /// Writes what still has room below `limit`.
    async fn append(&mut self, out: &[u8], limit: u64) -> std::io::Result<()> {
        let room = limit.saturating_sub(self.written.borrow().length);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        self.cut |= out.len() > room;
        let out = out.get(..room.min(out.len())).unwrap_or_default();
        let Some(last) = out.last() else {
            return Ok(());
        };
        self.line_open = *last != b'\n';
        self.file.write_all(out).await?;
        self.file.flush().await?;
        self.hasher.update(out);
        self.written
            .send_modify(|written| written.length += out.len() as u64);
        Ok(())
    }

    /// Gives out what cannot be the beginning of a secret any more; for a stream that pauses.
    ///
    /// # Errors
    /// When the spool cannot be written.
    pub(crate) async fn flush_safe(&mut self) -> std::io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        let mut masker = Masker::new(&self.patterns);
        let held = std::mem::take(&mut self.held);
        masker.push(&held, &mut out);
        masker.flush_safe(&mut out);
        self.held = masker.into_held();
        self.append(&out, self.limit.saturating_sub(OWN_WORDS))
            .await
    }

    /// Whether the dispatcher refuses more.
    fn is_refused(&self) -> bool {
        self.sent.borrow().refused
    }

    /// Whether output was cut off: here, at the limit, or because the dispatcher takes no more.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut || self.is_refused()
    }

    /// Why a stage whose output was cut off ends.
    pub(crate) fn cut_reason(&self) -> String {
        format!(
            "the log is cut here: it reached its limit of {} MiB, which ends the stage",
            self.limit >> 20
        )
    }

    /// Nothing more comes. Answers with length and digest once the dispatcher has received it all,
    /// or `limit` passed (then it is sent on in the background).
    ///
    /// # Errors
    /// When the spool cannot be written.
    pub(crate) async fn close(
        mut self,
        limit: Duration,
    ) -> std::io::Result<(u64, String, watch::Receiver<Sent>)> {
        let mut out = Vec::new();
        let mut masker = Masker::new(&self.patterns);
        let held = std::mem::take(&mut self.held);
        masker.push(&held, &mut out);
        masker.finish(&mut out);
        self.append(&out, self.limit).await?;
        let digest = self.hasher.finalize().to_hex().to_string();
        let length = self.written.borrow().length;
        // The result must not be there without it: a process that starts again sends the rest.
        kept::write(&self.path, length, &digest).await?;
        self.written
            .send_modify(|written| written.closed = Some(digest.clone()));
        let mut sent = self.sent.clone();
        let received = sent.wait_for(|s| s.received >= length || s.refused);
        let _goes_on_in_the_background = tokio::time::timeout(limit, received).await;
        Ok((length, digest, self.sent))
    }
}

struct Sender {
    key: AttemptKey,
    path: PathBuf,
    destination: Arc<Dispatchers>,
    written: watch::Receiver<Written>,
    progress: watch::Sender<Sent>,
}

enum Over {
    /// Everything is durable, or refused.
    Done,
    /// The stream broke: open it again.
    Broken,
}

impl Sender {
    async fn run(mut self) {
        loop {
            match self.stream().await {
                Ok(Over::Done) => break,
                Ok(Over::Broken) => {}
                Err(error) => tracing::debug!(%error, stage = %self.key.stage, "log stream"),
            }
            // The attempt is gone and nobody will close this log.
            if self.written.has_changed().is_err() && self.written.borrow().closed.is_none() {
                break;
            }
            tokio::time::sleep(RETRY).await;
        }
        let _best_effort = tokio::fs::remove_file(kept::note(&self.path)).await;
        let _best_effort = tokio::fs::remove_file(&self.path).await;
    }

    async fn stream(&mut self) -> anyhow::Result<Over> {
        let mut client =
            LogsClient::new(self.destination.output()).max_decoding_message_size(DECODE_MAX);
        let (frames, outgoing) = mpsc::channel::<LogFrame>(FRAMES);
        let outgoing = ReceiverStream::new(outgoing);
        let mut acks = client.append(outgoing).await?.into_inner();
        let mut file = File::open(&self.path).await?;
        let mut next = self.progress.borrow().received;
        let mut close_sent = false;
        loop {
            let written = self.written.borrow_and_update().clone();
            let received = self.progress.borrow().received;
            if next < written.length && next < received + WINDOW {
                let bytes = read(&mut file, next, written.length).await?;
                next += bytes.len() as u64;
                if frames.send(self.frame(next, &bytes)?).await.is_err() {
                    return Ok(Over::Broken);
                }
                if next < written.length {
                    continue;
                }
            }
            if let (Some(digest), false) = (&written.closed, close_sent)
                && next == written.length
            {
                close_sent = true;
                if frames.send(self.closing(next, digest)).await.is_err() {
                    return Ok(Over::Broken);
                }
            }
            tokio::select! {
                ack = acks.next() => match ack.transpose()? {
                    None => return Ok(Over::Broken),
                    Some(ack) => {
                        if let Some(rewind) = ack.rewind {
                            next = rewind.min(next);
                            close_sent = false;
                        }
                        if self.heard(&ack) {
                            return Ok(Over::Done);
                        }
                    }
                },
                changed = self.written.changed(), if !close_sent => match changed {
                    Ok(()) => {
                        if self.written.borrow().closed.is_none() {
                            tokio::time::sleep(FLUSH).await;
                        }
                    }
                    // The writer is gone: with a digest it was closed, otherwise it was given up.
                    Err(_) if self.written.borrow().closed.is_none() => return Ok(Over::Done),
                    Err(_) => {}
                },
            }
        }
    }

    /// Notes an answer; whether nothing more is to be done.
    fn heard(&self, ack: &LogAck) -> bool {
        let written = self.written.borrow().clone();
        let complete = written.closed.is_some()
            && ack.rewind.is_none()
            && ack.durable >= written.length
            && ack.received >= written.length;
        let refused = !ack.refused.is_empty();
        self.progress.send_modify(|sent| {
            sent.received = ack.received;
            sent.complete |= complete;
            sent.refused |= refused;
        });
        refused || (complete && written.length == ack.durable && self.closed_there(ack))
    }

    /// An empty log has nothing durable; its closing frame alone is answered.
    fn closed_there(&self, ack: &LogAck) -> bool {
        ack.durable == ack.received
    }

    fn frame(&self, end: u64, bytes: &[u8]) -> anyhow::Result<LogFrame> {
        let (codec, data) = if bytes.len() >= COMPRESS_FROM {
            (v1::Codec::Zstd, zstd::bulk::compress(bytes, 1)?)
        } else {
            (v1::Codec::None, bytes.to_vec())
        };
        Ok(LogFrame {
            attempt: Some((&self.key).into()),
            offset: end - bytes.len() as u64,
            raw_len: u32::try_from(bytes.len())?,
            codec: codec.into(),
            data,
            crc32c: crc32c::crc32c(bytes),
            close: false,
            digest: String::new(),
        })
    }

    fn closing(&self, offset: u64, digest: &str) -> LogFrame {
        LogFrame {
            attempt: Some((&self.key).into()),
            offset,
            raw_len: 0,
            codec: v1::Codec::None.into(),
            data: Vec::new(),
            crc32c: crc32c::crc32c(&[]),
            close: true,
            digest: digest.to_owned(),
        }
    }
}

async fn read(file: &mut File, from: u64, to: u64) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(to - from).unwrap_or(LOG_FRAME_MAX);
    let mut bytes = vec![0; length.min(LOG_FRAME_MAX)];
    file.seek(std::io::SeekFrom::Start(from)).await?;
    file.read_exact(&mut bytes).await?;
    Ok(bytes)
}
