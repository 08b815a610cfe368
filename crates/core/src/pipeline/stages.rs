//! `stages:` → planned stages: defaults applied, matrices expanded, conditions judged, values
//! interpolated.

use std::collections::BTreeMap;

use super::condition::{self, Decision};
use super::expression::{Scope, Use};
use super::facts::Facts;
use super::graph::{self, Vertex};
use super::matrix::{self, Cell, STAGES_MAX};
use super::mistake::{At, Mistake};
use super::names;
use super::plan::{Group, PlannedStage, Retry};
use super::spec;
use super::tree::{Key, Node};
use crate::build::Need;

/// Largest sum of the names and values of a stage's variables, bytes.
const VARIABLES_MAX: usize = 128 * 1024;

/// A stage's keys over the defaults' keys.
#[derive(Clone, Copy)]
pub(super) struct Keys<'t> {
    pub(super) own: &'t Node,
    pub(super) defaults: Option<&'t Node>,
}

impl<'t> Keys<'t> {
    pub(super) fn get(&self, key: &str) -> Option<&'t Node> {
        self.own
            .get(key)
            .or_else(|| self.defaults.and_then(|d| d.get(key)))
    }

    pub(super) fn text(&self, key: &str) -> Option<&'t str> {
        self.get(key).and_then(Node::text)
    }
}

/// What all stages of a file share.
pub(super) struct Shared<'t> {
    pub(super) defaults: Option<&'t Node>,
    pub(super) variables: &'t BTreeMap<String, String>,
    pub(super) facts: &'t Facts,
}

/// Interpolates a text, or records why it cannot be.
pub(super) fn interpolated(
    node_at: At,
    text: &str,
    scope: &Scope<'_>,
    place: Use,
    out: &mut Vec<Mistake>,
) -> String {
    match scope.interpolate(text, place) {
        Ok(text) => text,
        Err(problem) => {
            let code = if place == Use::ShellLine && problem.contains("chosen by whoever") {
                "SLP0114"
            } else {
                "SLP0113"
            };
            out.push(
                Mistake::new(code, node_at, "an expression cannot be evaluated").because(problem),
            );
            String::new()
        }
    }
}

/// All stages of the file.
pub(super) fn plan(
    stages: &Node,
    shared: &Shared<'_>,
    out: &mut Vec<Mistake>,
) -> Vec<PlannedStage> {
    let entries = stages.map().unwrap_or_default();
    check_names(entries, "stage", out);
    check_order(entries, shared, out);
    // What is no map at all was reported as that.
    if stages.map().is_some_and(<[_]>::is_empty) {
        out.push(Mistake::new("SLP0108", stages.at, "the file has no stage"));
    }
    let mut planned: Vec<PlannedStage> = Vec::new();
    let mut expansions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut taken: Vec<String> = entries.iter().map(|(key, _)| key.text.clone()).collect();
    for (position, (key, node)) in entries.iter().enumerate() {
        let keys = Keys {
            own: node,
            defaults: shared.defaults,
        };
        let rest = entries.len() - position - 1;
        let budget = STAGES_MAX.saturating_sub(planned.len() + rest);
        let cells = matrix::expand(keys.get("matrix"), budget, out);
        let single = cells.len() == 1 && cells.first().is_some_and(Cell::is_empty);
        for cell in cells {
            let name = if single {
                key.text.clone()
            } else {
                matrix::cell_name(&key.text, &cell, &taken)
            };
            taken.push(name.clone());
            expansions.entry(&key.text).or_default().push(name.clone());
            planned.push(stage(key, keys, &name, &cell, shared, out));
        }
    }
    for stage in &mut planned {
        stage.needs = stage
            .needs
            .iter()
            .flat_map(|need| {
                let names = expansions
                    .get(need.stage.as_str())
                    .cloned()
                    .unwrap_or_default();
                names.into_iter().map(|stage| Need {
                    stage,
                    optional: need.optional,
                })
            })
            .collect();
    }
    planned
}

/// Names that are well formed and differ after case folding.
pub(super) fn check_names(entries: &[(Key, Node)], what: &str, out: &mut Vec<Mistake>) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (key, _) in entries {
        if !names::is_name(&key.text) {
            let shown: String = key.text.chars().take(80).collect();
            out.push(
                Mistake::new("SLP0109", key.at, format!("`{shown}` cannot name a {what}"))
                    .because("a name is 1–63 of a–z, 0–9, `.`, `_` and `-`, and begins with a letter or digit"),
            );
        }
        if let Some(other) = seen.insert(key.text.to_lowercase(), &key.text) {
            out.push(Mistake::new(
                "SLP0121",
                key.at,
                format!("`{}` and `{other}` are the same name", key.text),
            ));
        }
    }
}

