//! Which text files of a tree name a variable that changes with every build: one search per tree, because
//! a tree's id settles its content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use slipway_core::memo::Named;
use tokio::sync::Mutex;

use super::{git, pipeline_name};

/// What such names look like; wider than the rule, which has the last word.
const PATTERN: &str =
    "CI_(COMMIT|PIPELINE|PREV)_[A-Z0-9_]*|CI_STEP_URL|SLIPWAY_(BUILD|STAGE)_ID|TRACEPARENT";
/// Longest search: a build waits for it.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of the paths and names of one tree; a tree with more is taken for unreadable.
const NAMED_MAX: usize = 256 * 1024;
/// Trees that are remembered: 32 MiB at most, a few hundred bytes each as a rule.
const TREES: usize = 128;

type Found = Option<Vec<Named>>;

/// Trees that were searched.
#[derive(Default)]
pub(super) struct Cache(Mutex<BTreeMap<String, Found>>);

impl Cache {
    /// The names in a tree's text files; `None` = it cannot be said.
    pub(super) async fn of(&self, mirror: &Path, tree: &str) -> Found {
        if tree.is_empty() {
            return None;
        }
        if let Some(known) = self.0.lock().await.get(tree) {
            return known.clone();
        }
        let found = search(mirror, tree).await;
        let mut trees = self.0.lock().await;
        if trees.len() >= TREES {
            trees.clear();
        }
        trees.insert(tree.to_owned(), found.clone());
        found
    }
}

async fn search(mirror: &Path, tree: &str) -> Found {
    let args = [
        "grep",
        "-z",
        "-n",
        "-o",
        "-I",
        "--full-name",
        "--no-color",
        "-E",
        "-e",
        PATTERN,
        // A full id, by git itself.
        tree,
    ];
    match git(mirror, &args, LIMIT).await {
        Ok(out) => read(&String::from_utf8_lossy(&out), tree),
        Err(error) => {
            tracing::info!(%error, tree, "the files of a commit cannot be searched");
            None
        }
    }
}

/// `<tree>:<path> NUL <line> NUL <name>`, a line each.
fn read(text: &str, tree: &str) -> Found {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    for line in text.lines() {
        let mut parts = line.splitn(3, '\0');
        let (place, number, name) = (parts.next()?, parts.next()?, parts.next()?);
        let path = place.strip_prefix(tree)?.strip_prefix(':')?;
        // What a pipeline file says about one stage is none of another one's inputs; each stage's own
        // words are looked at where it is planned.
        if is_pipeline(path) || !seen.insert((path.to_owned(), name.to_owned())) {
            continue;
        }
        bytes += path.len() + name.len();
        if bytes > NAMED_MAX {
            return None;
        }
        found.push(Named {
            name: name.to_owned(),
            path: path.to_owned(),
            line: number.parse().ok()?,
        });
    }
    Some(found)
}

fn is_pipeline(path: &str) -> bool {
    pipeline_name(path).is_some()
}
