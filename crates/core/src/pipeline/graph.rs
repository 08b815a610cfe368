//! The order of stages: every need exists, nothing waits for itself.

use std::collections::{BTreeMap, BTreeSet};

use super::mistake::{At, Mistake, nearest};

/// A stage of the file before expansion, as far as order goes.
pub(super) struct Vertex<'a> {
    pub(super) name: &'a str,
    pub(super) needs: Vec<(&'a str, At)>,
}

/// Refuses unknown needs, needs of oneself, and cycles, naming the cycle.
pub(super) fn check(stages: &[Vertex<'_>], out: &mut Vec<Mistake>) {
    let names: BTreeSet<&str> = stages.iter().map(|s| s.name).collect();
    let mut edges: BTreeMap<&str, Vec<(&str, At)>> = BTreeMap::new();
    for stage in stages {
        let mut seen = BTreeSet::new();
        for (need, at) in &stage.needs {
            if *need == stage.name {
                out.push(Mistake::new(
                    "SLP0111",
                    *at,
                    format!("stage `{need}` needs itself"),
                ));
            } else if !names.contains(need) {
                let mut mistake =
                    Mistake::new("SLP0110", *at, format!("there is no stage `{need}`"));
                if let Some(near) = nearest(need, names.iter().copied()) {
                    mistake = mistake.fix(format!("did you mean `{near}`?"));
                }
                out.push(mistake);
            } else if !seen.insert(*need) {
                out.push(Mistake::new(
                    "SLP0110",
                    *at,
                    format!("`{need}` is needed twice"),
                ));
            } else {
                edges.entry(stage.name).or_default().push((need, *at));
            }
        }
    }
    if let Some((cycle, at)) = find_cycle(&names, &edges) {
        out.push(
            Mistake::new("SLP0111", at, "stages wait for each other")
                .because(cycle.join(" → "))
                .fix("remove one of these needs"),
        );
    }
}

/// The first cycle, by an iterative depth-first walk: a chain of needs may be as long as the file.
fn find_cycle<'a>(
    names: &BTreeSet<&'a str>,
    edges: &BTreeMap<&'a str, Vec<(&'a str, At)>>,
) -> Option<(Vec<&'a str>, At)> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in names {
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, next)) = path.last_mut() {
            let following = edges.get(name).and_then(|e| e.get(*next));
            let Some((need, at)) = following else {
                done.insert(*name);
                path.pop();
                continue;
            };
            *next += 1;
            if done.contains(need) {
                continue;
            }
            if let Some(at_path) = path.iter().position(|(n, _)| n == need) {
                let mut cycle: Vec<&str> = path[at_path..].iter().map(|(n, _)| *n).collect();
                cycle.push(need);
                return Some((cycle, *at));
            }
            path.push((need, 0));
        }
    }
    None
}
