//! Amazon ECR. Its passwords expire after twelve hours: one is kept and renewed early, so that no
//! push begins with a password that ends under it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_ecr::Client;
use aws_sdk_ecr::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ecr::error::SdkError;
use aws_sdk_ecr::types::ImageIdentifier;
use base64::Engine as _;
use slipway_core::image::ImageReference;
use slipway_core::time::Timestamp;
use tokio::sync::Mutex;

use crate::{ImageRegistry, Login, RegistryError};

/// A password is renewed when it ends within this time.
const RENEW_EARLY: Duration = Duration::from_secs(2 * 3_600);
/// One question takes at most this long.
const LIMIT: Duration = Duration::from_secs(30);

/// Where time comes from.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Which registry.
#[derive(Clone)]
pub struct EcrSettings {
    /// Host in references, e.g. `123456789012.dkr.ecr.eu-west-1.amazonaws.com`.
    pub host: String,
    /// Region.
    pub region: String,
    /// Another address of the service; empty = the region's own.
    pub endpoint: String,
    /// Key pair (id, secret); `None` = the environment's usual chain.
    pub key_pair: Option<(String, String)>,
}

struct Token {
    login: Login,
    until: Timestamp,
}

/// One ECR registry.
pub struct Ecr {
    client: Client,
    host: String,
    now: Now,
    token: Mutex<Option<Token>>,
}

impl Ecr {
    /// Connects (lazily).
    pub async fn open(settings: &EcrSettings, now: Now) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .http_client(http);
        if let Some((id, secret)) = &settings.key_pair {
            let pair = Credentials::new(id, secret, None, None, "settings");
            loader = loader.credentials_provider(pair);
        }
        if !settings.endpoint.is_empty() {
            loader = loader.endpoint_url(&settings.endpoint);
        }
        let shared = loader.load().await;
        Self {
            client: Client::new(&shared),
            host: settings.host.clone(),
            now,
            token: Mutex::new(None),
        }
    }

    async fn login(&self) -> Result<Login, RegistryError> {
        // Held across the question on purpose: one question renews it for all who wait.
        let mut token = self.token.lock().await;
        let now = (self.now)();
        if let Some(kept) = &*token
            && kept.until.since(now) > RENEW_EARLY
        {
            return Ok(kept.login.clone());
        }
        let fresh = self.fetch(now).await;
        match (fresh, &*token) {
            (Ok(fresh), _) => {
                let login = fresh.login.clone();
                *token = Some(fresh);
                Ok(login)
            }
            // Early renewal failed: the old one is good for a while.
            (Err(error), Some(kept)) if kept.until > now => {
                tracing::warn!(%error, "the registry password cannot be renewed yet");
                Ok(kept.login.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fetch(&self, now: Timestamp) -> Result<Token, RegistryError> {
        let asking = self.client.get_authorization_token().send();
        let answer = limited(&self.host, asking).await?;
        let nonsense = || RegistryError::Unavailable {
            image: self.host.clone(),
            problem: "its login token makes no sense".to_owned(),
        };
        let data = answer.authorization_data().first().ok_or_else(nonsense)?;
        let text = data.authorization_token().ok_or_else(nonsense)?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| nonsense())?;
        let pair = String::from_utf8(bytes).map_err(|_| nonsense())?;
        let (username, password) = pair.split_once(':').ok_or_else(nonsense)?;
        // Without an end it is used once and asked for again.
        let until = data.expires_at().map_or(now, |at| {
            Timestamp::from_millis(at.secs().saturating_mul(1_000))
        });
        Ok(Token {
            login: Login {
                username: username.to_owned(),
                password: password.to_owned(),
            },
            until,
        })
    }
}

async fn limited<T, E, R>(
    image: &str,
    asking: impl Future<Output = Result<T, SdkError<E, R>>>,
) -> Result<T, RegistryError>
where
    E: aws_sdk_ecr::error::ProvideErrorMetadata,
{
    match tokio::time::timeout(LIMIT, asking).await {
        Err(_) => Err(RegistryError::Deadline {
            image: image.to_owned(),
            limit: LIMIT,
        }),
        Ok(Err(error)) => Err(failed(image, &error)),
        Ok(Ok(answer)) => Ok(answer),
    }
}

fn failed<E, R>(image: &str, error: &SdkError<E, R>) -> RegistryError
where
    E: aws_sdk_ecr::error::ProvideErrorMetadata,
{
    let image = image.to_owned();
    let code = match error {
        SdkError::ServiceError(service) => service.err().code().unwrap_or_default(),
        SdkError::TimeoutError(_) => "time-out",
        SdkError::DispatchFailure(_) => "cannot connect",
        _ => "the request failed",
    };
    match code {
        "ImageNotFoundException" | "RepositoryNotFoundException" => RegistryError::NotFound(image),
        "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
            RegistryError::Unauthorized { image }
        }
        other => RegistryError::Unavailable {
            image,
            problem: other.chars().take(80).collect(),
        },
    }
}

#[async_trait]
impl ImageRegistry for Ecr {
    async fn credentials(&self, host: &str) -> Result<Option<Login>, RegistryError> {
        if host == self.host {
            self.login().await.map(Some)
        } else {
            Ok(None)
        }
    }

    async fn resolve(&self, image: &ImageReference) -> Result<String, RegistryError> {
        let name = image.to_string();
        if image.registry() != Some(self.host.as_str()) {
            return Err(RegistryError::Foreign(name));
        }
        let wanted = match image.digest() {
            Some(digest) => ImageIdentifier::builder().image_digest(digest),
            None => ImageIdentifier::builder().image_tag(image.tag().unwrap_or("latest")),
        };
        let asking = self
            .client
            .describe_images()
            .repository_name(image.path())
            .image_ids(wanted.build())
            .send();
        let answer = limited(&name, asking).await?;
        let digest = answer
            .image_details()
            .first()
            .and_then(|d| d.image_digest());
        match digest {
            Some(digest) if image.with_digest(digest).is_ok() => Ok(digest.to_owned()),
            _ => Err(RegistryError::NotFound(name)),
        }
    }
}
