//! What code from outside (somebody without the right to push) does not get.
//!
//! Its pipeline file decides what its own build does, and nothing beside it: no secret, nothing that
//! other builds take from this host, no place before them, no group that would hold them up.

use crate::pipeline::{Group, StageSpec};

/// The label that such code's stages ask of an agent: its strict sandbox was proven from inside. A
/// pipeline file cannot take it back: it is put in last.
pub const PROVEN: (&str, &str) = ("slipway.sandbox", "strict");

/// Why a stage of such code is not executed at all; `None` = it may be.
#[must_use]
pub fn withheld(spec: &StageSpec) -> Option<&'static str> {
    if spec.secrets().next().is_some() {
        return Some("it needs a secret, and code from outside gets none");
    }
    // An image is built by the host's own engine, kept under a name that other builds may use, and
    // pushed with the host's login.
    if spec.build.is_some() {
        return Some("it builds an image on the agent's engine, and code from outside may not");
    }
    None
}

/// A group of such code: its name is the ref's own, so that it never counts among the project's.
#[must_use]
pub fn group(ref_name: &str, group: &Group) -> Group {
    Group {
        name: format!("{ref_name}/{}", group.name),
        ..group.clone()
    }
}

/// The priority of a stage of such code: it may step back, never forward.
#[must_use]
pub fn priority(wanted: Option<u8>, usual: u8) -> u8 {
    wanted.map_or(usual, |wanted| wanted.min(usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Facts, Outcome, plan};

    fn spec(keys: &str) -> StageSpec {
        let text = format!("version: 1\nstages:\n  a: {{{keys}}}\n");
        let facts = Facts {
            untrusted: true,
            event: "pull_request".to_owned(),
            ref_name: "refs/pull/7/head".to_owned(),
            ..Facts::default()
        };
        match plan(&text, &facts) {
            Ok(Outcome::Build(plan, _)) => plan.stages[0].spec.clone(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn hostile_h042_no_secret_by_whatever_key_and_no_image_for_code_from_outside() {
        let plain = "image: \"x:1\", commands: [make]";
        assert_eq!(withheld(&spec(plain)), None);
        let secret = "{from_secret: TOKEN}";
        for keys in [
            format!("{plain}, environment: {{A: {secret}}}"),
            format!("{plain}, services: {{db: {{image: \"x:1\", environment: {{A: {secret}}}}}}}"),
            format!("build: {{tags: [\"h:5000/x:1\"], secrets: {{id: {secret}}}}}"),
        ] {
            let why = withheld(&spec(&keys)).unwrap_or_default();
            assert!(why.contains("secret"), "{keys}: {why}");
        }
        for push in ["true", "false"] {
            let keys = format!("build: {{tags: [\"h:5000/x:1\"], push: {push}}}");
            assert!(withheld(&spec(&keys)).is_some(), "{keys}");
        }
    }

    #[test]
    fn hostile_h042_code_from_outside_holds_up_and_overtakes_nobody() {
        let production = Group {
            name: "production".to_owned(),
            limit: 1,
        };
        let its = group("refs/pull/7/head", &production);
        assert_ne!(its.name, production.name);
        assert_eq!(its.limit, 1);
        assert_eq!(priority(Some(9), 5), 5);
        assert_eq!(priority(Some(2), 5), 2);
        assert_eq!(priority(None, 5), 5);
    }
}
