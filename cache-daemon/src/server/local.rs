//! The agent's door: gRPC over a unix socket that only its owner can open.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::cache::keyed::Wanted as Keys;
use slipway_core::digest::Digest;
use slipway_daemon::Shutdown;
use slipway_proto::v1::cache_doors_server::CacheDoorsServer;
use slipway_proto::v1::cache_server::{Cache, CacheServer};
use slipway_proto::v1::{
    BlobChunk, CaptureLayerRequest, CaptureLayerResponse, CaptureTreeRequest, CaptureTreeResponse,
    CheckRequest, CheckResponse, GetBlobRequest, HasRequest, HasResponse, HeldPack,
    HoldingsRequest, HoldingsResponse, PutBlobResponse, ReleaseRequest, ReleaseResponse,
    RenewPinsRequest, RenewPinsResponse, RestoreCacheRequest, RestoreCacheResponse, RestoreRequest,
    RestoreResponse, SaveCacheRequest, SaveCacheResponse, StatsRequest, StatsResponse,
};
use slipway_proto::{DECODE_MAX, STREAMS_MAX};
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::blobs::BlobError;
use crate::peers;
use crate::server::foreign::{Doors, Limits};
use crate::server::moved::Moved;
use crate::server::{doors::Asked, keyed as asked};
use crate::store::{Keep, Wanted};
use crate::{Store, StoreError};

/// Bytes of one piece of a blob on the wire.
const PIECE: usize = 256 * 1024;
/// Largest blob handed out in one answer.
const BLOB_MAX: u64 = 4 << 30;
/// Pieces on the way between the wire and the disk.
const QUEUE: usize = 8;
/// Digests of one question.
const HAS_MAX: usize = 10_000;
/// Attempts of one renewal.
const RENEW_MAX: usize = 1_000;
/// A sender that says nothing for so long is gone.
const IDLE: Duration = Duration::from_secs(30);

/// Serves the agent until shutdown.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve(
    listener: UnixListener,
    store: Arc<Store>,
    peers: peers::Known,
    shutdown: &Shutdown,
) -> Result<(), tonic::transport::Error> {
    let doors = Doors::new(Arc::clone(&store), Limits::default(), shutdown.clone());
    let doors = Arc::new(doors);
    shutdown.spawn("doors of attempts", Arc::clone(&doors).watch());
    let opening = CacheDoorsServer::new(Asked(Arc::clone(&doors)));
    let local = Local {
        store,
        peers,
        doors,
        moved: Moved::default(),
    };
    let door = CacheServer::new(local)
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(DECODE_MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(door)
        .add_service(opening)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled())
        .await
}

struct Local {
    store: Arc<Store>,
    peers: peers::Known,
    doors: Arc<Doors>,
    moved: Moved,
}

fn digest(field: &'static str, text: &str) -> Result<Digest, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn folder(text: &str) -> Result<PathBuf, Status> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Status::invalid_argument("directory: not an absolute path"))
    }
}

/// The only place where a store's error becomes a status.
fn status(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Blob(BlobError::Miss(_)) => Status::not_found(text),
        StoreError::Blob(BlobError::TooLarge(_) | BlobError::Full(_))
        | StoreError::TooManyLayers => Status::resource_exhausted(text),
        StoreError::Blob(BlobError::Io(io)) if crate::store::is_full(io) => {
            Status::resource_exhausted("the cache's disk is full")
        }
        StoreError::Blob(BlobError::Mismatch(_)) => Status::invalid_argument(text),
        StoreError::Manifest(_) | StoreError::Capture(_) => Status::failed_precondition(text),
        StoreError::Blob(BlobError::Io(_)) => Status::internal(text),
    }
}

impl Local {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Status> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(status(&error)),
            Err(_) => Err(Status::internal("the request panicked")),
        }
    }
}

#[tonic::async_trait]
impl Cache for Local {
    async fn restore(
        &self,
        request: Request<RestoreRequest>,
    ) -> Result<Response<RestoreResponse>, Status> {
        let request = request.into_inner();
        let directory = folder(&request.directory)?;
        let root = digest("root", &request.root)?;
        let layers = request.layers.iter().map(|text| digest("layers", text));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let attempt = request.attempt;
        let fetched = match self.peers.get() {
            Some(peers) => {
                let given = request.capability.as_ref();
                peers.fetch(&request.sources, given).await
            }
            None => 0,
        };
        self.store.counters().fetched_bytes.inc_by(fetched);
        let fetched = self.moved.add(&attempt, fetched);
        let (root, files, bytes) = self
            .blocking(move |store| {
                store.restore(&Wanted {
                    directory: &directory,
                    root: &root,
                    layers: &layers,
                    attempt: named(&attempt),
                })
            })
            .await?;
        Ok(Response::new(RestoreResponse {
            files,
            bytes,
            root: root.to_string(),
            fetched,
        }))
    }

