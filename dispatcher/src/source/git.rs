//! Commits out of bare mirrors, by the git command, hardened: no hooks, no filters, no work tree,
//! only the transports that the address policy opened, and every name behind `--end-of-options`.

mod files;
mod named;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::process::Command;
use tokio::sync::{Mutex, Semaphore};

use super::{Commit, Source, SourceError, Wanted};
use slipway_core::address::{AddressPolicy, InvalidAddress};
use slipway_core::pipeline::FILE_MAX;
use slipway_daemon::Resolver;

/// The file, and the folder with one pipeline per file.
const FILE: &str = ".slipway.yml";
const FOLDER: &str = ".slipway/";
/// Pipelines of one repository.
const PIPELINES_MAX: usize = 20;
/// Longest talk with a remote.
const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest look into the local object database.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// Fetches at once, over all repositories.
const FETCHES: usize = 8;
/// Output of one git command that is kept.
const OUTPUT_MAX: usize = 32 * 1024 * 1024;
/// Files of one commit that are listed; above, `hash()` and paths say "unknown".
const FILES_MAX: usize = 200_000;

/// Mirrors below one folder.
pub struct GitSource {
    root: PathBuf,
    policy: AddressPolicy,
    resolver: Resolver,
    fetches: Arc<Semaphore>,
    /// One fetch per mirror at a time.
    locks: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    named: named::Cache,
}

impl GitSource {
    /// Mirrors live below `root`.
    #[must_use]
    pub fn new(root: PathBuf, policy: AddressPolicy, resolver: Resolver) -> Self {
        Self {
            root,
            policy,
            resolver,
            fetches: Arc::new(Semaphore::new(FETCHES)),
            locks: Mutex::default(),
            named: named::Cache::default(),
        }
    }

    fn mirror(&self, repo_id: &str) -> PathBuf {
        self.root.join(format!("{repo_id}.git"))
    }

    /// Looks the address's host up, once, and checks everything that it leads to.
    async fn remote(&self, url: &str) -> Result<Remote, SourceError> {
        let refused = |e: InvalidAddress| SourceError::Unavailable(e.to_string());
        let target = self.policy.check(url).map_err(refused)?;
        let found = match target.host() {
            None => Vec::new(),
            Some((name, port)) => {
                let found = self.resolver.addresses(name, port).await;
                found.map_err(|_| refused(InvalidAddress::Unknown))?
            }
        };
        Ok(Remote {
            url: url.to_owned(),
            settings: target.pinned(&found).map_err(refused)?,
        })
    }

    async fn ensure_mirror(&self, repo_id: &str) -> Result<PathBuf, SourceError> {
        let mirror = self.mirror(repo_id);
        if !mirror.join("HEAD").exists() {
            tokio::fs::create_dir_all(&mirror)
                .await
                .map_err(|e| SourceError::Unavailable(e.to_string()))?;
            git(&mirror, &["init", "--quiet", "--bare", "."], READ_TIMEOUT).await?;
        }
        Ok(mirror)
    }

    async fn lock(&self, repo_id: &str) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().await;
        Arc::clone(locks.entry(repo_id.to_owned()).or_default())
    }

    /// Brings the commit into the mirror: by its id where the host allows that, else with its ref.
    async fn bring(&self, mirror: &Path, wanted: &Wanted) -> Result<(), SourceError> {
        if has(mirror, &wanted.sha).await {
            return Ok(());
        }
        let remote = self.remote(&wanted.repo_url).await?;
        let _permit = self.fetches.acquire().await;
        let by_id = fetch(mirror, &remote, &wanted.sha, true).await;
        if by_id.is_ok() && has(mirror, &wanted.sha).await {
            return Ok(());
        }
        let refspec = format!("+{}:refs/slipway/incoming", wanted.ref_name);
        match fetch(mirror, &remote, &refspec, false).await {
            Err(SourceError::CommitGone) => Err(SourceError::CommitGone),
            Err(other) => Err(other),
            Ok(()) if has(mirror, &wanted.sha).await => Ok(()),
            Ok(()) => Err(SourceError::CommitGone),
        }
    }
}

/// A repository whose address was checked.
struct Remote {
    url: String,
    /// Under which git connects to what was checked.
    settings: Vec<String>,
}

async fn fetch(
    mirror: &Path,
    remote: &Remote,
    what: &str,
    shallow: bool,
) -> Result<(), SourceError> {
    let mut args = vec![
        "fetch",
        "--quiet",
        "--no-tags",
        "--no-write-fetch-head",
        "--force",
    ];
    if shallow {
        args.push("--depth=1");
    }
    args.extend(["--end-of-options", &remote.url, what]);
    let fetched = git_at(mirror, &remote.settings, &args, FETCH_TIMEOUT).await;
    fetched.map(|_| ())
}

async fn has(mirror: &Path, sha: &str) -> bool {
    let object = format!("{sha}^{{commit}}");
    git(mirror, &["cat-file", "-e", &object], READ_TIMEOUT)
        .await
        .is_ok()
}

