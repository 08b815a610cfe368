//! Talking to a server's REST API.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::exit_code::Exit;

/// Where `slipway up` leaves its token, below its data folder.
pub(crate) const TOKEN_FILE: &str = "admin.token";

/// Which server, and who we are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Server {
    /// Address of the server.
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_SERVER",
        default_value = "http://127.0.0.1:7700"
    )]
    pub(crate) server: String,
    /// API token; without it the one that `slipway up` left in its data folder.
    #[arg(long, global = true, env = "SLIPWAY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Data folder of `slipway up`.
    #[arg(
        long,
        global = true,
        env = "SLIPWAY_DATA_DIR",
        default_value = "slipway-data"
    )]
    pub(crate) data_dir: PathBuf,
}

impl Server {
    /// Who we are.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        match &self.token {
            Some(token) => Ok(token.clone()),
            None => read_token(&self.data_dir),
        }
    }
}

/// A refusal that the user can do something about.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) detail: String,
}

impl Refused {
    /// The exit code for it.
    pub(crate) fn exit(&self) -> Exit {
        match self.status {
            401 | 403 => Exit::Auth,
            404 => Exit::NotFound,
            _ => Exit::Failure,
        }
    }
}

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    /// For the server that the flags name.
    pub(crate) fn new(server: &Server) -> anyhow::Result<Self> {
        Self::with(&server.server, server.token()?)
    }

    /// For an address and a token.
    pub(crate) fn with(base: &str, token: String) -> anyhow::Result<Self> {
        slipway_daemon::start::install_crypto();
        Ok(Self {
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(std::time::Duration::from_secs(5))
                .build()?,
            base: base.trim_end_matches('/').to_owned(),
            token,
        })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}/api/v1{path}", self.base))
            .bearer_auth(&self.token)
    }

    /// Sends a request and reads its JSON answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("no answer from {}; is `slipway up` running?", self.base))?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if status.is_success() {
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&bytes).context("the answer is not JSON");
        }
        Err(refused(status, &bytes).into())
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn events(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        let response = self.request(Method::GET, path).send().await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await?;
        Err(refused(status, &bytes).into())
    }
}

fn refused(status: StatusCode, bytes: &[u8]) -> Refused {
    let problem: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let detail = problem["detail"]
        .as_str()
        .map_or_else(|| format!("the server answered {status}"), str::to_owned);
    let code = problem["code"].as_str().unwrap_or_default();
    Refused {
        status: status.as_u16(),
        detail: if code.is_empty() {
            detail
        } else {
            format!("{detail} ({code})")
        },
    }
}

fn read_token(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(TOKEN_FILE);
    let token = std::fs::read_to_string(&path).map_err(|_| Refused {
        status: 401,
        detail: format!(
            "no token: give --token or SLIPWAY_TOKEN, or run where `slipway up` left {}",
            path.display()
        ),
    })?;
    Ok(token.trim().to_owned())
}
