//! Text → checked plan: the pipeline file `.slipway.yml`.
//!
//! Owns the grammar, its limits and every message about a mistake in it. Reads no file and knows no
//! commit: text and facts come in as arguments. Invariants: a plan that leaves this module is valid
//! (names, needs, counts and durations are in range, the graph has no cycle), and the same text with
//! the same facts gives the same plan.
//!
//! Reading order: `tree` (text → located tree, under a budget) → `grammar` and `check` (shape) →
//! `stages`, `spec`, `deploy` (meaning) → `plan` (the result). Mistakes are collected, never only the
//! first one. The grammar is a table rather than derived structs, because a derived reader stops at
//! its first mistake; the JSON Schema comes out of the same table.

mod check;
mod condition;
mod deploy;
mod duration;
mod expression;
mod facts;
mod grammar;
mod graph;
mod lint;
mod matrix;
mod memoize;
mod mistake;
mod names;
mod plan;
mod remote_cache;
mod schema;
mod spec;
mod stages;
mod tree;

use std::collections::BTreeMap;

pub use deploy::stage_of;
pub use duration::duration_ms;
pub(crate) use expression::number_holds;
pub use facts::Facts;
pub use matrix::STAGES_MAX;
pub use mistake::{At, Mistake, Severity};
pub use names::Selector;
pub use plan::*;
pub use schema::json_schema;
pub use spec::ANNOUNCED_MAX;
pub use tree::FILE_MAX;
pub(crate) use tree::{Node, read as read_yaml};

use expression::Scope;

/// What a file comes to for one event.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A build, with warnings about the file.
    Build(Box<Plan>, Vec<Mistake>),
    /// The file does not want this event, for this reason.
    NotWanted(String),
}

/// Reads, checks and expands a pipeline file for one event.
///
/// # Errors
/// Every mistake of the file, in the order in which they stand.
pub fn plan(text: &str, facts: &Facts) -> Result<Outcome, Vec<Mistake>> {
    let file = tree::read(text).map_err(|mistake| vec![mistake])?;
    let mut out = Vec::new();
    check::check(&file, &grammar::Kind::Table(&grammar::FILE), "", &mut out);
    let variables = variables(&file, facts, &mut out);
    let no_cell = BTreeMap::new();
    let scope = Scope {
        facts,
        variables: &variables,
        matrix: &no_cell,
    };
    let unwanted = condition::wanted(file.get("on"), facts, &mut out);
    let schedules = schedules(&file, &mut out);
    let shared = stages::Shared {
        defaults: file.get("defaults"),
        variables: &variables,
        facts,
    };
    let stages = file
        .get("stages")
        .map(|node| stages::plan(node, &shared, &mut out))
        .unwrap_or_default();
    let deploy = file
        .get("deploy")
        .map(|node| deploy::plan(node, &stages, &scope, &mut out));
    let concurrency = file.get("concurrency");
    let plan = Plan {
        group: concurrency.map(|node| stages::group(node, &scope, &mut out)),
        cancel_superseded: concurrency
            .and_then(|c| c.get("cancel_superseded"))
            .and_then(Node::boolean),
        variables: variables.clone(),
        stages,
        deploy,
        schedules,
    };
    out.extend(lint::warnings(&file, &plan));
    out.sort_by(|a, b| (a.at, &a.code).cmp(&(b.at, &b.code)));
    out.dedup();
    if out.iter().any(Mistake::is_error) {
        return Err(out);
    }
    Ok(match unwanted {
        Some(reason) => Outcome::NotWanted(reason),
        None => Outcome::Build(Box::new(plan), out),
    })
}

/// The schedules of a file, whatever the event; empty when the file is not usable.
#[must_use]
pub fn schedules_of(text: &str) -> Vec<Schedule> {
    tree::read(text)
        .map(|file| schedules(&file, &mut Vec::new()))
        .unwrap_or_default()
}

fn variables(file: &Node, facts: &Facts, out: &mut Vec<Mistake>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut size = 0;
    let node = file.get("variables");
    for (key, value) in node.and_then(Node::map).unwrap_or_default() {
        spec::check_variable(key, out);
        let text = value.scalar().unwrap_or_default();
        size += key.text.len() + text.len();
        variables.insert(key.text.clone(), text);
    }
    let at = node.map_or(At::START, |n| n.at);
    stages::check_size(at, size, out);
    for (name, value) in &facts.variables {
        if variables.contains_key(name) {
            variables.insert(name.clone(), value.clone());
        } else {
            let shown: String = name.chars().take(80).collect();
            out.push(
                Mistake::new(
                    "SLP0117",
                    at,
                    format!("variable `{}` is not declared", shown.escape_debug()),
                )
                .because("a start may set only variables that the file declares under `variables`"),
            );
        }
    }
    variables
}

fn schedules(file: &Node, out: &mut Vec<Mistake>) -> Vec<Schedule> {
    let mut schedules: Vec<Schedule> = Vec::new();
    let entries = file
        .get("on")
        .and_then(|on| on.get("cron"))
        .map(Node::items)
        .unwrap_or_default();
    for entry in entries {
        let text = |key| entry.get(key).and_then(Node::text).unwrap_or_default();
        let (name, schedule) = (text("name"), text("schedule"));
        if schedules.iter().any(|s| s.name == name) {
            out.push(Mistake::new(
                "SLP0121",
                entry.at,
                format!("two schedules are named `{name}`"),
            ));
        }
        if let Err(problem) = crate::trigger::cron::parse(schedule) {
            let at = entry.get("schedule").map_or(entry.at, |n| n.at);
            out.push(
                Mistake::new("SLP0115", at, "this is not a schedule")
                    .because(problem)
                    .fix("five fields: minute hour day month weekday, for example `0 3 * * *`"),
            );
        }
        schedules.push(Schedule {
            name: name.to_owned(),
            schedule: schedule.to_owned(),
        });
    }
    schedules
}

#[cfg(test)]
mod tests;