/// Runs git on the mirror alone.
async fn git(mirror: &Path, args: &[&str], limit: Duration) -> Result<Vec<u8>, SourceError> {
    git_at(mirror, &[], args, limit).await
}

/// Runs git; what it says on its error output decides between "gone" and "unavailable".
async fn git_at(
    mirror: &Path,
    settings: &[String],
    args: &[&str],
    limit: Duration,
) -> Result<Vec<u8>, SourceError> {
    let mut command = Command::new("git");
    for setting in [
        "protocol.allow=never",
        "protocol.https.allow=always",
        "protocol.ssh.allow=always",
        // The address policy has already said yes to these.
        "protocol.http.allow=always",
        "protocol.file.allow=always",
        "http.followRedirects=false",
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.askPass=true",
        "fetch.fsckObjects=true",
        "gc.auto=0",
        "maintenance.auto=false",
        "safe.bareRepository=all",
        "safe.directory=*",
    ] {
        command.args(["-c", setting]);
    }
    for setting in settings {
        command.args(["-c", setting]);
    }
    command
        .arg("--git-dir=.")
        .args(args)
        .current_dir(mirror)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(limit, command.output()).await {
        Err(_) => return Err(SourceError::Unavailable("git took too long".into())),
        Ok(Err(e)) => return Err(SourceError::Unavailable(format!("cannot start git: {e}"))),
        Ok(Ok(output)) => output,
    };
    if output.stdout.len() > OUTPUT_MAX {
        return Err(SourceError::Unreadable(
            "the commit lists too many files".into(),
        ));
    }
    // A search that finds nothing is no failure.
    let nothing_found = args.first() == Some(&"grep") && output.status.code() == Some(1);
    if output.status.success() || nothing_found {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let gone = [
        "not our ref",
        "couldn't find remote ref",
        "Not a valid object",
        "bad object",
    ];
    if gone.iter().any(|word| said.contains(word)) {
        return Err(SourceError::CommitGone);
    }
    tracing::debug!(%said, "git refused");
    Err(SourceError::Unavailable(class_of(&said).to_owned()))
}

/// The class of a failure; the remote's own words are not repeated to users.
fn class_of(said: &str) -> &'static str {
    let classes = [
        (
            "Authentication failed",
            "the repository asks for credentials",
        ),
        (
            "could not read Username",
            "the repository asks for credentials",
        ),
        ("Permission denied", "the repository refuses us"),
        ("not found", "there is no such repository"),
        (
            "does not appear to be a git repository",
            "there is no such repository",
        ),
        ("not allowed", "the transport is not allowed"),
        ("Could not resolve host", "the host name does not resolve"),
        ("Connection refused", "the host refuses connections"),
    ];
    classes
        .iter()
        .find(|(word, _)| said.contains(word))
        .map_or("the repository cannot be read", |(_, class)| class)
}

#[async_trait]
impl Source for GitSource {
    async fn commit(&self, wanted: &Wanted) -> Result<Commit, SourceError> {
        let lock = self.lock(&wanted.repo_id).await;
        let _held = lock.lock().await;
        let mirror = self.ensure_mirror(&wanted.repo_id).await?;
        self.bring(&mirror, wanted).await?;
        let mut commit = read_head(&mirror, &wanted.sha).await?;
        let listing = list(&mirror, &wanted.sha).await?;
        for (path, entry) in &listing {
            if let Some(name) = pipeline_name(path) {
                let text = read_file(&mirror, path, entry).await?;
                commit.pipelines.push((name, text));
            }
        }
        commit.pipelines.truncate(PIPELINES_MAX);
        if let Some(before) = &wanted.before {
            if !has(&mirror, before).await
                && let Ok(remote) = self.remote(&wanted.repo_url).await
            {
                let _best_effort = fetch(&mirror, &remote, before, true).await;
            }
            commit.changed = changed(&mirror, before, &wanted.sha).await;
        }
        commit.named = self.named.of(&mirror, &commit.tree).await;
        let listed = listing.len();
        if listed <= FILES_MAX {
            for (path, entry) in listing {
                if entry.mode != "100644" {
                    commit.modes.insert(path.clone(), entry.mode);
                }
                commit.files.insert(path, entry.id);
            }
        }
        // Two names that differ only in what is no text would be taken for one file.
        if commit.files.len() < listed {
            commit.files.clear();
        }
        Ok(commit)
    }

    async fn files(
        &self,
        wanted: &Wanted,
        path: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        let lock = self.lock(&wanted.repo_id).await;
        let _held = lock.lock().await;
        let mirror = self.ensure_mirror(&wanted.repo_id).await?;
        self.bring(&mirror, wanted).await?;
        files::below(&mirror, &wanted.sha, path).await
    }

