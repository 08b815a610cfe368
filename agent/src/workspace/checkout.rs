//! Fetching the exact commit. git runs hardened, in a fresh folder of ours, and never again on what a
//! stage has touched; its own folder is removed before anything else sees the files.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use slipway_core::address::{AddressPolicy, InvalidAddress};
use slipway_daemon::Resolver;
use tokio::process::Command;

/// Longest fetch.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// Why a commit is not here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// The repository does not have it (any more); no other is taken instead.
    #[error("commit_gone: the repository does not have commit {0}")]
    CommitGone(String),
    /// The address is neither https nor ssh nor on the administrator's list, or leads inside.
    #[error("the repository address is not allowed on this agent: {0}")]
    NotAllowed(#[from] InvalidAddress),
    /// git failed.
    #[error("the repository cannot be fetched: {0}")]
    Failed(String),
}

/// What to fetch.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Address.
    pub url: &'a str,
    /// Full commit id.
    pub sha: &'a str,
    /// Full ref that holds it.
    pub ref_name: &'a str,
    /// 0 = everything.
    pub depth: u32,
    /// Addresses allowed besides https and ssh.
    pub allowed: &'a [String],
    /// Who knows the host's addresses.
    pub resolver: &'a Resolver,
}

/// Lays the commit's files out in `dir`, which must be fresh.
///
/// # Errors
/// Why not.
pub async fn checkout(dir: &Path, wanted: &Wanted<'_>) -> Result<(), CheckoutError> {
    let settings = settings(wanted).await?;
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if !matches!(wanted.sha.len(), 40 | 64) || !wanted.sha.bytes().all(hex) {
        return Err(CheckoutError::CommitGone("(not an id)".to_owned()));
    }
    let git = async |args: &[&str]| git(dir, &settings, args).await;
    git(&["init", "--quiet", "."]).await?;
    let depth = format!("--depth={}", wanted.depth);
    let mut by_id = vec!["fetch", "--quiet", "--no-tags"];
    if wanted.depth > 0 {
        by_id.push(&depth);
    }
    by_id.extend(["--end-of-options", wanted.url, wanted.sha]);
    if git(&by_id).await.is_err() {
        // Not every host gives out a commit by its id: then with its ref, whole.
        let refspec = format!("+{}:refs/slipway/incoming", wanted.ref_name);
        let with_ref = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--end-of-options",
            wanted.url,
            &refspec,
        ];
        git(&with_ref).await?;
    }
    let commit = format!("{}^{{commit}}", wanted.sha);
    if git(&["cat-file", "-e", &commit]).await.is_err() {
        return Err(CheckoutError::CommitGone(wanted.sha.to_owned()));
    }
    git(&["checkout", "--quiet", "--detach", wanted.sha]).await?;
    tokio::fs::remove_dir_all(dir.join(".git"))
        .await
        .map_err(|e| CheckoutError::Failed(e.to_string()))
}

/// The address is checked here as well: an agent believes no dispatcher about its own network.
async fn settings(wanted: &Wanted<'_>) -> Result<Vec<String>, CheckoutError> {
    let policy = AddressPolicy {
        allowed_prefixes: wanted.allowed.to_vec(),
    };
    let target = policy.check(wanted.url)?;
    let found = match target.host() {
        None => Vec::new(),
        Some((name, port)) => {
            let found = wanted.resolver.addresses(name, port).await;
            found.map_err(|_| InvalidAddress::Unknown)?
        }
    };
    Ok(target.pinned(&found)?)
}

async fn git(dir: &Path, settings: &[String], args: &[&str]) -> Result<(), CheckoutError> {
    let mut command = Command::new("git");
    for setting in [
        "protocol.allow=never",
        "protocol.https.allow=always",
        "protocol.ssh.allow=always",
        // Only addresses that passed the list come here.
        "protocol.http.allow=always",
        "protocol.file.allow=always",
        "http.followRedirects=false",
        "core.hooksPath=/dev/null",
        "core.fsmonitor=false",
        "core.symlinks=true",
        "core.autocrlf=false",
        "core.protectHFS=true",
        "core.protectNTFS=true",
        "fetch.fsckObjects=true",
        "submodule.recurse=false",
        "filter.lfs.smudge=",
        "filter.lfs.process=",
        "filter.lfs.required=false",
        "gc.auto=0",
        "advice.detachedHead=false",
        "init.defaultBranch=slipway",
        "safe.directory=*",
    ] {
        command.args(["-c", setting]);
    }
    for setting in settings {
        command.args(["-c", setting]);
    }
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_LFS_SKIP_SMUDGE", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(FETCH_LIMIT, command.output()).await {
        Err(_) => {
            return Err(CheckoutError::Failed(
                "git took longer than 10 min".to_owned(),
            ));
        }
        Ok(Err(e)) => return Err(CheckoutError::Failed(format!("cannot start git: {e}"))),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("git failed");
    Err(CheckoutError::Failed(last.chars().take(300).collect()))
}

#[cfg(test)]
#[path = "checkout_hostile_tests.rs"]
mod hostile_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn commit_in(dir: &Path) -> String {
        let git = |args: &[&str]| {
            let out = std::process::Command::new("git")
                .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
                .args(args)
                .current_dir(dir)
                .output()
                .unwrap();
            assert!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "-q", "-b", "main", "."]);
        std::fs::write(dir.join("file"), "1").unwrap();
        std::fs::write(dir.join(".gitattributes"), "* filter=evil\n").unwrap();
        git(&["add", "-A"]);
        git(&["commit", "-qm", "first"]);
        let first = git(&["rev-parse", "HEAD"]);
        std::fs::write(dir.join("file"), "2").unwrap();
        git(&["commit", "-qam", "second"]);
        first
    }

    #[tokio::test]
    async fn the_exact_commit_is_laid_out_without_gits_own_folder() {
        let source = tempfile::tempdir().unwrap();
        let sha = commit_in(source.path());
        let url = format!("file://{}", source.path().display());
        let target = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            url: &url,
            sha: &sha,
            ref_name: "refs/heads/main",
            depth: 1,
            allowed: std::slice::from_ref(&url),
            resolver: &Resolver::system(),
        };
        checkout(target.path(), &wanted).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(target.path().join("file")).unwrap(),
            "1"
        );
        assert!(!target.path().join(".git").exists());
    }

    #[tokio::test]
    async fn hostile_h027_a_missing_commit_is_gone_and_a_strange_address_is_refused() {
        let source = tempfile::tempdir().unwrap();
        commit_in(source.path());
        let url = format!("file://{}", source.path().display());
        let target = tempfile::tempdir().unwrap();
        let missing = "1".repeat(40);
        let mut wanted = Wanted {
            url: &url,
            sha: &missing,
            ref_name: "refs/heads/main",
            depth: 1,
            allowed: std::slice::from_ref(&url),
            resolver: &Resolver::system(),
        };
        let got = checkout(target.path(), &wanted).await;
        assert_eq!(got, Err(CheckoutError::CommitGone(missing.clone())));
        wanted.allowed = &[];
        let got = checkout(target.path(), &wanted).await;
        let refused = CheckoutError::NotAllowed(InvalidAddress::Scheme);
        assert_eq!(got, Err(refused));
    }
}
