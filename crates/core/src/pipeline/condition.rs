//! `when`: a list of which any must hold, each a map of which all must hold.

use super::expression::Scope;
use super::facts::Facts;
use super::mistake::Mistake;
use super::names::Globs;
use super::tree::Node;
use crate::build::RunsOn;

/// What a `when` comes to for one build.
pub(super) struct Decision {
    /// `None` = included; otherwise why it is skipped.
    pub(super) skipped: Option<String>,
    /// After which outcome of the needs.
    pub(super) runs_on: RunsOn,
}

/// Judges a `when` for the build at hand.
pub(super) fn decide(when: Option<&Node>, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> Decision {
    let Some(when) = when else {
        return Decision {
            skipped: None,
            runs_on: RunsOn::Success,
        };
    };
    let mut reasons = Vec::new();
    for condition in when.items() {
        match holds(condition, scope, out) {
            None => {
                return Decision {
                    skipped: None,
                    runs_on: runs_on(condition),
                };
            }
            Some(reason) => reasons.push(reason),
        }
    }
    Decision {
        skipped: Some(format!("condition not met: {}", reasons.join("; "))),
        runs_on: RunsOn::Success,
    }
}

fn runs_on(condition: &Node) -> RunsOn {
    let status: Vec<&str> = condition
        .get("status")
        .map(|node| node.items().into_iter().filter_map(Node::text).collect())
        .unwrap_or_default();
    match (status.contains(&"success"), status.contains(&"failure")) {
        (true, true) => RunsOn::Always,
        (false, true) => RunsOn::Failure,
        _ => RunsOn::Success,
    }
}

/// `None` = holds; otherwise the first part that does not.
fn holds(condition: &Node, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> Option<String> {
    let facts = scope.facts;
    let mut failed = None;
    // Every part is looked at even when one fails already, so that every bad glob is reported.
    for (key, node) in condition.map().unwrap_or_default() {
        let good = match key.text.as_str() {
            "event" => words(node).any(|w| w == facts.event),
            "cron" => words(node).any(|w| w == facts.cron),
            "branch" => globs(node, &[facts.branch()], out),
            "tag" => globs(node, &[facts.tag()], out),
            "ref" => globs(node, &[&facts.ref_name], out),
            "path" => paths(node, facts, out),
            "if" => expression(node, scope, out),
            _ => true,
        };
        if !good && failed.is_none() {
            failed = Some(format!("`{}`", key.text));
        }
    }
    failed
}

fn words(node: &Node) -> impl Iterator<Item = &str> {
    node.items().into_iter().filter_map(Node::text)
}

/// Whether any pattern matches; a pattern that begins with `!` takes matches away.
pub(super) fn globs(node: &Node, texts: &[&str], out: &mut Vec<Mistake>) -> bool {
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    for pattern in words(node) {
        match pattern.strip_prefix('!') {
            Some(rest) => unwanted.push(rest),
            None => wanted.push(pattern),
        }
    }
    match (Globs::new(&wanted), Globs::new(&unwanted)) {
        (Ok(yes), Ok(no)) => texts.iter().any(|text| {
            !text.is_empty() && (wanted.is_empty() || yes.matches(text)) && !no.matches(text)
        }),
        (Err(problem), _) | (_, Err(problem)) => {
            out.push(Mistake::new("SLP0118", node.at, "a pattern cannot be read").because(problem));
            false
        }
    }
}

/// Unknown changes never skip: what the host cut short must be built.
fn paths(node: &Node, facts: &Facts, out: &mut Vec<Mistake>) -> bool {
    match &facts.changed {
        Some(changed) => {
            let changed: Vec<&str> = changed.iter().map(String::as_str).collect();
            globs(node, &changed, out)
        }
        None => {
            // The patterns are still checked.
            globs(node, &["x"], out);
            true
        }
    }
}

fn expression(node: &Node, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> bool {
    let Some(source) = node.text() else {
        return false;
    };
    match scope.holds(source) {
        Ok(good) => good,
        Err(problem) => {
            out.push(
                Mistake::new("SLP0113", node.at, "the condition cannot be evaluated")
                    .because(problem),
            );
            false
        }
    }
}

/// Whether `on` wants this event; otherwise why not.
pub(super) fn wanted(on: Option<&Node>, facts: &Facts, out: &mut Vec<Mistake>) -> Option<String> {
    if facts.event == "manual" {
        return None;
    }
    let Some(on) = on else {
        let default = matches!(facts.event.as_str(), "push" | "pull_request");
        return (!default).then(|| format!("`on` does not name {}", facts.event));
    };
    let Some(entries) = on.map() else {
        let named = words(on).any(|w| w == facts.event);
        return (!named).then(|| format!("`on` does not name {}", facts.event));
    };
    let Some((_, filter)) = entries.iter().find(|(key, _)| key.text == facts.event) else {
        return Some(format!("`on` does not name {}", facts.event));
    };
    if facts.event == "cron" {
        let known = filter
            .items()
            .into_iter()
            .any(|entry| entry.get("name").and_then(Node::text) == Some(facts.cron.as_str()));
        return (!known).then(|| format!("`on.cron` has no `{}`", facts.cron));
    }
    for (key, texts) in [("branches", facts.branch()), ("tags", facts.tag())] {
        if let Some(node) = filter.get(key)
            && !globs(node, &[texts], out)
        {
            return Some(format!(
                "`on.{}.{key}` does not match `{texts}`",
                facts.event
            ));
        }
    }
    if let Some(node) = filter.get("paths")
        && !paths(node, facts, out)
    {
        return Some(format!(
            "`on.{}.paths` matches no changed file",
            facts.event
        ));
    }
    None
}
