//! Image registries: who logs in where, and which digest a tag means now.
//!
//! Moves no layers: the Docker engine does that. Port [`ImageRegistry`]; adapters for the OCI
//! distribution protocol, for Amazon ECR (whose passwords expire), and a fake that keeps the same
//! contract.

mod ecr;
mod error;
mod fake;
mod login;
mod oci;
mod registries;

pub use ecr::{Ecr, EcrSettings, Now};
pub use error::RegistryError;
pub use fake::FakeRegistry;
pub use login::Login;
pub use oci::Oci;
pub use registries::Registries;

use async_trait::async_trait;
use slipway_core::image::ImageReference;

/// An image registry.
#[async_trait]
pub trait ImageRegistry: Send + Sync {
    /// The login for `host` (as it stands in references; empty = the engine's default registry).
    /// `None` = nobody logs in there.
    ///
    /// # Errors
    /// When a login should exist and cannot be had now.
    async fn credentials(&self, host: &str) -> Result<Option<Login>, RegistryError>;

    /// The manifest digest (`sha256:…`) that a reference means now. A reference that names a digest
    /// means that one, if it is there.
    ///
    /// # Errors
    /// `NotFound` when there is no such image.
    async fn resolve(&self, image: &ImageReference) -> Result<String, RegistryError>;
}
