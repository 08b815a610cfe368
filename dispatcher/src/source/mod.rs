//! Where commits come from: port [`Source`], its git adapter, and a fake.
//!
//! The dispatcher reads pipeline files out of an object database; it never checks anything out.

mod fake;
mod git;

use std::collections::BTreeMap;

use async_trait::async_trait;
use slipway_core::memo::Named;

pub use fake::FakeSource;
pub use git::GitSource;

/// Which commit of which repository.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The repository's id: names the mirror.
    pub repo_id: String,
    /// Its address.
    pub repo_url: String,
    /// Full ref that holds the commit.
    pub ref_name: String,
    /// Full commit id.
    pub sha: String,
    /// The commit before, for the list of changed files.
    pub before: Option<String>,
}

/// What a commit holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Its message.
    pub message: String,
    /// Its author, for people.
    pub author: String,
    /// When it was committed, seconds since 1970.
    pub time_s: i64,
    /// Pipeline files: (pipeline name, text).
    pub pipelines: Vec<(String, String)>,
    /// The id of its tree: equal trees hold equal files. Empty = unknown.
    pub tree: String,
    /// Every file with its content id.
    pub files: BTreeMap<String, String>,
    /// Modes of the files that are not plain.
    pub modes: BTreeMap<String, String>,
    /// The variables that change with every build and that text files name, except for pipeline files;
    /// `None` = unknown.
    pub named: Option<Vec<Named>>,
    /// Changed files against `before`; `None` = unknown.
    pub changed: Option<Vec<String>>,
}

/// Why a commit cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The repository has no such commit (any more).
    #[error("commit_gone: the repository does not have this commit")]
    CommitGone,
    /// The repository does not answer.
    #[error("source_unavailable: {0}")]
    Unavailable(String),
    /// The pipeline file is a link or something else than a file.
    #[error("config_is_symlink: {0} is not a regular file")]
    NotAFile(String),
    /// The pipeline file is too large or not text.
    #[error("config_unreadable: {0}")]
    Unreadable(String),
}

/// Files of one commit that may be read together.
pub const FILES_MAX: usize = 300;
/// Their size together, bytes.
pub const BYTES_MAX: usize = 1024 * 1024;

/// Repositories.
#[async_trait]
pub trait Source: Send + Sync {
    /// Reads a commit's facts and pipeline files.
    async fn commit(&self, wanted: &Wanted) -> Result<Commit, SourceError>;
    /// Reads a file of a commit, or every file below a folder of it: paths in the repository with their
    /// content. Nothing for a path that is not there; a link is never followed.
    async fn files(
        &self,
        wanted: &Wanted,
        path: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, SourceError>;
    /// The present branches and tags: (full ref, commit id).
    async fn heads(
        &self,
        repo_id: &str,
        repo_url: &str,
    ) -> Result<Vec<(String, String)>, SourceError>;
    /// Whether `older` is an ancestor of `newer`; `None` = unknown.
    async fn is_ancestor(&self, wanted: &Wanted, older: &str, newer: &str) -> Option<bool>;
}
