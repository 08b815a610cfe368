//! `memoize` of a stage: whether an equal stage's result may be reused, and which files decide.

use super::mistake::Mistake;
use super::names::{Globs, path_problem};
use super::stages::Keys;
use super::tree::Node;

/// Globs of one stage.
const GLOBS_MAX: usize = 100;

/// Whether it may be reused: unless the file says no.
pub(super) fn wanted(keys: Keys<'_>) -> bool {
    let said = keys.get("memoize").and_then(Node::boolean);
    said.unwrap_or(true)
}

/// The globs of `memoize.inputs`; empty = every file decides.
pub(super) fn inputs(keys: Keys<'_>, out: &mut Vec<Mistake>) -> Vec<String> {
    let inputs = keys.get("memoize").and_then(|m| m.get("inputs"));
    let Some(inputs) = inputs else {
        return Vec::new();
    };
    let items = inputs.items();
    if items.len() > GLOBS_MAX {
        let what = format!("`memoize.inputs` has more than {GLOBS_MAX} globs");
        out.push(Mistake::new("SLP0106", inputs.at, what));
        return Vec::new();
    }
    let mut globs = Vec::new();
    for item in items {
        let glob = item.text().unwrap_or_default();
        let wrong = match path_problem(glob) {
            Some(problem) => Some(problem.to_owned()),
            None => Globs::new(&[glob]).err(),
        };
        match wrong {
            Some(why) => out.push(
                Mistake::new(
                    "SLP0118",
                    item.at,
                    "a glob of `memoize.inputs` cannot be used",
                )
                .because(why),
            ),
            None => globs.push(glob.to_owned()),
        }
    }
    globs
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{Facts, Mistake, Outcome, Plan, plan};

    fn planned(image: &str, memoize: &str) -> Result<(Plan, Vec<Mistake>), Vec<Mistake>> {
        let stage = format!("image: \"{image}\"\n    commands: [x]\n    memoize: {memoize}");
        let text = format!("version: 1\nstages:\n  a:\n    {stage}\n");
        let facts = Facts {
            event: "push".to_owned(),
            ref_name: "refs/heads/main".to_owned(),
            ..Facts::default()
        };
        match plan(&text, &facts)? {
            Outcome::Build(plan, warnings) => Ok((*plan, warnings)),
            Outcome::NotWanted(why) => panic!("{why}"),
        }
    }

    #[test]
    fn files_that_decide_are_kept_and_a_glob_that_cannot_be_used_is_refused() {
        let (plan, _) = planned("x:1", "{inputs: [\"src/**\", Cargo.lock]}").unwrap();
        let spec = &plan.stages[0].spec;
        assert!(spec.memoize);
        assert_eq!(spec.memoize_inputs, ["src/**", "Cargo.lock"]);
        let (plan, _) = planned("x:1", "false").unwrap();
        assert!(!plan.stages[0].spec.memoize);
        for bad in ["\"src/[\"", "../outside", "/etc/passwd", "\"\""] {
            let mistakes = planned("x:1", &format!("{{inputs: [{bad}]}}")).unwrap_err();
            assert_eq!(mistakes[0].code, "SLP0118", "{bad}");
            assert_eq!(mistakes[0].at.line, 6, "{bad}");
        }
        let many = vec!["a"; 101].join(", ");
        let mistakes = planned("x:1", &format!("{{inputs: [{many}]}}")).unwrap_err();
        assert_eq!(mistakes[0].code, "SLP0106");
    }

    #[test]
    fn files_that_decide_nothing_are_warned_of() {
        let warned = |image: &str| {
            let (_, warnings) = planned(image, "{inputs: [src]}").unwrap();
            warnings
                .iter()
                .any(|w| w.code == "SLP0206" && w.at.line == 6)
        };
        assert!(warned("x:1"), "a tag");
        assert!(!warned(&format!("x@sha256:{}", "0".repeat(64))));
    }
}
