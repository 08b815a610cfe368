//! Bytes by key: log chunks, artifacts, the cache's durable tier. A local folder, or S3.
//!
//! Knows nothing of what the bytes mean. A key is a relative path of plain characters; an object
//! appears whole or not at all, and is readable once `put` or `finish` has answered. One contract
//! suite holds for every adapter.

mod faulty;
mod folder;
mod key;
mod s3;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use faulty::Faulty;
pub use folder::Folder;
pub use key::{InvalidKey, Key};
pub use s3::{S3, S3Settings};

/// What can go wrong with objects.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The disk or the service does not do it now; try again later.
    #[error("object storage is not available: {0}")]
    Unavailable(String),
    /// There is no room left.
    #[error("object storage is full: {0}")]
    Full(String),
}

/// An object that is being read.
pub struct Reading {
    /// Size of the whole object.
    pub size: u64,
    /// Its bytes from the offset asked for.
    pub bytes: BoxStream<'static, Result<Bytes, ObjectError>>,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub size: u64,
}

/// An object that is being written; dropping it unfinished leaves nothing behind.
#[async_trait]
pub trait Writing: Send {
    /// Adds bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError>;
    /// Makes the object appear; durable once this has answered.
    async fn finish(self: Box<Self>) -> Result<(), ObjectError>;
}

/// Bytes by key.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Stores a small object whole, replacing one of the same key.
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), ObjectError>;
    /// Begins a large object.
    async fn write(&self, key: &Key) -> Result<Box<dyn Writing>, ObjectError>;
    /// Reads from an offset; `None` when there is no such object.
    async fn read(&self, key: &Key, offset: u64) -> Result<Option<Reading>, ObjectError>;
    /// Removes; fine when it is not there.
    async fn remove(&self, key: &Key) -> Result<(), ObjectError>;
    /// All objects below a folder, in order of their keys.
    async fn list(&self, folder: &Key) -> Result<Vec<Listed>, ObjectError>;

    /// A whole small object.
    async fn get(&self, key: &Key) -> Result<Option<Bytes>, ObjectError> {
        use futures::TryStreamExt as _;
        let Some(reading) = self.read(key, 0).await? else {
            return Ok(None);
        };
        let chunks: Vec<Bytes> = reading.bytes.try_collect().await?;
        Ok(Some(chunks.concat().into()))
    }
}