fn needs(keys: Keys<'_>) -> Vec<(&str, At, bool)> {
    keys.get("needs")
        .map(Node::items)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|item| match item.text() {
            Some(name) => Some((name, item.at, false)),
            None => {
                let optional = item
                    .get("optional")
                    .and_then(Node::boolean)
                    .unwrap_or(false);
                Some((item.get("stage")?.text()?, item.at, optional))
            }
        })
        .collect()
}

fn check_order(entries: &[(Key, Node)], shared: &Shared<'_>, out: &mut Vec<Mistake>) {
    let vertices: Vec<Vertex<'_>> = entries
        .iter()
        .map(|(key, own)| Vertex {
            name: &key.text,
            needs: needs(Keys {
                own,
                defaults: shared.defaults,
            })
            .into_iter()
            .map(|(name, at, _)| (name, at))
            .collect(),
        })
        .collect();
    graph::check(&vertices, out);
}

fn stage(
    key: &Key,
    keys: Keys<'_>,
    name: &str,
    cell: &Cell,
    shared: &Shared<'_>,
    out: &mut Vec<Mistake>,
) -> PlannedStage {
    let scope = Scope {
        facts: shared.facts,
        variables: shared.variables,
        matrix: cell,
    };
    let Decision { skipped, runs_on } = condition::decide(keys.get("when"), &scope, out);
    let spec = spec::stage(key, keys, name, &scope, out);
    let holds_secret = spec.secrets().next().is_some();
    let idempotent = keys
        .get("idempotent")
        .and_then(Node::boolean)
        .unwrap_or(false);
    let matrix = keys.get("matrix");
    let parallel = matrix
        .and_then(|m| m.get("max_parallel"))
        .and_then(Node::int);
    let own_group = keys.get("concurrency").map(|node| group(node, &scope, out));
    PlannedStage {
        name: name.to_owned(),
        needs: needs(keys)
            .into_iter()
            .map(|(stage, _, optional)| Need {
                stage: stage.to_owned(),
                optional,
            })
            .collect(),
        runs_on,
        skipped,
        failure_ignored: keys.text("failure") == Some("ignore"),
        at_most_once: holds_secret && !idempotent,
        priority: keys
            .get("priority")
            .and_then(Node::int)
            .and_then(|n| u8::try_from(n).ok()),
        labels: labels(keys, &scope, out),
        group: own_group.or_else(|| {
            // A build-private group: its name holds the build's id.
            parallel.map(|limit| Group {
                name: format!("matrix/{}/{}", shared.facts.build_id, key.text),
                limit: u32::try_from(limit).unwrap_or(1),
            })
        }),
        matrix_of: matrix.map(|_| key.text.clone()),
        fail_fast: matrix
            .and_then(|m| m.get("fail_fast"))
            .and_then(Node::boolean)
            .unwrap_or(false),
        retry: retry(keys),
        spec,
    }
}

/// A concurrency group.
pub(super) fn group(node: &Node, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> Group {
    let name = node.get("group").map_or_else(String::new, |g| {
        interpolated(g.at, g.text().unwrap_or_default(), scope, Use::Value, out)
    });
    if name.len() > 256 || name.chars().any(char::is_control) {
        out.push(Mistake::new(
            "SLP0109",
            node.at,
            "the group's name is longer than 256 characters",
        ));
    }
    Group {
        name,
        limit: node
            .get("limit")
            .and_then(Node::int)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
    }
}

fn labels(keys: Keys<'_>, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> BTreeMap<String, String> {
    let Some(node) = keys.get("labels") else {
        return BTreeMap::new();
    };
    node.map()
        .unwrap_or_default()
        .iter()
        .filter_map(|(key, value)| {
            let text = value.scalar()?;
            let text = interpolated(value.at, &text, scope, Use::Value, out);
            Some((key.text.clone(), text))
        })
        .collect()
}

fn retry(keys: Keys<'_>) -> Retry {
    let Some(node) = keys.get("retry") else {
        return Retry::default();
    };
    let when: Vec<&str> = node
        .get("when")
        .map(|n| n.items().into_iter().filter_map(Node::text).collect())
        .unwrap_or_default();
    Retry {
        max: node
            .get("max")
            .and_then(Node::int)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
        on_failure: when.is_empty() || when.contains(&"failure"),
        on_timeout: when.contains(&"timeout"),
        exit_codes: node
            .get("exit_codes")
            .map(Node::items)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|n| n.int().and_then(|n| i32::try_from(n).ok()))
            .collect(),
    }
}

/// Refuses variables that together are too large: they become arguments of a process.
pub(super) fn check_size(at: At, total: usize, out: &mut Vec<Mistake>) {
    if total > VARIABLES_MAX {
        out.push(
            Mistake::new("SLP0117", at, "the variables are too large")
                .because(format!("{total} bytes; together at most {VARIABLES_MAX}"))
                .fix("write large values to a file in the repository"),
        );
    }
}
