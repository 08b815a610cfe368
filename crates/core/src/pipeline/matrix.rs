//! `matrix`: one stage per combination, counted before anything is made.

use std::collections::BTreeMap;

use super::mistake::Mistake;
use super::tree::Node;

/// Stages of one build, after expansion.
pub const STAGES_MAX: usize = 500;

/// One combination: axis → value.
pub(super) type Cell = BTreeMap<String, String>;

/// The combinations of a stage; one empty combination without a matrix. `budget` is how many more
/// stages the build may have.
pub(super) fn expand(matrix: Option<&Node>, budget: usize, out: &mut Vec<Mistake>) -> Vec<Cell> {
    let Some(matrix) = matrix else {
        return vec![Cell::new()];
    };
    let axes = axes(matrix, out);
    let product = axes
        .iter()
        .try_fold(1_usize, |n, (_, values)| n.checked_mul(values.len()));
    let included = matrix.get("include").map_or(0, |n| n.items().len());
    if product
        .and_then(|n| n.checked_add(included))
        .is_none_or(|n| n > budget)
    {
        out.push(
            Mistake::new("SLP0112", matrix.at, "too many stages")
                .because(format!(
                    "a build has at most {STAGES_MAX} stages, matrices expanded"
                ))
                .fix("drop values of an axis, or use `exclude`"),
        );
        return Vec::new();
    }
    let mut cells = vec![Cell::new()];
    for (axis, values) in &axes {
        cells = cells
            .iter()
            .flat_map(|cell| {
                values.iter().map(move |value| {
                    let mut cell = cell.clone();
                    cell.insert(axis.clone(), value.clone());
                    cell
                })
            })
            .collect();
    }
    if axes.is_empty() {
        cells.clear();
    }
    let excluded = combinations(matrix.get("exclude"));
    cells.retain(|cell| {
        !excluded.iter().any(|out| {
            out.iter()
                .all(|(axis, value)| cell.get(axis) == Some(value))
        })
    });
    for extra in combinations(matrix.get("include")) {
        if !cells.contains(&extra) {
            cells.push(extra);
        }
    }
    if cells.is_empty() {
        out.push(
            Mistake::new("SLP0106", matrix.at, "the matrix has no combination")
                .fix("give it an axis, for example `python: [\"3.12\", \"3.13\"]`"),
        );
    }
    cells
}

fn axes(matrix: &Node, out: &mut Vec<Mistake>) -> Vec<(String, Vec<String>)> {
    let mut axes = Vec::new();
    for (key, node) in matrix.map().unwrap_or_default() {
        if matches!(
            key.text.as_str(),
            "include" | "exclude" | "fail_fast" | "max_parallel"
        ) {
            continue;
        }
        let mut values = Vec::new();
        for item in node.items() {
            match item.scalar() {
                Some(value) => values.push(value),
                None => out.push(
                    Mistake::new(
                        "SLP0105",
                        item.at,
                        format!("axis `{}` holds {}", key.text, item.kind()),
                    )
                    .because("an axis is a list of texts; 1.10 and 1.1 are the same number")
                    .fix("put each value in quotes"),
                ),
            }
        }
        if !values.is_empty() {
            axes.push((key.text.clone(), values));
        }
    }
    axes
}

fn combinations(node: Option<&Node>) -> Vec<Cell> {
    node.map(Node::items)
        .unwrap_or_default()
        .into_iter()
        .map(|entry| {
            entry
                .map()
                .unwrap_or_default()
                .iter()
                .filter_map(|(key, value)| Some((key.text.clone(), value.scalar()?)))
                .collect()
        })
        .collect()
}

/// The name of one combination's stage: readable, a valid name, unique among `taken`.
pub(super) fn cell_name(stage: &str, cell: &Cell, taken: &[String]) -> String {
    let mut name = stage.to_owned();
    for value in cell.values() {
        name.push('-');
        name.extend(value.chars().map(|c| {
            let c = c.to_ascii_lowercase();
            if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_') {
                c
            } else {
                '-'
            }
        }));
    }
    name.truncate(58);
    let mut unique = name.clone();
    let mut n = 2;
    while taken.contains(&unique) {
        unique = format!("{name}-{n}");
        n += 1;
    }
    unique
}
