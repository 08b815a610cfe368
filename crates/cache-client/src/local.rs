//! The daemon on the same host.

use std::path::Path;
use std::time::Duration;

use slipway_core::digest::Digest;
use slipway_proto::v1::cache_client::CacheClient;
use slipway_proto::v1::cache_doors_client::CacheDoorsClient;
use slipway_proto::v1::{
    BlobChunk, Capability, CaptureLayerRequest, CaptureTreeRequest, CheckRequest, CheckResponse,
    GetBlobRequest, HasRequest, HoldingsRequest, HoldingsResponse, LayerSource, ReleaseRequest,
    RenewPinsRequest, RestoreCacheRequest, RestoreCacheResponse, RestoreRequest, SaveCacheRequest,
    SaveCacheResponse, StatsRequest, StatsResponse,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// For calls that lay out or read whole workspaces.
const LONG: Duration = Duration::from_secs(600);
/// For hashing everything that is there.
const CHECK: Duration = Duration::from_secs(6 * 3_600);
/// For everything else.
pub(crate) const SHORT: Duration = Duration::from_secs(30);
/// Bytes of one piece of a blob on the wire.
const PIECE: usize = 256 * 1024;

/// Why the daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Something that was asked for is not in the cache (any more).
    #[error("not in the cache: {0}")]
    Miss(String),
    /// The disk is full, or a limit was reached.
    #[error("the cache is full: {0}")]
    Full(String),
    /// The daemon does not answer.
    #[error("the cache daemon does not answer: {0}")]
    Unreachable(String),
    /// The daemon refused.
    #[error("the cache daemon refused: {0}")]
    Refused(String),
    /// The socket's address cannot be used.
    #[error("the cache socket's path cannot be used")]
    Address(#[source] tonic::transport::Error),
    /// The daemon answered with something that is not a digest.
    #[error("the cache daemon's answer makes no sense")]
    Nonsense,
}

impl From<Status> for CacheError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::Miss(text),
            Code::ResourceExhausted => Self::Full(text),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unreachable(text),
            _ => Self::Refused(text),
        }
    }
}

/// A laid-out workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoredWorkspace {
    /// The merged tree: the base for capturing a layer.
    pub root: Digest,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came from other hosts for it.
    pub fetched: u64,
}

/// A captured layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedLayer {
    /// Its name.
    pub layer: Digest,
    /// Paths put.
    pub changed: u64,
    /// Paths removed.
    pub removed: u64,
    /// Entries left out, with the reason.
    pub notes: Vec<String>,
    /// Its pack's id, where other daemons can ask for it; else empty.
    pub pack: String,
}

/// A connection to the daemon beside us. Cheap to clone; connects when first used.
#[derive(Clone)]
pub struct LocalCache {
    client: CacheClient<Channel>,
    pub(crate) doors: CacheDoorsClient<Channel>,
}

fn parse(text: &str) -> Result<Digest, CacheError> {
    text.parse().map_err(|_| CacheError::Nonsense)
}

pub(crate) fn with_limit<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

