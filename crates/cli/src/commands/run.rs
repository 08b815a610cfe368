//! `slipway run`: the local checkout through the same engine, without a server. The files as they are
//! (uncommitted ones too, ignored ones not) become a commit of a temporary repository, which a whole
//! system on free ports builds; nothing is deployed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::json;
use slipway_daemon::Shutdown;

use super::builds::{exit_of, follow, show};
use super::text;
use crate::client::Client;
use crate::embedded::{Embedded, Options};
use crate::exit_code::Exit;
use crate::output;

/// Flags of `slipway run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The checkout.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Name of the branch to build as.
    #[arg(long, default_value = "main")]
    branch: String,
    /// Values of declared variables, `NAME=value`.
    #[arg(long = "env")]
    variables: Vec<String>,
    /// Values for `from_secret`, `NAME=value`.
    #[arg(long = "secrets")]
    secrets: Vec<String>,
}

fn pairs(given: &[String]) -> anyhow::Result<Vec<(&str, &str)>> {
    given
        .iter()
        .map(|pair| {
            pair.split_once('=')
                .with_context(|| format!("`{pair}` is not NAME=value"))
        })
        .collect()
}

impl Run {
    pub(crate) async fn execute(self) -> anyhow::Result<Exit> {
        slipway_daemon::telemetry::init("warn", slipway_daemon::telemetry::LogFormat::Text);
        let temporary = Temporary::new()?;
        let repository = temporary.0.join("repository");
        snapshot(&self.dir, &repository, &self.branch)?;
        let url = format!("file://{}", repository.display());
        let options = Options {
            allowed_sources: vec![url.clone()],
            slots: 0,
            ..Options::in_dir(&temporary.0.join("data"))
        };
        let shutdown = Shutdown::new();
        let up = Embedded::start(options, shutdown).await?;
        let client = Client::with(&format!("http://{}", up.rest), up.token.clone())?;
        let outcome = self.build(&client, &url).await;
        up.stop().await;
        outcome
    }

    async fn build(&self, client: &Client, url: &str) -> anyhow::Result<Exit> {
        let body = json!({"repo_url": url, "branch": self.branch, "name": "local"});
        let repo = client.post("/repositories", body).await?;
        for (name, value) in pairs(&self.secrets)? {
            let path = format!("/repositories/{}/secrets/{name}", text(&repo, "repo_id"));
            client.put(&path, json!({"value": value})).await?;
        }
        let variables: serde_json::Map<String, serde_json::Value> = pairs(&self.variables)?
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let body = json!({"repo_url": url, "branch": self.branch, "trigger_type": "manual", "variables": variables});
        let build = text(&client.post("/builds", body).await?, "build_id");
        follow(client, &build, None).await?;
        let found = client.get(&format!("/builds/{build}")).await?;
        show(&found);
        Ok(exit_of(&text(&found, "status")))
    }
}

/// A folder that goes with the command.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> anyhow::Result<Self> {
        let name = slipway_daemon::Rng::system().number();
        let dir = std::env::temp_dir().join(format!("slipway-run-{name:016x}"));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            output::say(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

/// Makes a repository with one commit of the files as they are.
fn snapshot(dir: &Path, repository: &Path, branch: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(repository)?;
    let list = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let listed = Command::new("git").args(list).current_dir(dir).output()?;
    anyhow::ensure!(
        listed.status.success(),
        "{} is not a git checkout: {}",
        dir.display(),
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    for name in listed.stdout.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        use std::os::unix::ffi::OsStrExt as _;
        let name = Path::new(std::ffi::OsStr::from_bytes(name));
        let (from, to) = (dir.join(name), repository.join(name));
        let Ok(meta) = from.symlink_metadata() else {
            continue;
        };
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if meta.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from)?, &to)?;
        } else if meta.is_file() {
            std::fs::copy(&from, &to)?;
        }
    }
    for args in [
        &["init", "-q", "-b", branch, "."][..],
        &["add", "-A", "-f"],
        &[
            "-c",
            "user.name=local",
            "-c",
            "user.email=local@localhost",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "local checkout",
        ],
    ] {
        let done = Command::new("git")
            .args(args)
            .current_dir(repository)
            .output()?;
        anyhow::ensure!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
    }
    Ok(())
}
