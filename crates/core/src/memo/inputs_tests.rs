//! What a stage sees of its commit, and why some are never recalled.

use super::*;
use crate::pipeline::{Facts, Outcome, plan};

const PINNED: &str = "x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn stage(keys: &str) -> PlannedStage {
    let text = format!(
        "version: 1\non:\n  push:\nstages:\n  b: {{image: \"{PINNED}\", commands: [x]}}\n  a: {{{keys}}}\n"
    );
    let facts = Facts {
        event: "push".to_owned(),
        ref_name: "refs/heads/main".to_owned(),
        ..Facts::default()
    };
    match plan(&text, &facts) {
        Ok(Outcome::Build(plan, _)) => plan.stages[1].clone(),
        other => panic!("{text}: {other:?}"),
    }
}

fn named(name: &str, path: &str) -> Named {
    Named {
        name: name.to_owned(),
        path: path.to_owned(),
        line: 3,
    }
}

struct Tree {
    files: BTreeMap<String, String>,
    modes: BTreeMap<String, String>,
    named: Vec<Named>,
}

fn tree() -> Tree {
    let files = [("src/a.rs", "1"), ("docs/a.md", "2"), ("version.sh", "3")];
    Tree {
        files: files.map(|(p, id)| (p.to_owned(), id.to_owned())).into(),
        modes: BTreeMap::from([("version.sh".to_owned(), "100755".to_owned())]),
        named: vec![
            named("CI_COMMIT_SHA", "version.sh"),
            named("CI_COMMIT_SHA", "docs/a.md"),
        ],
    }
}

impl Tree {
    fn inputs(&self, stage: &PlannedStage) -> Inputs {
        let source = Source {
            tree: "t1",
            files: &self.files,
            modes: &self.modes,
            named: Some(&self.named),
        };
        inputs(stage, &source, false)
    }
}

fn all() -> BTreeMap<String, String> {
    let names = [
        "CI",
        "CI_COMMIT_SHA",
        "CI_COMMIT_REF",
        "CI_PIPELINE_NUMBER",
        "SLIPWAY_BUILD_ID",
    ];
    names.map(|n| (n.to_owned(), "v".to_owned())).into()
}

fn seen(inputs: &Inputs) -> Vec<String> {
    inputs.visible(all()).into_keys().collect()
}

#[test]
fn a_variable_that_changes_is_given_only_to_who_names_it() {
    let found = tree().inputs(&stage(&format!("image: \"{PINNED}\", commands: [make]")));
    assert_eq!(found.never, None);
    assert_eq!(found.source, "tree t1");
    assert_eq!(seen(&found), ["CI", "CI_COMMIT_SHA"]);
    assert_eq!(found.named, [named("CI_COMMIT_SHA", "version.sh")]);
    let keys = format!("image: \"{PINNED}\", commands: [\"echo $CI_PIPELINE_NUMBER\"]");
    let found = tree().inputs(&stage(&keys));
    assert_eq!(seen(&found), ["CI", "CI_COMMIT_SHA", "CI_PIPELINE_NUMBER"]);
}

#[test]
fn of_the_files_only_the_selected_ones_count() {
    let keys = format!("image: \"{PINNED}\", commands: [make], memoize: {{inputs: [\"src/**\"]}}");
    let stage = stage(&keys);
    let before = tree().inputs(&stage);
    assert_eq!(seen(&before), ["CI"]);
    let mut other = tree();
    other.files.insert("docs/a.md".to_owned(), "9".to_owned());
    assert_eq!(other.inputs(&stage), before);
    for change in [("src/a.rs", "9"), ("src/b.rs", "1")] {
        let mut other = tree();
        other.files.insert(change.0.to_owned(), change.1.to_owned());
        assert_ne!(other.inputs(&stage).source, before.source);
    }
    let mut other = tree();
    other
        .modes
        .insert("src/a.rs".to_owned(), "100755".to_owned());
    assert_ne!(other.inputs(&stage).source, before.source, "the mode too");
}

#[test]
fn what_is_never_recalled_says_why_and_gets_everything() {
    let secret = "environment: {A: {from_secret: t}}";
    for (keys, why) in [
        (
            format!("image: \"{PINNED}\", commands: [x], memoize: false"),
            "memoize: false",
        ),
        (
            format!("image: \"{PINNED}\", commands: [x], {secret}"),
            "secret",
        ),
        (
            format!("image: \"{PINNED}\", commands: [x], {secret}, idempotent: true"),
            "secret",
        ),
        (
            format!("image: \"{PINNED}\", commands: [x], sandbox: trusted"),
            "trusted",
        ),
        (
            format!("image: \"{PINNED}\", commands: [x], needs: [b], when: {{status: failure}}"),
            "before it",
        ),
        (
            "build: {tags: [\"h:5000/x:1\"]}".to_owned(),
            "builds an image",
        ),
        ("image: \"x:1\", commands: [x]".to_owned(), "`x:1`"),
        (
            format!("image: \"{PINNED}\", commands: [x], services: {{db: {{image: \"p:1\"}}}}"),
            "`p:1`",
        ),
    ] {
        let found = tree().inputs(&stage(&keys));
        let said = found.never.clone().unwrap_or_default();
        assert!(said.contains(why), "{keys}: {said}");
        assert_eq!(seen(&found).len(), all().len(), "{keys}");
    }
}

#[test]
fn files_that_nobody_could_look_into_keep_a_stage_from_being_recalled() {
    let stage = stage(&format!("image: \"{PINNED}\", commands: [make]"));
    let tree = tree();
    for (id, named) in [("t1", None), ("", Some(tree.named.as_slice()))] {
        let source = Source {
            tree: id,
            files: &tree.files,
            modes: &tree.modes,
            named,
        };
        let found = inputs(&stage, &source, false);
        assert!(found.never.is_some() && found.everything);
    }
}
