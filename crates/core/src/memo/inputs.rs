//! What planning finds out about a stage's inputs, once: which files matter, and which of the variables
//! that change with every build are named by somebody who could read them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Named, Never, is_varying, named_in, never};
use crate::digest::Digest;
use crate::pipeline::{EnvValue, PlannedStage, Selector, StageSpec};

/// The commit's files, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The id of its tree; empty = unknown.
    pub tree: &'a str,
    /// Every file with its content id; empty = too many.
    pub files: &'a BTreeMap<String, String>,
    /// Modes of the files that are not plain.
    pub modes: &'a BTreeMap<String, String>,
    /// The varying variables that its text files name; `None` = nobody could look.
    pub named: Option<&'a [Named]>,
}

/// What is known of a stage's inputs before its needs have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// Why it is executed every time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never: Option<String>,
    /// Whether the person who started the build wants everything executed.
    #[serde(default)]
    pub fresh: bool,
    /// Names the files of the commit that matter.
    #[serde(default)]
    pub source: String,
    /// The varying variables that it gets, and who names them.
    #[serde(default)]
    pub named: Vec<Named>,
    /// Whether it gets every variable.
    #[serde(default)]
    pub everything: bool,
}

impl Inputs {
    /// What the container of such a stage may see of these variables.
    #[must_use]
    pub fn visible(&self, all: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let seen = |name: &str| {
            self.everything || !is_varying(name) || self.named.iter().any(|n| n.means(name))
        };
        all.into_iter().filter(|(name, _)| seen(name)).collect()
    }
}

/// Finds out.
#[must_use]
pub fn inputs(stage: &PlannedStage, source: &Source<'_>, fresh: bool) -> Inputs {
    let refused = |never: &Never| Inputs {
        never: Some(never.to_string()),
        everything: true,
        ..Inputs::default()
    };
    if let Some(never) = never(stage) {
        return refused(&never);
    }
    let Some(named) = source.named.filter(|_| !source.tree.is_empty()) else {
        return refused(&Never::Unread);
    };
    let globs = &stage.spec.memoize_inputs;
    if !globs.is_empty() && source.files.is_empty() {
        return refused(&Never::Unlisted);
    }
    let selector = Selector::new(globs);
    let matters = |path: &str| selector.selects(path);
    let own = own_names(&stage.spec).into_iter().map(|name| Named {
        name,
        path: "commands".to_owned(),
        line: 0,
    });
    let files = named.iter().filter(|n| matters(&n.path)).cloned();
    let mut seen = BTreeSet::new();
    Inputs {
        never: None,
        fresh,
        source: if globs.is_empty() {
            format!("tree {}", source.tree)
        } else {
            selected(source, matters)
        },
        named: own
            .chain(files)
            .filter(|n| seen.insert(n.name.clone()))
            .collect(),
        everything: false,
    }
}

fn own_names(spec: &StageSpec) -> BTreeSet<String> {
    let services = spec.services.iter();
    let variables = services.clone().flat_map(|s| s.environment.values());
    let values = spec.environment.values().chain(variables);
    let values = values.map(|value| match value {
        EnvValue::Plain(text) | EnvValue::FromSecret(text) => text,
    });
    let lines = services.flat_map(|s| s.command.iter().chain(&s.ready));
    let texts = spec.commands.iter().chain(lines).chain(values);
    texts.flat_map(|text| named_in(text)).collect()
}

/// The selected files by path, mode and content.
fn selected(source: &Source<'_>, matters: impl Fn(&str) -> bool) -> String {
    let mut bytes = Vec::new();
    for (path, id) in source.files.iter().filter(|(path, _)| matters(path)) {
        let mode = source.modes.get(path).map_or("", String::as_str);
        for text in [path.as_str(), mode, id.as_str()] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
    }
    format!("files {}", Digest::of(&bytes))
}

#[cfg(test)]
#[path = "inputs_tests.rs"]
mod tests;
