//! What is known of the build when its file is planned: handed in, never looked up.

use std::collections::BTreeMap;

/// The cause of a build, its commit, and what the commit holds.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `push`, `pull_request`, `tag`, `release`, `cron` or `manual`.
    pub event: String,
    /// `refs/heads/…` or `refs/tags/…`.
    pub ref_name: String,
    /// Full commit id.
    pub sha: String,
    /// The build's id.
    pub build_id: String,
    /// Its number in the repository; 0 while unknown.
    pub number: i64,
    /// Its page.
    pub url: String,
    /// Repository name, `owner/name` where the host has owners.
    pub repo: String,
    /// The repository's default branch.
    pub default_branch: String,
    /// Name of the schedule, for `cron`.
    pub cron: String,
    /// Whether the code comes from somebody without the right to push.
    pub untrusted: bool,
    /// Variables given with the start; each must be declared in the file.
    pub variables: BTreeMap<String, String>,
    /// Changed paths; `None` = unknown, and unknown never skips.
    pub changed: Option<Vec<String>>,
    /// Every file of the commit with its content id, for `hash(…)`; `None` = unknown.
    pub files: Option<BTreeMap<String, String>>,
}

impl Facts {
    /// The branch; empty for tags.
    #[must_use]
    pub fn branch(&self) -> &str {
        self.ref_name.strip_prefix("refs/heads/").unwrap_or("")
    }

    /// The tag; empty for branches.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.ref_name.strip_prefix("refs/tags/").unwrap_or("")
    }

    /// The first seven digits of the commit.
    #[must_use]
    pub fn short_sha(&self) -> &str {
        self.sha.get(..7).unwrap_or(&self.sha)
    }
}
