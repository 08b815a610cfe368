//! Variables that change with every build, and who names them: nobody else gets them, because with them
//! no two builds would ever have an equal stage.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Beginnings of such names.
const PREFIXES: [&str; 3] = ["CI_COMMIT_", "CI_PIPELINE_", "CI_PREV_"];
/// Such names.
const NAMES: [&str; 4] = [
    "CI_STEP_URL",
    "SLIPWAY_BUILD_ID",
    "SLIPWAY_STAGE_ID",
    "TRACEPARENT",
];

/// A variable that a file names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The variable; one that ends in `_` means all that begin so.
    pub name: String,
    /// Where: a path in the repository, or `commands`.
    pub path: String,
    /// The line there; 0 = none.
    pub line: u64,
}

impl Named {
    /// Whether this names `variable`.
    #[must_use]
    pub fn means(&self, variable: &str) -> bool {
        self.name == variable || (self.name.ends_with('_') && variable.starts_with(&self.name))
    }
}

/// Whether a variable changes with every build.
#[must_use]
pub fn is_varying(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The varying variables that a text names.
#[must_use]
pub fn named_in(text: &str) -> BTreeSet<String> {
    let part = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    let mut found = BTreeSet::new();
    for beginning in PREFIXES.iter().chain(&NAMES) {
        for (at, _) in text.match_indices(beginning) {
            let rest = text.get(at..).unwrap_or_default();
            let length = rest.bytes().take_while(|b| part(*b)).count();
            found.extend(rest.get(..length).map(str::to_owned));
        }
    }
    found.retain(|name| is_varying(name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_what_stands_in_it_in_whatever_way_it_is_written() {
        let text = "x ${CI_COMMIT_SHA:0:7} %CI_PIPELINE_NUMBER% os.environ['CI_STEP_URL'] CI_REPO";
        let found: Vec<String> = named_in(text).into_iter().collect();
        assert_eq!(
            found,
            ["CI_COMMIT_SHA", "CI_PIPELINE_NUMBER", "CI_STEP_URL"]
        );
        assert!(named_in("CI_REPO_URL CI SLIPWAY ci_commit_sha").is_empty());
    }

    #[test]
    fn a_bare_beginning_names_everything_that_begins_so() {
        let found = named_in("env | grep CI_COMMIT_");
        let name = found.into_iter().next().unwrap();
        let named = Named {
            name,
            path: "commands".to_owned(),
            line: 0,
        };
        assert!(named.means("CI_COMMIT_SHA") && named.means("CI_COMMIT_REF"));
        assert!(!named.means("CI_PIPELINE_NUMBER"));
    }

    #[test]
    fn what_is_the_same_in_every_build_is_not_varying() {
        for name in ["CI", "CI_REPO", "CI_STEP_NAME", "CI_SYSTEM_URL", "SLIPWAY"] {
            assert!(!is_varying(name), "{name}");
        }
    }
}
