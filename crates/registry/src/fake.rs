//! An image registry in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use slipway_core::image::ImageReference;

use crate::{ImageRegistry, Login, RegistryError};

#[derive(Default)]
struct Inner {
    /// Digest by repository and tag.
    tags: BTreeMap<(String, String), String>,
    logins: BTreeMap<String, Login>,
}

/// Holds what it is told.
#[derive(Default)]
pub struct FakeRegistry(Mutex<Inner>);

impl FakeRegistry {
    /// Makes `image` (with a tag) mean `digest` from now on.
    pub fn tag(&self, image: &ImageReference, digest: &str) {
        let key = (
            image.repository(),
            image.tag().unwrap_or("latest").to_owned(),
        );
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.tags.insert(key, digest.to_owned());
    }

    /// Gives `host` a login.
    pub fn login(&self, host: &str, login: Login) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.logins.insert(host.to_owned(), login);
    }
}

#[async_trait]
impl ImageRegistry for FakeRegistry {
    async fn credentials(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(inner.logins.get(host).cloned())
    }

    async fn resolve(&self, image: &ImageReference) -> Result<String, RegistryError> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let repository = image.repository();
        let found = match image.digest() {
            Some(digest) => inner
                .tags
                .iter()
                .find(|((known, _), is)| *known == repository && is.as_str() == digest)
                .map(|(_, digest)| digest.clone()),
            None => {
                let tag = image.tag().unwrap_or("latest").to_owned();
                inner.tags.get(&(repository, tag)).cloned()
            }
        };
        found.ok_or_else(|| RegistryError::NotFound(image.to_string()))
    }
}
