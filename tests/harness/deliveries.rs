//! Deliveries, signed as each code host signs them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use slipway_daemon::Clock;

use crate::rest::{Answer, Rest};

/// A webhook endpoint, with its secret.
#[derive(Clone, Debug)]
pub struct Hook {
    /// Its id.
    pub id: String,
    /// Its scheme's word.
    pub scheme: String,
    /// What deliveries are signed with.
    pub secret: String,
    /// Where they go.
    pub url: String,
}

/// Every scheme there is.
pub const SCHEMES: [&str; 8] = [
    "github",
    "gitlab_token",
    "gitlab_signed",
    "gitea",
    "forgejo",
    "bitbucket_cloud",
    "bitbucket_dc",
    "generic",
];

/// HMAC-SHA256, hex.
///
/// # Panics
/// Never: HMAC takes keys of any length.
#[must_use]
pub fn hex_mac(secret: &[u8], parts: &[&[u8]]) -> String {
    hex::encode(mac(secret, parts))
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        unreachable!("a key of any length is a key")
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

impl Hook {
    /// The headers of a delivery of this body.
    #[must_use]
    pub fn headers(&self, delivery: &str, body: &[u8]) -> Vec<(String, String)> {
        let plain = hex_mac(self.secret.as_bytes(), &[body]);
        let mut headers: Vec<(&str, String)> = match self.scheme.as_str() {
            "github" => vec![
                ("x-github-event", "push".into()),
                ("x-github-delivery", delivery.into()),
                ("x-hub-signature-256", format!("sha256={plain}")),
            ],
            "gitlab_token" => vec![
                ("x-gitlab-event", "Push Hook".into()),
                ("x-gitlab-event-uuid", delivery.into()),
                ("x-gitlab-token", self.secret.clone()),
            ],
            "gitea" => vec![
                ("x-gitea-event", "push".into()),
                ("x-gitea-delivery", delivery.into()),
                ("x-gitea-signature", plain),
            ],
            "forgejo" => vec![
                ("x-forgejo-event", "push".into()),
                ("x-forgejo-delivery", delivery.into()),
                ("x-forgejo-signature", plain),
            ],
            "bitbucket_cloud" => vec![
                ("x-event-key", "repo:push".into()),
                ("x-request-uuid", delivery.into()),
                ("x-hub-signature", format!("sha256={plain}")),
            ],
            "bitbucket_dc" => vec![
                ("x-event-key", "repo:refs_changed".into()),
                ("x-request-id", delivery.into()),
                ("x-hub-signature", format!("sha256={plain}")),
            ],
            _ => self.standard(delivery, body, Clock::system().now().as_millis() / 1_000),
        };
        headers.push(("content-type", "application/json".into()));
        headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Standard Webhooks, at a time of choice.
    #[must_use]
    pub fn standard(&self, delivery: &str, body: &[u8], at: i64) -> Vec<(&'static str, String)> {
        let timestamp = at.to_string();
        let signature = self.standard_signature(delivery, &timestamp, body);
        let mut headers = vec![
            ("webhook-id", delivery.to_owned()),
            ("webhook-timestamp", timestamp),
            ("webhook-signature", signature),
        ];
        if self.scheme == "gitlab_signed" {
            headers.push(("x-gitlab-event", "Push Hook".to_owned()));
        }
        headers
    }

    /// The value of `webhook-signature`.
    #[must_use]
    pub fn standard_signature(&self, delivery: &str, timestamp: &str, body: &[u8]) -> String {
        let key = self.secret.strip_prefix("whsec_").unwrap_or(&self.secret);
        let key = STANDARD.decode(key).unwrap_or_default();
        let parts = [delivery.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        format!("v1,{}", STANDARD.encode(mac(&key, &parts)))
    }

    /// The host's body for "main moved".
    #[must_use]
    pub fn push_body(&self, before: &str, after: &str) -> Vec<u8> {
        self.push_body_of("refs/heads/main", before, after)
    }

    /// The host's body for "this ref moved".
    #[must_use]
    pub fn push_body_of(&self, name: &str, before: &str, after: &str) -> Vec<u8> {
        let branch = name.strip_prefix("refs/heads/").unwrap_or(name);
        let body: Value = match self.scheme.as_str() {
            "bitbucket_cloud" => json!({
                "repository": {"uuid": "{1}"}, "actor": {"display_name": "Ada"},
                "push": {"changes": [{
                    "new": {"type": "branch", "name": branch, "target": {"hash": after}},
                    "old": {"type": "branch", "name": branch, "target": {"hash": before}},
                }]},
            }),
            "bitbucket_dc" => json!({
                "eventKey": "repo:refs_changed", "repository": {"id": 1},
                "actor": {"name": "ada"},
                "changes": [{
                    "ref": {"id": name, "displayId": branch, "type": "BRANCH"},
                    "refId": name, "fromHash": before, "toHash": after, "type": "UPDATE",
                }],
            }),
            "gitlab_token" | "gitlab_signed" => json!({
                "object_kind": "push", "ref": name, "before": before, "after": after,
                "checkout_sha": after, "project_id": 1, "project": {"id": 1},
                "user_username": "ada", "commits": [{"id": after, "message": "a change"}],
            }),
            _ => json!({
                "ref": name, "before": before, "after": after,
                "repository": {"id": 1, "full_name": "demo/shop"},
                "head_commit": {"id": after, "message": "a change"},
                "sender": {"id": 7, "login": "ada"},
            }),
        };
        body.to_string().into_bytes()
    }

    /// Sends a body with these headers.
    ///
    /// # Errors
    /// When nothing is answered.
    pub async fn send<N: AsRef<str>>(
        &self,
        rest: &Rest,
        headers: &[(N, String)],
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let mut request = rest.http().post(&self.url);
        for (name, value) in headers {
            request = request.header(name.as_ref(), value);
        }
        rest.send(request.body(body)).await
    }

    /// The same hook, delivered to this dispatcher of several.
    #[must_use]
    pub fn at(&self, rest: &Rest) -> Self {
        Self {
            url: format!("{}/webhooks/{}", rest.intake(), self.id),
            ..self.clone()
        }
    }

    /// Signs and sends.
    ///
    /// # Errors
    /// When nothing is answered.
    pub async fn deliver(
        &self,
        rest: &Rest,
        delivery: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let headers = self.headers(delivery, &body);
        self.send(rest, &headers, body).await
    }
}
