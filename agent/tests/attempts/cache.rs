//! A cache daemon that keeps whole folders by number, with the local door of the real one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use slipway_core::digest::Digest;
use slipway_proto::v1::cache_server::{Cache, CacheServer};
use slipway_proto::v1::{
    BlobChunk, CaptureLayerRequest, CaptureLayerResponse, CaptureTreeRequest, CaptureTreeResponse,
    CheckRequest, CheckResponse, GetBlobRequest, HasRequest, HasResponse, HoldingsRequest,
    HoldingsResponse, PutBlobResponse, ReleaseRequest, ReleaseResponse, RenewPinsRequest,
    RenewPinsResponse, RestoreCacheRequest, RestoreCacheResponse, RestoreRequest, RestoreResponse,
    SaveCacheRequest, SaveCacheResponse, StatsRequest, StatsResponse,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) struct FakeCache {
    folder: PathBuf,
    next: AtomicU64,
}

pub(crate) fn serve(folder: &Path) -> PathBuf {
    let socket = folder.join("cache.sock");
    serve_at(folder, &socket);
    socket
}

pub(crate) fn serve_at(folder: &Path, socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let cache = FakeCache {
        folder: folder.to_owned(),
        next: AtomicU64::new(0),
    };
    let serving = tonic::transport::Server::builder()
        .add_service(CacheServer::new(cache))
        .serve_with_incoming(UnixListenerStream::new(listener));
    slipway_daemon::spawn("fake cache", serving);
}

fn copy(from: &Path, to: &Path) -> Result<(), Status> {
    std::fs::create_dir_all(to).unwrap();
    let done = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    if done.unwrap().success() {
        Ok(())
    } else {
        Err(Status::not_found("no such tree"))
    }
}

impl FakeCache {
    fn keep(&self, directory: &str) -> Result<Digest, Status> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let name = Digest::of(&number.to_le_bytes());
        copy(Path::new(directory), &self.folder.join(name.to_string()))?;
        Ok(name)
    }
}

#[tonic::async_trait]
impl Cache for FakeCache {
    async fn restore(
        &self,
        request: Request<RestoreRequest>,
    ) -> Result<Response<RestoreResponse>, Status> {
        let request = request.into_inner();
        // A layer of this fake is a whole folder: the last one is the workspace.
        let last = request.layers.last().unwrap_or(&request.root);
        copy(&self.folder.join(last), Path::new(&request.directory))?;
        Ok(Response::new(RestoreResponse {
            files: 0,
            bytes: 0,
            root: last.clone(),
            fetched: 0,
        }))
    }

    async fn capture_tree(
        &self,
        request: Request<CaptureTreeRequest>,
    ) -> Result<Response<CaptureTreeResponse>, Status> {
        let root = self.keep(&request.into_inner().directory)?.to_string();
        Ok(Response::new(CaptureTreeResponse {
            root,
            files: 0,
            bytes: 0,
        }))
    }

    async fn capture_layer(
        &self,
        request: Request<CaptureLayerRequest>,
    ) -> Result<Response<CaptureLayerResponse>, Status> {
        let layer = self.keep(&request.into_inner().directory)?.to_string();
        Ok(Response::new(CaptureLayerResponse {
            layer,
            changed: 1,
            ..CaptureLayerResponse::default()
        }))
    }

    async fn restore_cache(
        &self,
        _: Request<RestoreCacheRequest>,
    ) -> Result<Response<RestoreCacheResponse>, Status> {
        Err(Status::unavailable("the fake keeps no entries"))
    }

    async fn save_cache(
        &self,
        _: Request<SaveCacheRequest>,
    ) -> Result<Response<SaveCacheResponse>, Status> {
        Err(Status::unavailable("the fake keeps no entries"))
    }

    type GetBlobStream = ReceiverStream<Result<BlobChunk, Status>>;

    async fn get_blob(
        &self,
        _: Request<GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        Err(Status::not_found("the fake keeps folders"))
    }

    async fn put_blob(
        &self,
        _: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<PutBlobResponse>, Status> {
        Err(Status::not_found("the fake keeps folders"))
    }

    async fn has(&self, _: Request<HasRequest>) -> Result<Response<HasResponse>, Status> {
        Ok(Response::new(HasResponse::default()))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        Ok(Response::new(StatsResponse::default()))
    }

    async fn renew_pins(
        &self,
        _: Request<RenewPinsRequest>,
    ) -> Result<Response<RenewPinsResponse>, Status> {
        Ok(Response::new(RenewPinsResponse {}))
    }

    async fn release(
        &self,
        _: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        Ok(Response::new(ReleaseResponse {}))
    }

    async fn holdings(
        &self,
        _: Request<HoldingsRequest>,
    ) -> Result<Response<HoldingsResponse>, Status> {
        Ok(Response::new(HoldingsResponse::default()))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        Ok(Response::new(CheckResponse::default()))
    }
}
