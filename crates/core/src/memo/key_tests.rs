//! What a key must tell apart, and what it must not.

use proptest::prelude::*;

use super::*;
use crate::pipeline::{Facts, Outcome, plan};

fn spec(keys: &str) -> StageSpec {
    let text = format!("version: 1\non:\n  push:\nstages:\n  a: {{{keys}}}\n");
    let facts = Facts {
        event: "push".to_owned(),
        ref_name: "refs/heads/main".to_owned(),
        ..Facts::default()
    };
    match plan(&text, &facts) {
        Ok(Outcome::Build(plan, _)) => plan.stages[0].spec.clone(),
        other => panic!("{text}: {other:?}"),
    }
}

struct Whole {
    spec: StageSpec,
    labels: BTreeMap<String, String>,
    given: BTreeMap<String, String>,
    source: String,
    layers: Vec<String>,
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    owned.collect()
}

fn whole() -> Whole {
    Whole {
        spec: spec("image: \"x:1\", commands: [make, test], environment: {A: b}"),
        labels: map(&[("arch", "amd64")]),
        given: map(&[("CI", "true"), ("CI_REPO", "shop")]),
        source: "tree 1".to_owned(),
        layers: vec!["l1".to_owned(), "l2".to_owned()],
    }
}

impl Whole {
    fn key(&self) -> StageKey {
        key(&Ingredients {
            spec: &self.spec,
            labels: &self.labels,
            given: &self.given,
            source: &self.source,
            layers: &self.layers,
        })
    }
}

type Change = fn(&mut Whole);

/// Every change that must be seen, and the field that must say so.
fn changes() -> Vec<(Field, Change)> {
    vec![
        (Field::Platform, |w| {
            w.labels.insert("gpu".to_owned(), "1".to_owned());
        }),
        (Field::Image, |w| w.spec.image.push('2')),
        (Field::Image, |w| {
            let services = "services: {db: {image: \"p:1\", ready: ok, command: [run]}}";
            w.spec.services =
                spec(&format!("image: \"x:1\", commands: [make], {services}")).services;
        }),
        (Field::Commands, |w| w.spec.commands[0].push(' ')),
        (Field::Commands, |w| w.spec.commands.swap(0, 1)),
        (Field::Commands, |w| w.spec.commands.truncate(1)),
        (Field::Environment, |w| {
            w.given.insert("CI_COMMIT_SHA".to_owned(), "1".to_owned());
        }),
        (Field::Environment, |w| {
            w.spec.environment.remove("A");
        }),
        (Field::Inputs, |w| w.source = "tree 2".to_owned()),
        (Field::Inputs, |w| w.layers.swap(0, 1)),
        (Field::Inputs, |w| w.layers.truncate(1)),
        (Field::Checkout, |w| w.spec.clone.depth += 1),
        (Field::Checkout, |w| w.spec.clone.lfs = true),
        (Field::Sandbox, |w| w.spec.sandbox = Sandbox::Strict),
        (Field::Outputs, |w| w.spec.junit.push("r.xml".to_owned())),
        (Field::Outputs, |w| {
            let keys = "image: \"x:1\", commands: [make], artifacts: {paths: [\"=out\"]}";
            w.spec.artifacts = spec(keys).artifacts;
        }),
        (Field::Outputs, |w| {
            let keys = "image: \"x:1\", commands: [make], cache: {key: k, paths: [p]}";
            w.spec.caches = spec(keys).caches;
        }),
        (Field::Outputs, |w| {
            let keys = "image: \"x:1\", commands: [make], remote_cache: ccache";
            w.spec.remote_cache = spec(keys).remote_cache;
        }),
    ]
}

#[test]
fn any_single_change_of_what_a_stage_can_see_changes_its_key_and_only_its_field() {
    let before = whole().key();
    for (number, (field, change)) in changes().into_iter().enumerate() {
        let mut other = whole();
        change(&mut other);
        let after = other.key();
        assert_ne!(before.key, after.key, "change {number}, {field}");
        assert_eq!(before.fields.differing(&after.fields), [field], "{number}");
    }
}

#[test]
fn what_decides_nothing_about_the_result_is_not_in_the_key() {
    let before = whole().key();
    let mut other = whole();
    other.spec.timeout_ms += 1;
    other.spec.artifacts_expire_s = Some(1);
    other.spec.memoize_inputs.push("src/**".to_owned());
    assert_eq!(before, other.key());
    assert!(before.fields.differing(&other.key().fields).is_empty());
}

#[test]
fn a_key_is_the_same_in_every_version_of_this_program() {
    // What was recorded by an earlier version must still be found: a change here needs a new context.
    let key = whole().key().key.to_string();
    assert_eq!(key, GOLDEN);
}

const GOLDEN: &str = "71943f30bbeb63f3f1b49d865e52651544272be162bba1068a938650bde560fb";

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab=,\\x00]{0,3}", 0..4)
}

proptest! {
    #[test]
    fn no_two_lists_of_texts_have_one_encoding(a in texts(), b in texts()) {
        let (mut one, mut two) = (whole(), whole());
        one.spec.commands.clone_from(&a);
        two.spec.commands.clone_from(&b);
        prop_assert_eq!(a == b, one.key().key == two.key().key);
        one.spec.commands = vec!["x".to_owned()];
        two.spec.commands = vec!["x".to_owned()];
        one.layers.clone_from(&a);
        two.layers.clone_from(&b);
        prop_assert_eq!(a == b, one.key().key == two.key().key);
    }

    #[test]
    fn the_order_in_which_variables_are_set_is_irrelevant(pairs in prop::collection::btree_map("[A-Z]{1,3}", "[a-z=]{0,3}", 0..6)) {
        let (mut one, mut two) = (whole(), whole());
        one.given = pairs.clone();
        two.given = BTreeMap::new();
        for (name, value) in pairs.into_iter().rev() {
            two.given.insert(name, value);
        }
        prop_assert_eq!(one.key(), two.key());
    }

    #[test]
    fn a_value_cannot_be_moved_into_a_name(name in "[A-Z]{1,3}", value in "[A-Z=]{1,4}") {
        let (mut one, mut two) = (whole(), whole());
        one.given = BTreeMap::from([(name.clone(), value.clone())]);
        two.given = BTreeMap::from([(format!("{name}{value}"), String::new())]);
        prop_assert_ne!(one.key().key, two.key().key);
    }
}