    async fn heads(
        &self,
        repo_id: &str,
        repo_url: &str,
    ) -> Result<Vec<(String, String)>, SourceError> {
        let remote = self.remote(repo_url).await?;
        let mirror = self.ensure_mirror(repo_id).await?;
        let _permit = self.fetches.acquire().await;
        let args = [
            "ls-remote",
            "--quiet",
            "--heads",
            "--tags",
            "--refs",
            "--end-of-options",
            &remote.url,
        ];
        let listed = git_at(&mirror, &remote.settings, &args, FETCH_TIMEOUT).await?;
        let text = String::from_utf8_lossy(&listed);
        Ok(text
            .lines()
            .filter_map(|line| {
                let (sha, name) = line.split_once('\t')?;
                Some((name.to_owned(), sha.to_owned()))
            })
            .collect())
    }

    async fn is_ancestor(&self, wanted: &Wanted, older: &str, newer: &str) -> Option<bool> {
        let lock = self.lock(&wanted.repo_id).await;
        let _held = lock.lock().await;
        let mirror = self.ensure_mirror(&wanted.repo_id).await.ok()?;
        let remote = self.remote(&wanted.repo_url).await.ok()?;
        // Ancestry needs history: what was fetched by id is one commit deep.
        let refspec = format!("+{}:refs/slipway/history", wanted.ref_name);
        let args = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--force",
            "--unshallow",
            "--end-of-options",
            &remote.url,
            &refspec,
        ];
        let whole = git_at(&mirror, &remote.settings, &args, FETCH_TIMEOUT).await;
        if whole.is_err() {
            fetch(&mirror, &remote, &refspec, false).await.ok()?;
        }
        let args = ["merge-base", "--is-ancestor", older, newer];
        match git(&mirror, &args, READ_TIMEOUT).await {
            Ok(_) => Some(true),
            Err(_) if has(&mirror, older).await && has(&mirror, newer).await => Some(false),
            Err(_) => None,
        }
    }
}

fn pipeline_name(path: &str) -> Option<String> {
    if path == FILE {
        return Some("default".to_owned());
    }
    let name = path.strip_prefix(FOLDER)?;
    let name = name
        .strip_suffix(".yml")
        .or_else(|| name.strip_suffix(".yaml"))?;
    (!name.contains('/')).then(|| name.to_owned())
}

async fn read_head(mirror: &Path, sha: &str) -> Result<Commit, SourceError> {
    let args = [
        "show",
        "-s",
        "--format=%ct%x00%an%x00%T%x00%B",
        "--no-show-signature",
        sha,
    ];
    let out = git(mirror, &args, READ_TIMEOUT).await?;
    let text = String::from_utf8_lossy(&out);
    let mut parts = text.splitn(4, '\0');
    let time = parts.next().unwrap_or_default();
    let author = parts.next().unwrap_or_default();
    let tree = parts.next().unwrap_or_default();
    let message = parts.next().unwrap_or_default().trim();
    Ok(Commit {
        time_s: time.trim().parse().unwrap_or(0),
        author: author.chars().take(200).collect(),
        message: message.chars().take(8_000).collect(),
        tree: tree.to_owned(),
        ..Commit::default()
    })
}

struct Entry {
    mode: String,
    id: String,
}

async fn list(mirror: &Path, sha: &str) -> Result<Vec<(String, Entry)>, SourceError> {
    let out = git(mirror, &["ls-tree", "-r", "-z", sha], READ_TIMEOUT).await?;
    Ok(out
        .split(|b| *b == 0)
        .filter_map(|line| {
            let line = String::from_utf8_lossy(line);
            let (head, path) = line.split_once('\t')?;
            let mut head = head.split(' ');
            let mode = head.next()?.to_owned();
            let id = head.nth(1)?.to_owned();
            Some((path.to_owned(), Entry { mode, id }))
        })
        .collect())
}

async fn read_file(mirror: &Path, path: &str, entry: &Entry) -> Result<String, SourceError> {
    if entry.mode != "100644" && entry.mode != "100755" {
        return Err(SourceError::NotAFile(path.to_owned()));
    }
    let size = git(mirror, &["cat-file", "-s", &entry.id], READ_TIMEOUT).await?;
    let size: usize = String::from_utf8_lossy(&size)
        .trim()
        .parse()
        .unwrap_or(usize::MAX);
    if size > FILE_MAX {
        let why = format!("{path} has {size} bytes; at most {FILE_MAX}");
        return Err(SourceError::Unreadable(why));
    }
    let bytes = git(mirror, &["cat-file", "blob", &entry.id], READ_TIMEOUT).await?;
    String::from_utf8(bytes).map_err(|_| SourceError::Unreadable(format!("{path} is not UTF-8")))
}

async fn changed(mirror: &Path, before: &str, after: &str) -> Option<Vec<String>> {
    let args = [
        "diff-tree",
        "-r",
        "-z",
        "--name-only",
        "--no-renames",
        before,
        after,
    ];
    let out = git(mirror, &args, READ_TIMEOUT).await.ok()?;
    let paths: Vec<String> = out
        .split(|b| *b == 0)
        .filter(|path| !path.is_empty())
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect();
    Some(paths)
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
