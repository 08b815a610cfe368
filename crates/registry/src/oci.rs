//! Any registry that speaks the OCI distribution protocol. Plain HTTP on this machine only.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use slipway_core::image::ImageReference;

use crate::{ImageRegistry, Login, RegistryError};

/// One question takes at most this long.
const LIMIT: Duration = Duration::from_secs(30);

/// Registries with fixed logins.
pub struct Oci {
    logins: BTreeMap<String, Login>,
}

impl Oci {
    /// With these logins, by host.
    #[must_use]
    pub fn new(logins: BTreeMap<String, Login>) -> Self {
        Self { logins }
    }

    /// Resolves with a login that was had elsewhere.
    pub(crate) async fn resolve_as(
        &self,
        image: &ImageReference,
        login: Option<&Login>,
    ) -> Result<String, RegistryError> {
        let reference: Reference = image
            .to_string()
            .parse()
            .map_err(|_| RegistryError::Foreign(image.to_string()))?;
        let protocol = if image.is_loopback() {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        // A client keeps tokens by host; a fresh one per question cannot mix up two logins.
        let client = Client::try_from(ClientConfig {
            protocol,
            connect_timeout: Some(LIMIT),
            read_timeout: Some(LIMIT),
            ..ClientConfig::default()
        })
        .map_err(|error| failed(image, &error))?;
        let auth = match login {
            Some(login) => RegistryAuth::Basic(login.username.clone(), login.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        let asking = client.fetch_manifest_digest(&reference, &auth);
        match tokio::time::timeout(LIMIT, asking).await {
            Ok(Ok(digest)) => checked(image, digest),
            Ok(Err(error)) => Err(failed(image, &error)),
            Err(_) => Err(RegistryError::Deadline {
                image: image.to_string(),
                limit: LIMIT,
            }),
        }
    }
}

/// The answer is used as a digest only when it is one.
fn checked(image: &ImageReference, digest: String) -> Result<String, RegistryError> {
    match image.with_digest(&digest) {
        Ok(_) => Ok(digest),
        Err(_) => Err(RegistryError::Unavailable {
            image: image.to_string(),
            problem: "it answers with something that is not a sha256 digest".to_owned(),
        }),
    }
}

fn failed(image: &ImageReference, error: &OciDistributionError) -> RegistryError {
    let name = image.to_string();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => RegistryError::NotFound(name),
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::ServerError {
            code: 401 | 403, ..
        } => RegistryError::Unauthorized { image: name },
        OciDistributionError::RegistryError { envelope, .. } => {
            let has = |code: &OciErrorCode| envelope.errors.iter().any(|e| e.code == *code);
            if has(&OciErrorCode::ManifestUnknown)
                || has(&OciErrorCode::NameUnknown)
                || has(&OciErrorCode::NotFound)
            {
                RegistryError::NotFound(name)
            } else if has(&OciErrorCode::Unauthorized) || has(&OciErrorCode::Denied) {
                RegistryError::Unauthorized { image: name }
            } else {
                // The registry's own words may quote the request; the kind is enough.
                unavailable(name, "it reports an error")
            }
        }
        OciDistributionError::ServerError { code, .. } => {
            unavailable(name, &format!("it answers with status {code}"))
        }
        OciDistributionError::RequestError(_) => unavailable(name, "it cannot be reached"),
        _ => unavailable(name, "it does not keep to the protocol"),
    }
}

fn unavailable(image: String, problem: &str) -> RegistryError {
    RegistryError::Unavailable {
        image,
        problem: problem.to_owned(),
    }
}

#[async_trait]
impl ImageRegistry for Oci {
    async fn credentials(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        Ok(self.logins.get(host).cloned())
    }

    async fn resolve(&self, image: &ImageReference) -> Result<String, RegistryError> {
        let login = self.logins.get(image.registry().unwrap_or_default());
        self.resolve_as(image, login).await
    }
}
