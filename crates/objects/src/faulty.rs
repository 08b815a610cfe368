//! A store that fails on demand: for tests of what others do when object storage is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Key, Listed, ObjectError, ObjectStore, Reading, Writing};

/// Another store behind a switch.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    broken: Arc<AtomicBool>,
}

impl Faulty {
    /// Wraps a store; it works until told otherwise.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            broken: Arc::default(),
        }
    }

    /// Breaks it, or mends it.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), ObjectError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(ObjectError::Unavailable("broken on purpose".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), ObjectError> {
        self.check()?;
        self.inner.put(key, bytes).await
    }

    async fn write(&self, key: &Key) -> Result<Box<dyn Writing>, ObjectError> {
        self.check()?;
        self.inner.write(key).await
    }

    async fn read(&self, key: &Key, offset: u64) -> Result<Option<Reading>, ObjectError> {
        self.check()?;
        self.inner.read(key, offset).await
    }

    async fn remove(&self, key: &Key) -> Result<(), ObjectError> {
        self.check()?;
        self.inner.remove(key).await
    }

    async fn list(&self, folder: &Key) -> Result<Vec<Listed>, ObjectError> {
        self.check()?;
        self.inner.list(folder).await
    }
}
