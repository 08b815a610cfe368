//! Artifacts on their way in: cut at the size that was declared, and whole or not at all.

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use sha2::{Digest as _, Sha256};
use slipway_core::id::AgentId;
use slipway_objects::{Key, ObjectStore};
use slipway_proto::v1;
use tokio_stream::StreamExt as _;
use tonic::Status;

use super::agents::{attempt, owns};
use crate::state::App;

/// Largest artifact.
const ARTIFACT_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Longest silence of a sender: one that stalls must not hold a stream and an open upload.
const IDLE: Duration = Duration::from_secs(30);

/// Takes one artifact of an attempt that the agent holds; answers with its key.
pub(super) async fn put(
    app: &App,
    agent: &AgentId,
    mut chunks: impl Stream<Item = Result<v1::ArtifactChunk, Status>> + Unpin,
) -> Result<Key, Status> {
    let first = next(&mut chunks, IDLE).await?;
    let first = first.ok_or_else(|| Status::invalid_argument("nothing was sent"))?;
    let head = first
        .head
        .ok_or_else(|| Status::invalid_argument("field `head` is missing"))?;
    let key = key(app, agent, &head).await?;
    store(app.objects.as_ref(), &key, &head, first.data, chunks, IDLE).await?;
    Ok(key)
}

async fn key(app: &App, agent: &AgentId, head: &v1::ArtifactHead) -> Result<Key, Status> {
    let name = attempt(head.attempt.clone())?;
    if !owns(app, agent, &name).await? {
        return Err(Status::failed_precondition("stale_attempt"));
    }
    if head.size > ARTIFACT_MAX {
        return Err(Status::resource_exhausted("an artifact is at most 5 GiB"));
    }
    // The key is ours: no name from a stage becomes a piece of it.
    let id = slipway_core::digest::Digest::of(head.name.as_bytes());
    let text = format!("artifacts/{}/{}/{id}", name.0, name.1);
    Key::new(text).map_err(|e| Status::internal(e.to_string()))
}

async fn next(
    chunks: &mut (impl Stream<Item = Result<v1::ArtifactChunk, Status>> + Unpin),
    idle: Duration,
) -> Result<Option<v1::ArtifactChunk>, Status> {
    match tokio::time::timeout(idle, chunks.next()).await {
        Ok(chunk) => chunk.transpose(),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "the artifact stalled: nothing came for {} s",
            idle.as_secs()
        ))),
    }
}

async fn store(
    objects: &dyn ObjectStore,
    key: &Key,
    head: &v1::ArtifactHead,
    first: Vec<u8>,
    mut chunks: impl Stream<Item = Result<v1::ArtifactChunk, Status>> + Unpin,
    idle: Duration,
) -> Result<(), Status> {
    let failed = |e: slipway_objects::ObjectError| Status::unavailable(e.to_string());
    let mut writing = objects.write(key).await.map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut size: u64 = 0;
    let mut data = Some(first);
    while let Some(bytes) = data {
        size += bytes.len() as u64;
        if size > head.size {
            return Err(Status::invalid_argument(
                "more bytes came than were declared",
            ));
        }
        hasher.update(&bytes);
        writing.write(Bytes::from(bytes)).await.map_err(failed)?;
        data = next(&mut chunks, idle).await?.map(|chunk| chunk.data);
    }
    if size != head.size || hex::encode(hasher.finalize()) != head.sha256 {
        return Err(Status::invalid_argument(
            "the bytes do not match size and SHA-256",
        ));
    }
    writing.finish().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::stream;
    use slipway_objects::Folder;
    use tonic::Code;

    use super::*;

    const PIECE: usize = 64 * 1024;

    fn chunk(bytes: usize) -> Result<v1::ArtifactChunk, Status> {
        Ok(v1::ArtifactChunk {
            head: None,
            data: vec![7; bytes],
        })
    }

    async fn sent(
        size: u64,
        sha256: &str,
        chunks: impl Stream<Item = Result<v1::ArtifactChunk, Status>> + Unpin,
    ) -> (Result<(), Status>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let objects = Folder::open(dir.path()).await.unwrap();
        let key = Key::new("artifacts/a/1/b").unwrap();
        let head = v1::ArtifactHead {
            size,
            sha256: sha256.to_owned(),
            ..v1::ArtifactHead::default()
        };
        let quickly = Duration::from_millis(50);
        let got = store(&objects, &key, &head, Vec::new(), chunks, quickly).await;
        let there = objects.get(&key).await.unwrap().is_some();
        assert_eq!(there, got.is_ok(), "whole or not at all");
        (got, files_below(dir.path()))
    }

    fn files_below(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| if path.is_dir() { files_below(&path) } else { 1 })
            .sum()
    }

    #[tokio::test]
    async fn hostile_h059_more_than_was_declared_is_cut_at_the_declared_size() {
        // Ten gigabytes would follow: the next piece is made when it is asked for.
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        let endless = stream::iter((0..160_000).map(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            chunk(PIECE)
        }));
        let (got, left) = sent(10, "", endless).await;
        assert_eq!(got.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(made.load(Ordering::SeqCst), 1, "nothing more was read");
        assert_eq!(left, 0, "nothing is left on the disk");
    }

    #[tokio::test]
    async fn hostile_h059_a_sender_that_stalls_is_let_go_and_leaves_nothing() {
        let stalled = stream::iter([chunk(10)]).chain(stream::pending());
        let (got, left) = sent(10 << 30, "", Box::pin(stalled)).await;
        let refused = got.unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded);
        assert!(refused.message().contains("stalled"), "{refused}");
        assert_eq!(left, 0, "nothing is left on the disk");
    }

    #[tokio::test]
    async fn hostile_h059_fewer_or_other_bytes_than_were_declared_are_refused() {
        let right = hex::encode(Sha256::digest([7; 10]));
        for (size, sha256, good) in [
            (10, right.as_str(), true),
            (11, right.as_str(), false),
            (10, "", false),
        ] {
            let (got, left) = sent(size, sha256, stream::iter([chunk(10)])).await;
            assert_eq!((got.is_ok(), left), (good, usize::from(good)), "{got:?}");
        }
    }
}
