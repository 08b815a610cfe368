//! Repositories, hooks, secrets and tokens.

use std::io::Read as _;

use serde_json::{Value, json};

use super::text;
use crate::client::{Client, Refused, Server};
use crate::exit_code::Exit;
use crate::output;

/// Verbs of repositories.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Repos {
    /// Registers a repository.
    Add {
        /// Its address.
        url: String,
        /// Default branch.
        #[arg(long, default_value = "main")]
        branch: String,
        /// Name for people.
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Lists repositories.
    List,
    /// Makes a webhook endpoint; its secret is shown once.
    Hook {
        /// Address or id of the repository.
        repo: String,
        /// github, gitlab_token, gitlab_signed, gitea, forgejo, bitbucket_cloud, bitbucket_dc, generic.
        #[arg(long, default_value = "github")]
        scheme: String,
    },
}

impl Repos {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        match self {
            Self::Add { url, branch, name } => {
                let body = json!({"repo_url": url, "branch": branch, "name": name});
                let made = client.post("/repositories", body).await?;
                output::data(&text(&made, "repo_id"));
            }
            Self::List => {
                let found = client.get("/repositories").await?;
                let rows: Vec<Vec<String>> = found
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|r| {
                        ["repo_id", "name", "branch", "repo_url"]
                            .map(|f| text(r, f))
                            .to_vec()
                    })
                    .collect();
                output::table(&["repository", "name", "branch", "address"], &rows);
            }
            Self::Hook { repo, scheme } => {
                let id = repo_id(&client, &repo).await?;
                let path = format!("/repositories/{id}/hooks");
                output::json(&client.post(&path, json!({"scheme": scheme})).await?);
            }
        }
        Ok(Exit::Ok)
    }
}

async fn repo_id(client: &Client, named: &str) -> anyhow::Result<String> {
    let found = client.get("/repositories").await?;
    let fits = |r: &&Value| {
        ["repo_id", "repo_url", "name"]
            .iter()
            .any(|field| text(r, field) == named)
    };
    found
        .as_array()
        .and_then(|all| all.iter().find(fits))
        .map(|r| text(r, "repo_id"))
        .ok_or_else(|| {
            Refused {
                status: 404,
                detail: format!("no repository `{named}` is registered"),
            }
            .into()
        })
}

/// Verbs of secrets.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Secret {
    /// Sets a secret to what standard input holds.
    Set {
        /// Address, id or name of the repository.
        repo: String,
        /// The secret's name.
        name: String,
    },
    /// Lists names; values are never shown.
    List {
        /// Address, id or name of the repository.
        repo: String,
    },
}

impl Secret {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        match self {
            Self::Set { repo, name } => {
                let id = repo_id(&client, &repo).await?;
                let mut value = String::new();
                std::io::stdin()
                    .take(64 * 1024 + 1)
                    .read_to_string(&mut value)?;
                let value = value.strip_suffix('\n').unwrap_or(&value);
                let path = format!("/repositories/{id}/secrets/{name}");
                client.put(&path, json!({"value": value})).await?;
                output::say("set");
            }
            Self::List { repo } => {
                let id = repo_id(&client, &repo).await?;
                let names = client.get(&format!("/repositories/{id}/secrets")).await?;
                for name in names.as_array().into_iter().flatten() {
                    output::data(name.as_str().unwrap_or_default());
                }
            }
        }
        Ok(Exit::Ok)
    }
}

/// Verbs of tokens.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Token {
    /// Makes a token, shown once.
    Create {
        /// Whose it is.
        subject: String,
        /// viewer, developer, maintainer, approver, deployer, admin, auditor.
        #[arg(long = "role", required = true)]
        roles: Vec<String>,
    },
    /// Lists tokens.
    List,
    /// Revokes a token.
    Revoke {
        /// Its id.
        token: String,
    },
}

impl Token {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        match self {
            Self::Create { subject, roles } => {
                let body = json!({"subject": subject, "roles": roles});
                let made = client.post("/tokens", body).await?;
                output::data(&text(&made, "token"));
            }
            Self::List => {
                let found = client.get("/tokens").await?;
                let rows: Vec<Vec<String>> = found
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|t| {
                        ["token_id", "subject", "roles", "expires_at", "revoked"]
                            .map(|f| text(t, f))
                            .to_vec()
                    })
                    .collect();
                output::table(&["token", "subject", "roles", "expires", "revoked"], &rows);
            }
            Self::Revoke { token } => {
                client
                    .call(reqwest::Method::DELETE, &format!("/tokens/{token}"), None)
                    .await?;
                output::say("revoked");
            }
        }
        Ok(Exit::Ok)
    }
}
