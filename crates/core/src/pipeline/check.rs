//! Does the tree have the grammar's shape? Every departure is collected, with its place and a hint.

use super::duration::duration_ms;
use super::grammar::{Kind, Table};
use super::mistake::{Mistake, nearest};
use super::tree::{Key, Node, Value};

/// Checks one node against a kind; `path` says what it is, for messages.
pub(super) fn check(node: &Node, kind: &Kind, path: &str, out: &mut Vec<Mistake>) {
    match kind {
        Kind::Any => {}
        Kind::Maybe(_) if matches!(node.value, Value::Null) => {}
        Kind::Maybe(inner) => check(node, inner, path, out),
        Kind::Either(first, second) => check(node, chosen(node, first, second), path, out),
        Kind::Many(inner) => match &node.value {
            Value::List(items) => items.iter().for_each(|item| check(item, inner, path, out)),
            _ => check(node, inner, path, out),
        },
        Kind::List(inner) => match &node.value {
            Value::List(items) => items.iter().for_each(|item| check(item, inner, path, out)),
            _ => out.push(wrong(node, path, "a list")),
        },
        Kind::MapOf(inner) => match &node.value {
            Value::Map(entries) => {
                for (key, value) in entries {
                    check(value, inner, &format!("{path}.{}", key.text), out);
                }
            }
            _ => out.push(stages_as_list(node, path).unwrap_or_else(|| wrong(node, path, "a map"))),
        },
        Kind::Table(table) => check_table(node, table, path, out),
        _ => check_scalar(node, kind, path, out),
    }
}

fn stages_as_list(node: &Node, path: &str) -> Option<Mistake> {
    (path == "stages" && node.list().is_some()).then(|| {
        Mistake::new(
            "SLP0105",
            node.at,
            "`stages` is a map of stages, not a list of phases",
        )
        .fix("order is `needs` alone: write each stage under its name")
    })
}

/// Of two kinds the one whose outer shape fits.
fn chosen<'a>(node: &Node, first: &'a Kind, second: &'a Kind) -> &'a Kind {
    let fits = match first {
        Kind::Text => node.text().is_some(),
        Kind::Scalar => node.map().is_none() && node.list().is_none(),
        Kind::Bool => node.boolean().is_some(),
        Kind::Table(_) | Kind::MapOf(_) => node.map().is_some(),
        _ => true,
    };
    if fits { first } else { second }
}

fn check_scalar(node: &Node, kind: &Kind, path: &str, out: &mut Vec<Mistake>) {
    match kind {
        Kind::Text if node.text().is_none() => {
            let mut mistake = wrong(node, path, "a text");
            if node.scalar().is_some() || node.number().is_some() {
                mistake = mistake.fix("put it in quotes");
            }
            out.push(mistake);
        }
        Kind::Scalar if matches!(node.value, Value::Float(_)) => out.push(
            Mistake::new(
                "SLP0105",
                node.at,
                format!("`{path}` is a number with a point"),
            )
            .because("1.10 and 1.1 are the same number, but not the same text")
            .fix("put it in quotes"),
        ),
        Kind::Scalar if node.scalar().is_none() => {
            out.push(wrong(node, path, "a text, a boolean or a whole number"));
        }
        Kind::Bool if node.boolean().is_none() => {
            let mistake = wrong(node, path, "true or false");
            out.push(match node.text() {
                Some("yes" | "on" | "Yes" | "On") => mistake.fix("write `true`"),
                Some("no" | "off" | "No" | "Off") => mistake.fix("write `false`"),
                _ => mistake,
            });
        }
        Kind::Int(low, high) => match node.int() {
            Some(n) if (*low..=*high).contains(&n) => {}
            Some(n) => out.push(out_of_range(node, path, n, *low, *high)),
            None => out.push(wrong(node, path, "a whole number")),
        },
        Kind::Number(low, high) => match node.number() {
            Some(n) if (*low..=*high).contains(&n) => {}
            Some(n) => out.push(out_of_range(node, path, n, *low, *high)),
            None => out.push(wrong(node, path, "a number")),
        },
        Kind::Duration if node.text().and_then(duration_ms).is_none() => out.push(
            Mistake::new("SLP0119", node.at, format!("`{path}` is not a duration"))
                .because("a duration is a number and a unit: ms, s, m, h or d")
                .fix("for example `30s`, `1h30m`, `14d`"),
        ),
        Kind::Word(words) => check_word(node, words, path, out),
        _ => {}
    }
}

