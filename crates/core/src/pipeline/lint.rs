//! Warnings: a file that can be used, but that somebody should look at.

use crate::cache::keyed;

use super::mistake::{At, Mistake};
use super::plan::{EnvValue, Plan, PlannedStage, Sandbox};
use super::tree::Node;

/// The warnings of a file.
pub(super) fn warnings(file: &Node, plan: &Plan) -> Vec<Mistake> {
    let mut all = not_cloned(file, plan);
    all.extend(of_stages(file, plan));
    all
}

fn of_stages(file: &Node, plan: &Plan) -> Vec<Mistake> {
    plan.stages
        .iter()
        .flat_map(|stage| {
            let name = stage.matrix_of.as_deref().unwrap_or(&stage.name);
            let node = file.get("stages").and_then(|s| s.get(name));
            let place = |key: &str| {
                node.and_then(|s| s.get(key))
                    .or(node)
                    .map_or(At::START, |n| n.at)
            };
            let mut out = Vec::new();
            out.extend(floating_image(stage, place("image")));
            out.extend(trusted(stage, place("sandbox")));
            out.extend(secret_once(stage, name, place("environment")));
            out.extend(unmentioned_reports(stage, name, place("artifacts")));
            let own = |key: &str| node.and_then(|s| s.get(key)).map(|n| n.at);
            out.extend(without_effect(stage, own));
            out.extend(never_recalled(stage, own("memoize")));
            out.extend(not_kept(stage, own("cache")));
            out.extend(super::remote_cache::without_effect(
                stage,
                own("remote_cache"),
            ));
            out
        })
        .collect()
}

fn floating_image(stage: &PlannedStage, at: At) -> Option<Mistake> {
    let image = &stage.spec.image;
    let last = image.rsplit('/').next().unwrap_or_default();
    let untagged = !image.is_empty() && !image.contains('@') && !last.contains(':');
    (untagged || image.ends_with(":latest")).then(|| {
        Mistake::warning("SLP0201", at, format!("`{image}` names no version"))
            .because("the same commit may give another result tomorrow")
            .fix("name a version, or a digest")
    })
}

fn trusted(stage: &PlannedStage, at: At) -> Option<Mistake> {
    (stage.spec.sandbox == Sandbox::Trusted).then(|| {
        Mistake::warning("SLP0202", at, "asks for the trusted sandbox")
            .because("an administrator must allow it for this project")
    })
}

fn secret_once(stage: &PlannedStage, name: &str, at: At) -> Option<Mistake> {
    let secret = stage
        .spec
        .environment
        .iter()
        .find(|(_, value)| matches!(value, EnvValue::FromSecret(_)))
        .map_or("the secret", |(variable, _)| variable.as_str());
    stage.at_most_once.then(|| {
        let what = format!("stage `{name}` holds a secret and is executed at most once");
        Mistake::warning("SLP0203", at, what)
            .because(format!(
                "{secret} may have effects outside; if its agent is lost, a person decides"
            ))
            .fix("set `idempotent: true` if repeating it is harmless")
    })
}

fn no_effect(what: &str, at: At) -> Mistake {
    let what = format!("{what} has no effect in this version");
    Mistake::warning("SLP0205", at, what)
        .because("it is read and checked, so that files need not change later")
}

/// Keys of a stage that nothing acts on yet. Silence would be worse than their absence.
fn without_effect(stage: &PlannedStage, at: impl Fn(&str) -> Option<At>) -> Vec<Mistake> {
    let build = stage.spec.build.as_ref();
    let named = [
        (
            build.is_some() && !stage.spec.caches.is_empty(),
            "cache",
            "`cache` of an image stage",
        ),
        (
            build.is_some_and(|b| !b.secrets.is_empty()),
            "build",
            "`build.secrets`",
        ),
        (
            build.is_some_and(|b| b.platforms.len() > 1),
            "build",
            "every platform of `build.platforms` but the first",
        ),
    ];
    named
        .into_iter()
        .filter(|(written, ..)| *written)
        .filter_map(|(_, key, what)| Some(no_effect(what, at(key)?)))
        .collect()
}

