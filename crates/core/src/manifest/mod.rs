//! The user's own description of a service's pods: what it may hold, and what Slipway sets in it.
//!
//! Owns the reading of manifests (`read`), what is refused in them (`rules`) and the few fields that are
//! Slipway's (`dress`): the image of one container, labels and selector, names per version, and the count.
//! Everything else is kept as it was written. Renders no chart, knows no cluster and reads no file: the
//! text of the built commit comes in. Invariants: what [`check`] passes, [`dress`] dresses; the same text
//! gives the same objects; dressing twice is dressing once.

mod dress;
mod read;
mod rules;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::pipeline::Mistake;

pub use dress::{Dressed, Ours, dress};
pub use rules::{Allowed, Grant};

/// Text of all manifests of a service together, bytes: they are part of the plan, which is read often.
pub const TEXT_MAX: usize = 64 * 1024;
/// Files of a service.
pub const FILES_MAX: usize = 10;
/// Objects of a service.
pub const OBJECTS_MAX: usize = 20;
/// Longest time that a pod may take to end, seconds.
pub const GRACE_MAX: u64 = 600;
/// What is written into a cluster is Slipway's where its name begins so.
pub const OWN_PREFIX: &str = "slipway.dev/";

/// One file of the built commit, or what a chart was rendered to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its path in the repository; `<chart> (rendered)` for a chart.
    pub path: String,
    /// Its text, whole.
    pub text: String,
}

/// What describes a version's pods: stored with the build and with each version, so that going back needs
/// neither the repository nor a renderer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifests {
    /// The files, in the order in which they were named.
    pub files: Vec<ManifestFile>,
    /// The container that gets the image; empty = the only one.
    #[serde(default)]
    pub container: String,
}

/// Why manifests are refused: where, what, how to mend it, and a code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {file}:{line}: {what}; {fix}")]
pub struct ManifestError {
    /// `SLPnnnn`; `slipway explain` prints its long form.
    pub code: &'static str,
    /// The file.
    pub file: String,
    /// The line in it, from 1.
    pub line: u32,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub fix: String,
}

impl ManifestError {
    /// The same as a mistake of the pipeline file that names the manifest in this line.
    #[must_use]
    pub fn named_at(&self, line: u32) -> Mistake {
        let text = format!("{}:{}: {}", self.file, self.line, self.what);
        Mistake::elsewhere(self.code, line, text).fix(self.fix.clone())
    }
}

/// What manifests ask for beside pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Instances, when the Deployment says how many.
    pub replicas: Option<u32>,
    /// How long a pod may take to end, seconds.
    pub grace_seconds: u64,
}

/// Whether manifests may be used at all: their shape, whatever environment they go to.
///
/// # Errors
/// The first thing that is wrong with them.
pub fn check(manifests: &Manifests) -> Result<Asked, ManifestError> {
    let objects = read::read(manifests)?;
    rules::shape(&objects, &manifests.container)?;
    Ok(asked(&objects))
}

/// Whether they may be used in this namespace, under what the server allows there.
///
/// # Errors
/// The first thing that is not allowed.
pub fn judge(
    manifests: &Manifests,
    namespace: &str,
    allowed: &Allowed,
) -> Result<Asked, ManifestError> {
    let objects = read::read(manifests)?;
    rules::shape(&objects, &manifests.container)?;
    rules::allowed(&objects, namespace, allowed)?;
    Ok(asked(&objects))
}

fn asked(objects: &read::Objects) -> Asked {
    let number = |path: &[&str]| objects.deployment.at(path).and_then(|node| node.int());
    let replicas = number(&["spec", "replicas"]).and_then(|count| u32::try_from(count).ok());
    let grace = number(&["spec", "template", "spec", "terminationGracePeriodSeconds"]);
    Asked {
        replicas,
        grace_seconds: grace.and_then(|n| u64::try_from(n).ok()).unwrap_or(30),
    }
}

/// The names of the service accounts that manifests bring themselves.
fn accounts(objects: &read::Objects) -> BTreeSet<&str> {
    let accounts = objects.extras.iter();
    let accounts = accounts.filter(|one| one.kind == read::Kind::ServiceAccount);
    accounts.map(|one| one.name.as_str()).collect()
}

#[cfg(test)]
mod tests;
