//! Bodies: streamed from the connection into the store and back, never whole in memory, with limits on
//! bytes, pauses and time.

use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use slipway_core::cache::remote;
use slipway_core::digest::Digest;
use tokio::sync::mpsc;

use super::{Door, Refused};
use crate::StoreError;
use crate::blobs::BlobError;
use crate::store::ForeignEntry as Entry;

/// Pieces on the way between the connection and the disk.
const QUEUE: usize = 4;
/// A body so small is read and checked as a whole before the first byte of it leaves.
const SMALL: u64 = 256 * 1024;
/// A body that comes slower than this for long is cut.
const SLOWEST: u64 = 64 * 1024;

/// Streams a body into the store. With `sha256` (lower-case hex), it must be exactly that.
pub(super) async fn receive(
    door: &Arc<Door>,
    headers: &HeaderMap,
    body: Body,
    sha256: Option<&str>,
) -> Result<(Digest, u64), Refused> {
    door.own.may_write()?;
    let announced = headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > door.limits.body_max) {
        return Err(Refused::TooLarge);
    }
    let _place = door.place_for_body().await?;
    let failed = Arc::new(OnceLock::new());
    let (send, receive) = mpsc::channel(QUEUE);
    let mut reader = Incoming {
        receive,
        piece: Bytes::new(),
        size: 0,
        ended: false,
        hasher: sha256.map(|wanted| (Sha256::new(), wanted.to_owned())),
        failed: Arc::clone(&failed),
        door: Arc::clone(door),
    };
    let store = Arc::clone(&door.store);
    let storing = tokio::task::spawn_blocking(move || store.put(&mut reader, None));
    let fed = feed(door, body, send).await;
    let stored = storing.await.map_err(|_| Refused::Broken)?;
    fed?;
    match (stored, failed.get()) {
        (Ok(done), _) => Ok(done),
        (Err(_), Some(why)) => Err(*why),
        (Err(StoreError::Blob(BlobError::Full(_))), None) => Err(Refused::Full),
        (Err(StoreError::Blob(BlobError::Io(io))), None) if crate::store::is_full(&io) => {
            Err(Refused::Full)
        }
        (Err(error), None) => {
            tracing::warn!(%error, "what a stage's tool sent cannot be stored");
            Err(Refused::Broken)
        }
    }
}

/// Hands pieces on until the body ends, the client pauses for too long, or the door is closed.
async fn feed(door: &Door, body: Body, send: mpsc::Sender<Option<Bytes>>) -> Result<(), Refused> {
    let began = door.clock.monotonic();
    let mut came = 0_u64;
    let mut pieces = body.into_data_stream();
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(door.limits.pause, pieces.next()) => next,
            () = door.shutdown.cancelled() => return Err(Refused::Closed),
        };
        let piece = match next.map_err(|_| Refused::Slow)? {
            Some(Ok(piece)) => piece,
            Some(Err(_)) => return Err(Refused::Cut),
            None => break,
        };
        came = came.saturating_add(piece.len() as u64);
        let most = door.limits.body + Duration::from_secs(came / SLOWEST);
        if door.clock.monotonic().saturating_sub(began) > most {
            return Err(Refused::Slow);
        }
        if send.send(Some(piece)).await.is_err() {
            // The store has had enough of it, and says why.
            return Ok(());
        }
    }
    // Without this word the sender is gone in the middle, and what came is no entry.
    let _refused_already = send.send(None).await;
    Ok(())
}

/// A body as a thread that may block reads it.
struct Incoming {
    receive: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    size: u64,
    ended: bool,
    hasher: Option<(Sha256, String)>,
    failed: Arc<OnceLock<Refused>>,
    door: Arc<Door>,
}

impl Incoming {
    fn fail(&self, why: Refused) -> io::Error {
        let _first_reason_stays = self.failed.set(why);
        io::Error::other("refused")
    }

    fn check(&mut self, bytes: u64) -> io::Result<()> {
        self.size = self.size.saturating_add(bytes);
        if self.size > self.door.limits.body_max.min(remote::ENTRY_MAX) {
            return Err(self.fail(Refused::TooLarge));
        }
        self.door.own.take(bytes).map_err(|why| self.fail(why))
    }

    fn end(&mut self) -> io::Result<usize> {
        if let Some((hasher, wanted)) = &self.hasher
            && hex::encode(hasher.clone().finalize()) != *wanted
        {
            return Err(self.fail(Refused::Mismatch));
        }
        Ok(0)
    }
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.ended {
                return self.end();
            }
            match self.receive.blocking_recv() {
                Some(Some(piece)) => {
                    self.check(piece.len() as u64)?;
                    if let Some((hasher, _)) = &mut self.hasher {
                        hasher.update(&piece);
                    }
                    self.piece = piece;
                }
                Some(None) => self.ended = true,
                None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            }
        }
        let count = self.piece.len().min(out.len());
        let taken = self.piece.split_to(count);
        if let Some(to) = out.get_mut(..count) {
            to.copy_from_slice(&taken);
        }
        Ok(count)
    }
}

/// An entry as an answer: its length, what the protocol adds, and its bytes.
pub(super) async fn give(
    door: &Arc<Door>,
    entry: &Entry,
    head: bool,
    more: &[(HeaderName, String)],
) -> Response {
    let body = if head {
        Body::empty()
    } else if entry.size <= SMALL {
        match small(door, entry).await {
            Some(bytes) => Body::from(bytes),
            // Damaged, or gone since it was found.
            None => return Refused::Miss.answer(),
        }
    } else {
        stream(door, entry)
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::OK;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(entry.size));
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    for (name, value) in more {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    answer
}

/// The bytes of a small entry.
pub(super) async fn small(door: &Arc<Door>, entry: &Entry) -> Option<Vec<u8>> {
    let (store, blob, size) = (Arc::clone(&door.store), entry.blob, entry.size);
    let read = tokio::task::spawn_blocking(move || store.get(&blob, size));
    read.await.ok()?.ok()
}

fn stream(door: &Arc<Door>, entry: &Entry) -> Body {
    let (send, receive) = mpsc::channel(QUEUE);
    let (store, blob, size) = (Arc::clone(&door.store), entry.blob, entry.size);
    let (runtime, pause) = (tokio::runtime::Handle::current(), door.limits.pause);
    // Hashed while it is sent: of a damaged blob the last piece never leaves, and the client sees fewer
    // bytes than it was told.
    tokio::task::spawn_blocking(move || {
        let mut out = Outgoing {
            send,
            runtime,
            pause,
        };
        if let Err(error) = store.read(&blob, size, &mut out) {
            let cut = io::Error::other(error.to_string());
            let _nobody_listens = out.send.try_send(Err(cut));
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receive))
}

/// A blob on its way to a client, which may stop reading.
struct Outgoing {
    send: mpsc::Sender<Result<Bytes, io::Error>>,
    runtime: tokio::runtime::Handle,
    pause: Duration,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        let sending = tokio::time::timeout(self.pause, self.send.send(Ok(piece)));
        match self.runtime.block_on(sending) {
            Ok(Ok(())) => Ok(bytes.len()),
            _ => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