impl LocalCache {
    /// For the daemon at this socket.
    ///
    /// # Errors
    /// When the path cannot be an address.
    pub fn new(socket: &Path) -> Result<Self, CacheError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(CacheError::Address)?
            .connect_timeout(SHORT);
        let channel = endpoint.connect_lazy();
        Ok(Self {
            client: CacheClient::new(channel.clone()),
            doors: CacheDoorsClient::new(channel),
        })
    }

    /// Lays a workspace out in an existing, empty directory. What it is made of is pinned for
    /// `attempt` (empty = for nobody).
    ///
    /// # Errors
    /// `Miss` when a part of it is not in the cache; the directory must then be thrown away.
    pub async fn restore(
        &self,
        directory: &Path,
        root: &Digest,
        layers: &[Digest],
        attempt: &str,
    ) -> Result<RestoredWorkspace, CacheError> {
        let nobody = (Vec::new(), None);
        self.restore_from(directory, root, layers, attempt, nobody)
            .await
    }

    /// The same; what is missing is fetched from these daemons first, with what lets us read there.
    ///
    /// # Errors
    /// `Miss` when a part of it is nowhere; the directory must then be thrown away.
    pub async fn restore_from(
        &self,
        directory: &Path,
        root: &Digest,
        layers: &[Digest],
        attempt: &str,
        (sources, capability): (Vec<LayerSource>, Option<Capability>),
    ) -> Result<RestoredWorkspace, CacheError> {
        let request = RestoreRequest {
            sources,
            capability,
            directory: directory.display().to_string(),
            root: root.to_string(),
            layers: layers.iter().map(Digest::to_string).collect(),
            attempt: attempt.to_owned(),
        };
        let answer = self
            .client
            .clone()
            .restore(with_limit(request, LONG))
            .await?;
        let answer = answer.into_inner();
        Ok(RestoredWorkspace {
            root: parse(&answer.root)?,
            files: answer.files,
            bytes: answer.bytes,
            fetched: answer.fetched,
        })
    }

    /// Stores what a directory holds as a source workspace.
    ///
    /// # Errors
    /// When it cannot be read or kept.
    pub async fn capture_tree(
        &self,
        directory: &Path,
        keep_git: bool,
    ) -> Result<Digest, CacheError> {
        let request = CaptureTreeRequest {
            directory: directory.display().to_string(),
            keep_git,
        };
        let answer = self
            .client
            .clone()
            .capture_tree(with_limit(request, LONG))
            .await?;
        parse(&answer.into_inner().root)
    }

    /// Stores what changed in a directory against the workspace it was restored from, as the output of
    /// `attempt` (empty = nobody's).
    ///
    /// # Errors
    /// When it cannot be read or kept.
    pub async fn capture_layer(
        &self,
        directory: &Path,
        base: &Digest,
        attempt: &str,
    ) -> Result<CapturedLayer, CacheError> {
        let request = CaptureLayerRequest {
            directory: directory.display().to_string(),
            base: base.to_string(),
            attempt: attempt.to_owned(),
        };
        let answer = self
            .client
            .clone()
            .capture_layer(with_limit(request, LONG))
            .await?;
        let answer = answer.into_inner();
        Ok(CapturedLayer {
            layer: parse(&answer.layer)?,
            changed: answer.changed,
            removed: answer.removed,
            notes: answer.notes,
            pack: answer.pack,
        })
    }

    /// Lays the best entry of a stage's `cache:` out in an existing, empty directory.
    ///
    /// # Errors
    /// When it cannot be laid out; the directory must then be thrown away.
    pub async fn restore_cache(
        &self,
        request: RestoreCacheRequest,
    ) -> Result<RestoreCacheResponse, CacheError> {
        let mut client = self.client.clone();
        let answer = client.restore_cache(with_limit(request, LONG)).await?;
        Ok(answer.into_inner())
    }

    /// Keeps folders of a workspace under a key, unless that is there.
    ///
    /// # Errors
    /// When they cannot be read or kept.
    pub async fn save_cache(
        &self,
        request: SaveCacheRequest,
    ) -> Result<SaveCacheResponse, CacheError> {
        let mut client = self.client.clone();
        let answer = client.save_cache(with_limit(request, LONG)).await?;
        Ok(answer.into_inner())
    }

    /// Which of these blobs are in the cache.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn has(&self, digests: &[Digest]) -> Result<Vec<bool>, CacheError> {
        let request = HasRequest {
            digests: digests.iter().map(Digest::to_string).collect(),
        };
        let answer = self.client.clone().has(with_limit(request, SHORT)).await?;
        Ok(answer.into_inner().present)
    }

    /// A blob's bytes, at most `limit` of them, checked against its name here as well.
    ///
    /// # Errors
    /// `Miss` when it is not in the cache.
    pub async fn get(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, CacheError> {
        let request = GetBlobRequest {
            digest: digest.to_string(),
        };
        let mut pieces = self
            .client
            .clone()
            .get_blob(with_limit(request, LONG))
            .await?
            .into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.message().await? {
            if bytes.len() + piece.data.len() > limit {
                return Err(CacheError::Full(
                    "the blob is larger than expected".to_owned(),
                ));
            }
            bytes.extend(piece.data);
        }
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(CacheError::Nonsense)
        }
    }

    /// Stores a blob.
    ///
    /// # Errors
    /// When the daemon cannot keep it.
    pub async fn put(&self, bytes: &[u8]) -> Result<Digest, CacheError> {
        // An empty blob is announced, too.
        let announced = BlobChunk {
            data: Vec::new(),
            digest: Digest::of(bytes).to_string(),
            size: Some(bytes.len() as u64),
        };
        let pieces = bytes.chunks(PIECE).map(|data| BlobChunk {
            data: data.to_vec(),
            ..BlobChunk::default()
        });
        let pieces: Vec<BlobChunk> = std::iter::once(announced).chain(pieces).collect();
        let request = with_limit(tokio_stream::iter(pieces), LONG);
        let answer = self.client.clone().put_blob(request).await?;
        parse(&answer.into_inner().digest)
    }

    /// What the daemon says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stats(&self) -> Result<StatsResponse, CacheError> {
        let mut client = self.client.clone();
        let answer = client.stats(with_limit(StatsRequest {}, SHORT)).await?;
        Ok(answer.into_inner())
    }

    /// These attempts still use what they were laid out from.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn renew_pins(&self, attempts: Vec<String>) -> Result<(), CacheError> {
        let request = with_limit(RenewPinsRequest { attempts }, SHORT);
        self.client.clone().renew_pins(request).await?;
        Ok(())
    }

    /// What other daemons can ask this one for, and where.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn holdings(&self) -> Result<HoldingsResponse, CacheError> {
        let request = with_limit(HoldingsRequest {}, SHORT);
        Ok(self.client.clone().holdings(request).await?.into_inner())
    }

    /// An attempt is over: what it was laid out from may leave.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn release(&self, attempt: &str) -> Result<(), CacheError> {
        let attempt = attempt.to_owned();
        let request = with_limit(ReleaseRequest { attempt }, SHORT);
        self.client.clone().release(request).await?;
        Ok(())
    }

    /// Hashes everything the daemon has; damaged files are put aside. With `rebuild`, its index is made
    /// from the directory first.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn check(&self, rebuild: bool) -> Result<CheckResponse, CacheError> {
        let request = with_limit(CheckRequest { rebuild }, CHECK);
        Ok(self.client.clone().check(request).await?.into_inner())
    }
}
