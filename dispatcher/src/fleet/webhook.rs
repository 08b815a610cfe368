//! Machines by an HTTP call: the same JSON as for a program, signed with HMAC-SHA256 over the time and
//! the body, so that an old call cannot be sent again by somebody who saw it.

use std::time::Duration;

use async_trait::async_trait;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use slipway_core::fleet::Listing;
use slipway_daemon::Clock;

use super::signed::{self, ANSWER_MAX, Question};
use super::{FleetProvider, Order, ProviderError, Target};

/// A call's whole time.
const LIMIT: Duration = Duration::from_secs(60);
/// Until the other side takes the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// The address of one pool.
pub struct Webhook {
    url: String,
    key: Vec<u8>,
    installation: String,
    pool: String,
    clock: Clock,
    http: reqwest::Client,
}

/// Hex of HMAC-SHA256 over `<seconds since 1970>.<body>`.
#[must_use]
pub fn signature(key: &[u8], seconds: i64, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return String::new();
    };
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

impl Webhook {
    /// Calls `url`, signed with `key`.
    ///
    /// # Errors
    /// When there can be no client.
    pub fn new(
        url: &str,
        key: Vec<u8>,
        installation: &str,
        pool: &str,
        clock: Clock,
    ) -> Result<Self, ProviderError> {
        let http = reqwest::Client::builder()
            // A signed question goes to the address that was allowed, and to no other.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(LIMIT)
            .build()
            .map_err(ProviderError::new)?;
        Ok(Self {
            url: url.to_owned(),
            key,
            installation: installation.to_owned(),
            pool: pool.to_owned(),
            clock,
            http,
        })
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Vec<u8>, ProviderError> {
        let body = question.body()?;
        let failed = |why: String| ProviderError::new(format!("{}: {why}", self.url));
        let seconds = self.clock.now().as_millis() / 1_000;
        let signed = format!("sha256={}", signature(&self.key, seconds, &body));
        let mut answer = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("x-slipway-timestamp", seconds.to_string())
            .header("x-slipway-signature", signed)
            .header("idempotency-key", question.key())
            .body(body)
            .send()
            .await
            .map_err(|e| failed(e.without_url().to_string()))?;
        let status = answer.status();
        let mut read = Vec::new();
        while let Some(chunk) = answer
            .chunk()
            .await
            .map_err(|e| failed(e.without_url().to_string()))?
        {
            if read.len() + chunk.len() > ANSWER_MAX {
                return Err(failed(format!("more than {ANSWER_MAX} bytes")));
            }
            read.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(read);
        }
        let words = String::from_utf8_lossy(&read[..read.len().min(300)]).into_owned();
        Err(failed(format!("{status}: {words}")))
    }
}

#[async_trait]
impl FleetProvider for Webhook {
    async fn list(&self) -> Result<Listing, ProviderError> {
        let question = Question::list(&self.installation, &self.pool);
        signed::listing(&self.ask(&question).await?)
    }

    async fn start(&self, order: &Order) -> Result<String, ProviderError> {
        let question = Question::start(&self.installation, &self.pool, order);
        signed::started(&self.ask(&question).await?)
    }

    async fn stop(&self, target: &Target) -> Result<(), ProviderError> {
        let question = Question::stop(&self.installation, &self.pool, target);
        self.ask(&question).await.map(|_| ())
    }
}