fn out_of_range<T: std::fmt::Display>(node: &Node, path: &str, n: T, low: T, high: T) -> Mistake {
    Mistake::new("SLP0106", node.at, format!("`{path}` is {n}"))
        .because(format!("it must be between {low} and {high}"))
}

fn check_word(node: &Node, words: &[&str], path: &str, out: &mut Vec<Mistake>) {
    let Some(word) = node.text() else {
        out.push(wrong(node, path, &one_of(words)));
        return;
    };
    if words.contains(&word) {
        return;
    }
    let mut mistake = Mistake::new("SLP0105", node.at, format!("`{path}` cannot be `{word}`"))
        .because(format!("it must be {}", one_of(words)));
    if let Some(near) = nearest(word, words.iter().copied()) {
        mistake = mistake.fix(format!("did you mean `{near}`?"));
    }
    out.push(mistake);
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn wrong(node: &Node, path: &str, expected: &str) -> Mistake {
    let what = format!("`{path}` is {}, not {expected}", node.kind());
    Mistake::new("SLP0105", node.at, what)
}

fn check_table(node: &Node, table: &'static Table, path: &str, out: &mut Vec<Mistake>) {
    let Some(entries) = node.map() else {
        out.push(wrong(node, path, "a map"));
        return;
    };
    for (key, value) in entries {
        if let Some(known) = table.keys.iter().find(|k| k.name == key.text) {
            let inner = if path.is_empty() {
                key.text.clone()
            } else {
                format!("{path}.{}", key.text)
            };
            check(value, &known.kind, &inner, out);
        } else if !table
            .free_prefix
            .is_some_and(|prefix| key.text.starts_with(prefix))
        {
            out.push(unknown_key(key, table, path));
        }
    }
    for missing in table.keys.iter().filter(|k| k.required) {
        let there = entries.iter().any(|(key, _)| key.text == missing.name);
        if !there && !is_misnamed(node, table, missing.name) {
            let place = if path.is_empty() {
                "the file".to_owned()
            } else {
                format!("`{path}`")
            };
            out.push(
                Mistake::new(
                    "SLP0108",
                    node.at,
                    format!("{place} has no `{}`", missing.name),
                )
                .because(missing.doc),
            );
        }
    }
}

/// Whether `name` is there under another name. Its unknown key is reported with the right one: that
/// it is missing would be a second mistake for one slip.
pub(super) fn is_misnamed(node: &Node, table: &Table, name: &str) -> bool {
    let known = |key: &Key| table.keys.iter().any(|k| k.name == key.text);
    let entries = node.map().unwrap_or_default();
    entries
        .iter()
        .filter(|(key, _)| !known(key))
        .any(|(key, _)| {
            match table
                .foreign
                .iter()
                .find(|(foreign, _)| *foreign == key.text)
            {
                Some((_, hint)) => *hint == name || hint.contains(&format!("`{name}`")),
                None => nearest(&key.text, table.keys.iter().map(|k| k.name)) == Some(name),
            }
        })
}

fn unknown_key(key: &Key, table: &Table, path: &str) -> Mistake {
    let place = if path.is_empty() {
        String::new()
    } else {
        format!(" in `{path}`")
    };
    let mistake = Mistake::new(
        "SLP0107",
        key.at,
        format!("unknown key `{}`{place}", key.text),
    );
    if let Some((_, hint)) = table.foreign.iter().find(|(name, _)| *name == key.text) {
        return mistake.fix(hint_text(hint));
    }
    match nearest(&key.text, table.keys.iter().map(|k| k.name)) {
        Some(near) => mistake.fix(format!("did you mean `{near}`?")),
        None => {
            let known: Vec<&str> = table.keys.iter().map(|k| k.name).collect();
            mistake.because(format!(
                "a {} has: {}",
                table.name.trim_matches('`'),
                known.join(", ")
            ))
        }
    }
}

fn hint_text(hint: &str) -> String {
    if hint.contains(' ') || hint.contains('`') {
        hint.to_owned()
    } else {
        format!("it is `{hint}` here")
    }
}