/// Files that would decide, of a stage that is executed whatever they hold.
fn never_recalled(stage: &PlannedStage, at: Option<At>) -> Option<Mistake> {
    let named = !stage.spec.memoize_inputs.is_empty();
    let (never, at) = (crate::memo::never(stage).filter(|_| named)?, at?);
    let what = "`memoize.inputs` has no effect: the stage is executed every time";
    Some(Mistake::warning("SLP0206", at, what).because(never.to_string()))
}

/// What a `cache:` asks for and does not get.
fn not_kept(stage: &PlannedStage, at: Option<At>) -> Vec<Mistake> {
    let Some(at) = at.filter(|_| stage.spec.build.is_none()) else {
        return Vec::new();
    };
    let written = stage.spec.caches.iter().map(|cache| &cache.paths);
    let bad = written.flat_map(|paths| keyed::paths(paths).1);
    let mut out: Vec<Mistake> = bad
        .map(|(path, problem)| {
            Mistake::warning("SLP0207", at, format!("`{path}` is not kept")).because(problem)
        })
        .collect();
    if stage.spec.secrets().next().is_some() && !stage.spec.caches.is_empty() {
        let what = "`cache` is read and never saved: the stage holds a secret";
        out.push(
            Mistake::warning("SLP0207", at, what)
                .because("what it leaves may hold the secret, and others would begin with it")
                .fix("let a stage without secrets fill the cache"),
        );
    }
    out
}

/// The same for how the commit is fetched, which all stages share.
fn not_cloned(file: &Node, plan: &Plan) -> Vec<Mistake> {
    let clone = file.get("defaults").and_then(|d| d.get("clone"));
    let (Some(clone), Some(stage)) = (clone, plan.stages.first()) else {
        return Vec::new();
    };
    let asked = &stage.spec.clone;
    let named = [
        (asked.submodules, "submodules", "`clone.submodules`"),
        (asked.lfs, "lfs", "`clone.lfs`"),
    ];
    named
        .into_iter()
        .filter(|(asked, ..)| *asked)
        .filter_map(|(_, key, what)| Some(no_effect(what, clone.get(key)?.at)))
        .collect()
}

fn unmentioned_reports(stage: &PlannedStage, name: &str, at: At) -> Vec<Mistake> {
    let coverage = stage.spec.coverage.iter().map(|c| &c.path);
    stage
        .spec
        .junit
        .iter()
        .chain(coverage)
        .filter(|path| {
            let file_name = path.rsplit('/').next().unwrap_or(path);
            let plain = !path.contains(['*', '?', '[']);
            plain && !stage.spec.commands.iter().any(|c| c.contains(file_name))
        })
        .map(|path| {
            let what = format!("no command of `{name}` mentions `{path}`");
            Mistake::warning("SLP0204", at, what)
                .because("a promised report that is absent is shown as missing")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Facts, Outcome, plan};

    #[test]
    fn a_cache_that_is_not_kept_is_said_with_its_reason() {
        let facts = Facts {
            event: "push".to_owned(),
            ref_name: "refs/heads/main".to_owned(),
            ..Facts::default()
        };
        let said = |body: &str| {
            let text = format!(
                "version: 1\nstages:\n  a:\n    image: \"x:1\"\n    commands: [\"true\"]\n{body}"
            );
            let Ok(Outcome::Build(_, warnings)) = plan(&text, &facts) else {
                panic!("it is a good file");
            };
            let ours = warnings.into_iter().filter(|w| w.code == "SLP0207");
            ours.map(|w| w.message).collect::<Vec<_>>()
        };
        assert_eq!(said("    cache: {key: k, paths: [target]}\n"), [""; 0]);
        let home = said("    cache: {key: k, paths: [target, ~/.cargo]}\n");
        assert!(
            home.len() == 1 && home[0].contains("`~/.cargo`"),
            "{home:?}"
        );
        let secret =
            "    environment: {A: {from_secret: T}}\n    cache: {key: k, paths: [target]}\n";
        let secret = said(secret);
        assert!(
            secret.len() == 1 && secret[0].contains("never saved"),
            "{secret:?}"
        );
    }
}
