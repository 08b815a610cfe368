//! The agent's door: gRPC over a unix socket that only its owner can open.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use slipway_core::digest::Digest;
use slipway_daemon::Shutdown;
use slipway_proto::v1::cache_server::{Cache, CacheServer};
use slipway_proto::v1::{
    BlobChunk, CaptureLayerRequest, CaptureLayerResponse, CaptureTreeRequest, CaptureTreeResponse,
    GetBlobRequest, HasRequest, HasResponse, PutBlobResponse, RestoreRequest, RestoreResponse,
    StatsRequest, StatsResponse,
};
use slipway_proto::{DECODE_MAX, STREAMS_MAX};
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::blobs::BlobError;
use crate::{Store, StoreError};

/// Bytes of one piece of a blob on the wire.
const PIECE: usize = 256 * 1024;
/// Largest blob handed out in one answer.
const BLOB_MAX: u64 = 4 << 30;
/// Pieces on the way between the wire and the disk.
const QUEUE: usize = 8;
/// Digests of one question.
const HAS_MAX: usize = 10_000;

/// Serves the agent until shutdown.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: UnixListener,
    store: Arc<Store>,
    shutdown: &Shutdown,
) -> Result<(), tonic::transport::Error> {
    let door = CacheServer::new(Local { store })
        .max_decoding_message_size(DECODE_MAX)
        .max_encoding_message_size(DECODE_MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .add_service(door)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled())
        .await
}

struct Local {
    store: Arc<Store>,
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
        StoreError::Blob(BlobError::TooLarge(_)) | StoreError::TooManyLayers => {
            Status::resource_exhausted(text)
        }
        StoreError::Blob(BlobError::Io(io)) if io.kind() == std::io::ErrorKind::StorageFull => {
            Status::resource_exhausted("the cache's disk is full")
        }
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
        let (root, files, bytes) = self
            .blocking(move |store| store.restore(&directory, &root, &layers))
            .await?;
        Ok(Response::new(RestoreResponse {
            files,
            bytes,
            root: root.to_string(),
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
        let done = self
            .blocking(move |store| store.capture_layer(&directory, &base))
            .await?;
        Ok(Response::new(CaptureLayerResponse {
            layer: done.layer.to_string(),
            changed: done.changed,
            removed: done.removed,
            new_bytes: done.new_bytes,
            notes: done.notes,
        }))
    }

    type GetBlobStream = ReceiverStream<Result<BlobChunk, Status>>;

    async fn get_blob(
        &self,
        request: Request<GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let name = digest("digest", &request.into_inner().digest)?;
        // Read and checked as a whole before the first byte leaves.
        let bytes: Bytes = self
            .blocking(move |store| store.get(&name, BLOB_MAX))
            .await?
            .into();
        let (send, receive) = tokio::sync::mpsc::channel(QUEUE);
        slipway_daemon::spawn("send blob", async move {
            let mut at = 0;
            while at < bytes.len() {
                let end = bytes.len().min(at + PIECE);
                let data = bytes.slice(at..end).to_vec();
                if send.send(Ok(BlobChunk { data })).await.is_err() {
                    return;
                }
                at = end;
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<PutBlobResponse>, Status> {
        let mut pieces = request.into_inner();
        let (send, receive) = tokio::sync::mpsc::channel::<Vec<u8>>(QUEUE);
        let storing = self.blocking(move |store| {
            store.put(&mut Pieces {
                receive,
                piece: Vec::new(),
                at: 0,
            })
        });
        let feeding = async {
            while let Some(piece) = pieces.message().await? {
                if send.send(piece.data).await.is_err() {
                    break;
                }
            }
            drop(send);
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
        let [blobs, bytes, quota_bytes, hits, misses] = self.store.stats();
        Ok(Response::new(StatsResponse {
            blobs,
            bytes,
            quota_bytes,
            hits,
            misses,
        }))
    }
}

/// Pieces from the wire as a reader, for a thread that may block.
struct Pieces {
    receive: tokio::sync::mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.at >= self.piece.len() {
            match self.receive.blocking_recv() {
                Some(piece) => (self.piece, self.at) = (piece, 0),
                None => return Ok(0),
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