    async fn capture_tree(
        &self,
        request: Request<CaptureTreeRequest>,
    ) -> Result<Response<CaptureTreeResponse>, Status> {
        let request = request.into_inner();
        let directory = folder(&request.directory)?;
        let keep_git = request.keep_git;
        let (root, files, bytes) = self
            .blocking(move |store| store.capture_tree(&directory, keep_git))
            .await?;
        if self.store.packs() {
            // Nobody waits for it: who needs it before can fetch the commit as well.
            let store = Arc::clone(&self.store);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = store.make_pack(&root, false) {
                    tracing::warn!(%error, "a source workspace cannot be packed");
                }
            });
        }
        Ok(Response::new(CaptureTreeResponse {
            root: root.to_string(),
            files,
            bytes,
        }))
    }

    async fn capture_layer(
        &self,
        request: Request<CaptureLayerRequest>,
    ) -> Result<Response<CaptureLayerResponse>, Status> {
        let request = request.into_inner();
        let directory = folder(&request.directory)?;
        let base = digest("base", &request.base)?;
        let attempt = request.attempt;
        let done = self
            .blocking(move |store| store.capture_layer(&directory, &base, named(&attempt)))
            .await?;
        Ok(Response::new(CaptureLayerResponse {
            layer: done.layer.to_string(),
            changed: done.changed,
            removed: done.removed,
            new_bytes: done.new_bytes,
            notes: done.notes,
            pack: done.pack.map(|pack| pack.to_string()).unwrap_or_default(),
        }))
    }

    async fn restore_cache(
        &self,
        request: Request<RestoreCacheRequest>,
    ) -> Result<Response<RestoreCacheResponse>, Status> {
        let request = request.into_inner();
        let directory = folder(&request.directory)?;
        let scope = asked::scope(request.scope)?;
        asked::keys(&request.key, &request.restore_keys, &request.paths)?;
        let found = self
            .blocking(move |store| {
                let keys = Keys {
                    scopes: &scope.read,
                    key: &request.key,
                    restore_keys: &request.restore_keys,
                    paths: &request.paths,
                };
                store.restore_keyed(&directory, keys, &request.attempt)
            })
            .await?;
        Ok(Response::new(match found {
            Some(hit) => RestoreCacheResponse {
                key: Some(hit.key),
                files: hit.files,
                bytes: hit.bytes,
            },
            None => RestoreCacheResponse::default(),
        }))
    }

    async fn save_cache(
        &self,
        request: Request<SaveCacheRequest>,
    ) -> Result<Response<SaveCacheResponse>, Status> {
        let request = request.into_inner();
        let directory = folder(&request.directory)?;
        let scope = asked::scope(request.scope)?;
        asked::keys(&request.key, &[], &request.paths)?;
        let done = self
            .blocking(move |store| {
                let keys = Keys {
                    scopes: &scope.read,
                    key: &request.key,
                    restore_keys: &[],
                    paths: &request.paths,
                };
                store.save_keyed(Keep {
                    directory: &directory,
                    keys,
                    scope: &scope.write,
                    trusted: scope.trusted,
                })
            })
            .await?;
        Ok(Response::new(SaveCacheResponse {
            saved: done.saved,
            files: done.files,
            bytes: done.bytes,
            notes: done.notes,
        }))
    }

    type GetBlobStream = ReceiverStream<Result<BlobChunk, Status>>;

    async fn get_blob(
        &self,
        request: Request<GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let name = digest("digest", &request.into_inner().digest)?;
        let (send, receive) = tokio::sync::mpsc::channel(QUEUE);
        let store = Arc::clone(&self.store);
        // Hashed while it is sent: of a damaged blob the last piece never leaves, but an error does.
        tokio::task::spawn_blocking(move || {
            let mut out = Outgoing { send };
            if let Err(error) = store.read(&name, BLOB_MAX, &mut out) {
                let _nobody_listens = out.send.blocking_send(Err(status(&error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<PutBlobResponse>, Status> {
        let mut pieces = request.into_inner();
        let first = next(&mut pieces).await?.unwrap_or_default();
        let announced = match (first.size, first.digest.as_str()) {
            (Some(size), text) => Some((digest("digest", text)?, size)),
            (None, _) => None,
        };
        let (send, receive) = tokio::sync::mpsc::channel::<Option<Vec<u8>>>(QUEUE);
        let storing = self.blocking(move |store| {
            let mut reader = Pieces {
                receive,
                piece: first.data,
                at: 0,
                ended: false,
            };
            store.put(&mut reader, announced)
        });
        let feeding = async move {
            while let Some(piece) = next(&mut pieces).await? {
                if send.send(Some(piece.data)).await.is_err() {
                    return Ok(());
                }
            }
            // Without this word the sender is gone in the middle, and what came is no blob.
            let _refused_already = send.send(None).await;
            Ok::<(), Status>(())
        };
        let (stored, fed) = tokio::join!(storing, feeding);
        fed?;
        let (name, size) = stored?;
        Ok(Response::new(PutBlobResponse {
            digest: name.to_string(),
            size,
        }))
    }

    async fn has(&self, request: Request<HasRequest>) -> Result<Response<HasResponse>, Status> {
        let asked = request.into_inner().digests;
        if asked.len() > HAS_MAX {
            return Err(Status::invalid_argument("digests: too many"));
        }
        let digests = asked.iter().map(|text| digest("digests", text));
        let digests = digests.collect::<Result<Vec<_>, _>>()?;
        let present = self
            .blocking(move |store| Ok(digests.iter().map(|d| store.has(d)).collect()))
            .await?;
        Ok(Response::new(HasResponse { present }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let now = self.blocking(|store| Ok(store.stats())).await?;
        let counted = self.store.counters();
        Ok(Response::new(StatsResponse {
            blobs: now.blobs,
            bytes: now.bytes,
            quota_bytes: now.quota,
            hits: counted.hits.get(),
            misses: counted.misses.get(),
            damaged: self.store.disk.damaged(),
            evicted: counted.evicted.get(),
            evicted_bytes: counted.evicted_bytes.get(),
            full: counted.full.get(),
            reserved_bytes: now.reserved,
            pins: now.pins,
            fetched_bytes: counted.fetched_bytes.get(),
            served_bytes: counted.served_bytes.get(),
            faults: counted.faults.get(),
        }))
    }

    async fn holdings(
        &self,
        _: Request<HoldingsRequest>,
    ) -> Result<Response<HoldingsResponse>, Status> {
        let Some(peers) = self.peers.get() else {
            return Ok(Response::new(HoldingsResponse::default()));
        };
        let all = self.blocking(|store| Ok(store.holdings())).await?;
        let packs = all.iter().map(|(layer, pack)| HeldPack {
            layer: layer.to_string(),
            pack: pack.to_string(),
        });
        Ok(Response::new(HoldingsResponse {
            daemon: Some(peers.me.clone()),
            packs: packs.collect(),
        }))
    }

    async fn renew_pins(
        &self,
        request: Request<RenewPinsRequest>,
    ) -> Result<Response<RenewPinsResponse>, Status> {
        let mut attempts = request.into_inner().attempts;
        attempts.truncate(RENEW_MAX);
        self.doors.renew(&attempts);
        self.blocking(move |store| {
            store.renew(&attempts);
            Ok(())
        })
        .await?;
        Ok(Response::new(RenewPinsResponse {}))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        let attempt = request.into_inner().attempt;
        self.moved.forget(&attempt);
        self.blocking(move |store| {
            store.release(&attempt);
            Ok(())
        })
        .await?;
        Ok(Response::new(ReleaseResponse {}))
    }

    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let rebuild = request.into_inner().rebuild;
        let found = self.blocking(move |store| Ok(store.check(rebuild))).await?;
        Ok(Response::new(CheckResponse {
            files: found.files,
            bytes: found.bytes,
            damaged: found.damaged,
        }))
    }
}

/// Empty = nobody.
fn named(attempt: &str) -> Option<&str> {
    (!attempt.is_empty()).then_some(attempt)
}

async fn next(pieces: &mut Streaming<BlobChunk>) -> Result<Option<BlobChunk>, Status> {
    match tokio::time::timeout(IDLE, pieces.message()).await {
        Ok(next) => next,
        Err(_) => Err(Status::deadline_exceeded("nothing came for 30 seconds")),
    }
}

/// A blob on its way to the wire, from a thread that may block.
struct Outgoing {
    send: tokio::sync::mpsc::Sender<Result<BlobChunk, Status>>,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let bytes = bytes.get(..PIECE).unwrap_or(bytes);
        let chunk = BlobChunk {
            data: bytes.to_vec(),
            ..BlobChunk::default()
        };
        match self.send.blocking_send(Ok(chunk)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Pieces from the wire as a reader, for a thread that may block.
struct Pieces {
    /// `None` = the sender said that this is all.
    receive: tokio::sync::mpsc::Receiver<Option<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.at >= self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            match self.receive.blocking_recv() {
                Some(Some(piece)) => (self.piece, self.at) = (piece, 0),
                Some(None) => self.ended = true,
                None => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            }
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        let (Some(to), Some(from)) = (out.get_mut(..count), rest.get(..count)) else {
            return Ok(0);
        };
        to.copy_from_slice(from);
        self.at += count;
        Ok(count)
    }
}
