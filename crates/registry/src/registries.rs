//! All registries of an installation as one: ECR hosts by their adapters, everything else by OCI.

use async_trait::async_trait;
use slipway_core::image::ImageReference;

use crate::{Ecr, ImageRegistry, Login, Oci, RegistryError};

/// Chooses by host.
pub struct Registries {
    oci: Oci,
    ecr: Vec<Ecr>,
}

impl Registries {
    /// From adapters; an ECR registry answers for its own host only.
    #[must_use]
    pub fn new(oci: Oci, ecr: Vec<Ecr>) -> Self {
        Self { oci, ecr }
    }
}

#[async_trait]
impl ImageRegistry for Registries {
    async fn credentials(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        for ecr in &self.ecr {
            if let Some(login) = ecr.credentials(host).await? {
                return Ok(Some(login));
            }
        }
        self.oci.credentials(host).await
    }

    async fn resolve(&self, image: &ImageReference) -> Result<String, RegistryError> {
        let host = image.registry().unwrap_or_default();
        let login = self.credentials(host).await?;
        self.oci.resolve_as(image, login.as_ref()).await
    }
}
