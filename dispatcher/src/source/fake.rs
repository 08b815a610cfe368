//! Commits in memory, for tests and benches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Commit, Source, SourceError, Wanted};

#[derive(Default)]
struct Inner {
    commits: BTreeMap<String, Commit>,
    files: BTreeMap<(String, String), Vec<u8>>,
    heads: BTreeMap<String, Vec<(String, String)>>,
    ancestors: Vec<(String, String)>,
    broken: bool,
    poison: Option<String>,
}

/// Repositories made of what was put in. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub struct FakeSource(Arc<Mutex<Inner>>);

impl FakeSource {
    /// No commits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a commit.
    pub fn put(&self, sha: &str, commit: Commit) {
        self.with(|inner| inner.commits.insert(sha.to_owned(), commit));
    }

    /// Adds a file to a commit.
    pub fn put_file(&self, sha: &str, path: &str, content: &[u8]) {
        let key = (sha.to_owned(), path.to_owned());
        self.with(|inner| inner.files.insert(key, content.to_owned()));
    }

    /// Sets a ref of a repository address.
    pub fn set_head(&self, repo_url: &str, ref_name: &str, sha: &str) {
        self.with(|inner| {
            let heads = inner.heads.entry(repo_url.to_owned()).or_default();
            heads.retain(|(known, _)| known != ref_name);
            heads.push((ref_name.to_owned(), sha.to_owned()));
        });
    }

    /// Says that one commit is an ancestor of another.
    pub fn set_ancestor(&self, older: &str, newer: &str) {
        self.with(|inner| inner.ancestors.push((older.to_owned(), newer.to_owned())));
    }

    /// Makes reading this commit bring its reader down.
    pub fn set_poison(&self, sha: &str) {
        self.with(|inner| inner.poison = Some(sha.to_owned()));
    }

    /// Makes every call fail, or not any more.
    pub fn set_broken(&self, broken: bool) {
        self.with(|inner| inner.broken = broken);
    }
}

#[async_trait]
impl Source for FakeSource {
    async fn commit(&self, wanted: &Wanted) -> Result<Commit, SourceError> {
        let poison = self.with(|inner| inner.poison.clone());
        assert!(
            poison.as_ref() != Some(&wanted.sha),
            "a commit that brings its reader down"
        );
        self.with(|inner| {
            if inner.broken {
                return Err(SourceError::Unavailable("broken on purpose".into()));
            }
            let commit = inner.commits.get(&wanted.sha).cloned();
            commit.ok_or(SourceError::CommitGone)
        })
    }

    async fn files(
        &self,
        wanted: &Wanted,
        path: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
        let below = format!("{path}/");
        self.with(|inner| {
            let found = inner.files.iter().filter(|((sha, at), _)| {
                *sha == wanted.sha && (at == path || at.starts_with(&below))
            });
            Ok(found
                .map(|((_, at), content)| (at.clone(), content.clone()))
                .collect())
        })
    }

    async fn heads(&self, _: &str, repo_url: &str) -> Result<Vec<(String, String)>, SourceError> {
        self.with(|inner| {
            if inner.broken {
                return Err(SourceError::Unavailable("broken on purpose".into()));
            }
            Ok(inner.heads.get(repo_url).cloned().unwrap_or_default())
        })
    }

    async fn is_ancestor(&self, _: &Wanted, older: &str, newer: &str) -> Option<bool> {
        self.with(|inner| {
            let known = |a: &str, b: &str| inner.ancestors.iter().any(|(x, y)| x == a && y == b);
            if known(older, newer) {
                Some(true)
            } else if known(newer, older) {
                Some(false)
            } else {
                None
            }
        })
    }
}
