//! Questions to the REST API.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use reqwest::Method;
use serde_json::{Value, json};
use slipway_core::queue::Unfit;

use crate::deliveries::Hook;
use crate::wait::eventually;

/// A client with one token.
#[derive(Clone)]
pub struct Rest {
    /// `http://…`, without a path.
    pub base: String,
    /// Where webhooks go.
    pub intake: String,
    http: reqwest::Client,
    /// The administrator's token.
    pub token: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body, or `null` when it is not JSON.
    pub json: Value,
    /// The body.
    pub text: String,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
}

impl Answer {
    /// The problem's word.
    #[must_use]
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }
}

/// `; stage X waits: …` of a row of the queue.
fn waits_because(row: &Value) -> String {
    let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let (stage, reason) = (text("stage_name"), text("reason"));
    let full = reason == Unfit::DiskFull.to_string();
    let word = if full { "DiskFull: " } else { "" };
    format!("; stage {stage} waits: {word}{reason}")
}

impl Rest {
    /// Where webhooks go.
    #[must_use]
    pub fn intake(&self) -> &str {
        &self.intake
    }

    /// A client of a running system.
    #[must_use]
    pub fn new(rest: SocketAddr, intake: SocketAddr, token: &str) -> Self {
        slipway_daemon::start::install_crypto();
        let timeout = Duration::from_secs(60);
        let http = reqwest::Client::builder().timeout(timeout).build();
        Self {
            base: format!("http://{rest}"),
            intake: format!("http://{intake}"),
            http: http.unwrap_or_default(),
            token: token.to_owned(),
        }
    }

    /// The same with another token.
    #[must_use]
    pub fn with(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// Its token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A request below `/api/v1`, not sent yet.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/api/v1{path}", self.base);
        self.http.request(method, url).bearer_auth(&self.token)
    }

    /// Sends a request, whatever is answered.
    ///
    /// # Errors
    /// When nothing is answered.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer {
            status,
            json,
            text,
            headers,
        })
    }

    /// Any call, whatever is answered.
    ///
    /// # Errors
    /// When nothing is answered.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Answer> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    async fn good(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let words = format!("{method} {path}");
        let answer = self.call(method, path, body).await?;
        ensure!(
            (200..300).contains(&answer.status),
            "{words}: {} {}",
            answer.status,
            answer.text
        );
        Ok(answer.json)
    }

    /// Reads.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.good(Method::GET, path, None).await
    }

    /// Creates.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.good(Method::POST, path, Some(body)).await
    }

    /// Sets.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn put(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.good(Method::PUT, path, Some(body)).await
    }

    /// A client with a new token of these roles.
    ///
    /// # Errors
    /// When this client may not make tokens.
    pub async fn as_role(&self, subject: &str, roles: &[&str]) -> anyhow::Result<Self> {
        let made = self
            .post("/tokens", json!({"subject": subject, "roles": roles}))
            .await?;
        Ok(self.with(made["token"].as_str().unwrap_or_default()))
    }

    /// Registers a repository; answers with its id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn add_repository(&self, url: &str) -> anyhow::Result<String> {
        let made = self.post("/repositories", json!({"repo_url": url})).await?;
        Ok(made["repo_id"].as_str().unwrap_or_default().to_owned())
    }

    /// Makes a hook of a repository.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn add_hook(&self, repo: &str, scheme: &str) -> anyhow::Result<Hook> {
        let path = format!("/repositories/{repo}/hooks");
        let made = self.post(&path, json!({"scheme": scheme})).await?;
        let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
        Ok(Hook {
            id: text("hook_id"),
            scheme: scheme.to_owned(),
            secret: text("secret"),
            url: format!("{}{}", self.intake, text("url")),
        })
    }

    /// A delivery's row as listed, by the host's delivery id.
    ///
    /// # Errors
    /// When the list is refused.
    pub async fn delivery(&self, hook: &Hook, host_id: &str) -> anyhow::Result<Option<Value>> {
        let rows = self.get(&format!("/hooks/{}/deliveries", hook.id)).await?;
        let mut rows = rows.as_array().into_iter().flatten();
        Ok(rows.find(|row| row["delivery_id"] == host_id).cloned())
    }

    /// Waits until a delivery has its final decision.
    ///
    /// # Errors
    /// When it has none at the limit.
    pub async fn decided(
        &self,
        hook: &Hook,
        host_id: &str,
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let what = format!("delivery {host_id} is decided");
        self.reaches(&what, limit, || async {
            let row = self.delivery(hook, host_id).await.ok()??;
            (row["state"] != "pending").then_some(row)
        })
        .await
    }

    /// Waits until a build has ended.
    ///
    /// # Errors
    /// When it has not at the limit.
    pub async fn build_ended(&self, build: &str, limit: Duration) -> anyhow::Result<Value> {
        let what = format!("build {build} ends");
        self.reaches(&what, limit, || async {
            let found = self.get(&format!("/builds/{build}")).await.ok()?;
            let status = found["status"].as_str()?;
            (!matches!(status, "queued" | "building")).then_some(found)
        })
        .await
    }

    /// Waits until a stage of a build has this status.
    ///
    /// # Errors
    /// When it has not at the limit.
    pub async fn stage_is(
        &self,
        build: &str,
        stage: &str,
        status: &str,
        limit: Duration,
    ) -> anyhow::Result<Value> {
        let what = format!("stage {stage} of {build} is {status}");
        self.reaches(&what, limit, || async {
            let found = self.get(&format!("/builds/{build}")).await.ok()?;
            let stages = found["stages"].as_array()?.clone();
            let mut named = stages.into_iter().filter(|s| s["stage_name"] == stage);
            named.next().filter(|s| s["status"] == status)
        })
        .await
    }

    /// Waits until a deployment has ended.
    ///
    /// # Errors
    /// When it has not at the limit.
    pub async fn deployment_ended(&self, id: &str, limit: Duration) -> anyhow::Result<Value> {
        let what = format!("deployment {id} ends");
        self.reaches(&what, limit, || async {
            let found = self.get(&format!("/deployments/{id}")).await.ok()?;
            let status = found["status"].as_str()?;
            matches!(status, "completed" | "failed" | "rolled_back").then_some(found)
        })
        .await
    }

    /// Waits like `eventually`; at the limit it adds why stages wait for an agent. A full disk looks
    /// like a slow machine otherwise.
    async fn reaches<T, F, Fut>(&self, what: &str, limit: Duration, ask: F) -> anyhow::Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Option<T>>,
    {
        match eventually(what, limit, ask).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(anyhow::anyhow!("{error:#}{}", self.why_waiting().await)),
        }
    }

    /// The planner's reasons, each with the word of the one that only this machine's owner can help.
    async fn why_waiting(&self) -> String {
        let Ok(queue) = self.get("/queue").await else {
            return "; the queue cannot be read".to_owned();
        };
        let stages = queue.as_array().into_iter().flatten();
        stages.map(waits_because).collect()
    }

    /// The underlying client, for raw requests.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_a_full_disk_prolongs_says_so() {
        let row = json!({"stage_name": "test", "reason": Unfit::DiskFull.to_string()});
        let said = waits_because(&row);
        assert!(
            said.contains("stage test waits: DiskFull: less than"),
            "{said}"
        );
        let row = json!({"stage_name": "test", "reason": "no agent is connected"});
        assert!(!waits_because(&row).contains("DiskFull"));
    }
}
