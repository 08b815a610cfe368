//! `remote_cache` of a stage: which tools are told where the cache speaks their protocol.

use crate::cache::remote::{self, Rights, Tool};

use super::mistake::{At, Mistake};
use super::plan::{PlannedStage, Sandbox};
use super::stages::Keys;
use super::tree::Node;

/// The tools, each once, in one order; what is none was reported by the grammar.
pub(super) fn tools(keys: Keys<'_>) -> Vec<Tool> {
    let Some(node) = keys.get("remote_cache") else {
        return Vec::new();
    };
    match node.boolean() {
        Some(true) => Tool::ALL.to_vec(),
        Some(false) => Vec::new(),
        None => {
            let words = node.items().into_iter().filter_map(Node::text);
            let mut tools: Vec<Tool> = words.filter_map(Tool::named).collect();
            tools.sort_unstable();
            tools.dedup();
            tools
        }
    }
}

/// What a stage asks for and does not get.
pub(super) fn without_effect(stage: &PlannedStage, at: Option<At>) -> Option<Mistake> {
    let spec = &stage.spec;
    let at = at.filter(|_| !spec.remote_cache.is_empty())?;
    let warn = |what: &str, why: &str| Some(Mistake::warning("SLP0208", at, what).because(why));
    if spec.build.is_some() {
        let why = "an image is built by the engine, outside any network of a stage";
        return warn("`remote_cache` of an image stage has no effect", why);
    }
    if spec.sandbox == Sandbox::Strict && spec.services.is_empty() {
        let why = "a strict stage without services has no network";
        return warn("`remote_cache` has no effect", why);
    }
    let holds_secret = spec.secrets().next().is_some();
    if remote::rights(holds_secret, stage.at_most_once) == Rights::ReadOnly {
        let why = if holds_secret {
            "the stage holds a secret: what it leaves may hold it too, and others would begin with it"
        } else {
            "the stage is executed at most once, for what it does outside"
        };
        return warn("`remote_cache` is read and never written", why);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{Facts, Mistake, Outcome, Plan, plan};
    use super::*;

    fn planned(more: &str) -> Result<(Plan, Vec<Mistake>), Vec<Mistake>> {
        let stage = format!("    image: \"x:1\"\n    commands: [\"true\"]\n{more}");
        let text = format!("version: 1\nstages:\n  a:\n{stage}");
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

    fn tools(more: &str) -> Vec<Tool> {
        let (plan, _) = planned(more).unwrap();
        plan.stages[0].spec.remote_cache.clone()
    }

    #[test]
    fn it_is_all_tools_or_none_or_those_that_are_named() {
        assert_eq!(tools(""), []);
        assert_eq!(tools("    remote_cache: false\n"), []);
        assert_eq!(tools("    remote_cache: true\n"), Tool::ALL);
        assert_eq!(tools("    remote_cache: nx\n"), [Tool::Nx]);
        let both = tools("    remote_cache: [turborepo, ccache, turborepo]\n");
        assert_eq!(both, [Tool::Ccache, Tool::Turborepo]);
    }

    #[test]
    fn a_tool_that_nobody_knows_is_refused_at_its_place() {
        let mistakes = planned("    remote_cache: [ccache, cache]\n").unwrap_err();
        assert_eq!(
            (mistakes[0].code.as_str(), mistakes[0].at.line),
            ("SLP0105", 6)
        );
        let said = mistakes[0].fix.clone().unwrap_or_default();
        assert!(said.contains("`ccache`"), "{said}");
    }

    #[test]
    fn what_it_does_not_do_is_said_with_its_reason() {
        let said = |more: &str| {
            let (_, warnings) = planned(more).unwrap();
            let ours = warnings.into_iter().filter(|w| w.code == "SLP0208");
            ours.map(|w| w.message).collect::<Vec<_>>()
        };
        assert_eq!(said("    remote_cache: true\n"), [""; 0]);
        let strict = said("    sandbox: strict\n    remote_cache: true\n");
        assert!(strict[0].contains("no effect"), "{strict:?}");
        let secret = said("    environment: {A: {from_secret: T}}\n    remote_cache: true\n");
        assert!(secret[0].contains("never written"), "{secret:?}");
    }
}
