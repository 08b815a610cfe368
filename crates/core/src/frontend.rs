//! Which program reads a Dockerfile. A Dockerfile may name an image that does (`# syntax=`), and a build
//! argument may name another one: that program speaks to the builder itself, so only the engine's own and
//! Docker's are let in (CVE-2026-33747).
//!
//! Owns the rule; does not read files.

/// Those that are let in, with any tag or digest.
const ALLOWED: [&str; 2] = ["docker/dockerfile", "docker.io/docker/dockerfile"];
/// The builder's own settings, which come as arguments: its frontend, the names of its caches.
const RESERVED: &str = "BUILDKIT_";

/// Why a Dockerfile is not built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontendRefused {
    /// It names a program of its own.
    #[error(
        "Dockerfile:{line}: the frontend `{named}` is not used: it would speak to the builder itself. Name \
         `docker/dockerfile` with any version, or leave the line out"
    )]
    Syntax {
        /// Line of the Dockerfile, from 1.
        line: usize,
        /// As it is written there.
        named: String,
    },
    /// It is none of text.
    #[error(
        "the Dockerfile begins with `{{`: a frontend's own notation is not read, only a Dockerfile's"
    )]
    Notation,
    /// An argument that is the builder's own.
    #[error("the build argument `{0}` is the builder's own setting and cannot be given")]
    Argument(String),
}

/// Judges a Dockerfile and the names of its arguments. Stricter than the builder, which reads directives only
/// at the very top: any comment before the first instruction counts.
///
/// # Errors
/// Why it is not built.
pub fn check<'a>(
    dockerfile: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<(), FrontendRefused> {
    let reserved = |name: &&str| name.to_ascii_uppercase().starts_with(RESERVED);
    if let Some(name) = arguments.into_iter().find(reserved) {
        return Err(FrontendRefused::Argument(name.chars().take(80).collect()));
    }
    let text = dockerfile.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{') {
        return Err(FrontendRefused::Notation);
    }
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let comment = line.strip_prefix('#').or_else(|| line.strip_prefix("//"));
        let Some(comment) = comment else {
            if line.is_empty() {
                continue;
            }
            return Ok(());
        };
        let Some((key, named)) = comment.split_once('=') else {
            continue;
        };
        let named = named.trim();
        if key.trim().eq_ignore_ascii_case("syntax") && !is_allowed(named) {
            return Err(FrontendRefused::Syntax {
                line: index + 1,
                named: named.escape_debug().to_string().chars().take(120).collect(),
            });
        }
    }
    Ok(())
}

fn is_allowed(named: &str) -> bool {
    let repository = named.split(['@']).next().unwrap_or_default();
    let repository = match repository.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => repository,
    };
    // What follows a space is the frontend's own command line.
    !named.contains(char::is_whitespace) && ALLOWED.contains(&repository)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(dockerfile: &str) -> Result<(), FrontendRefused> {
        check(dockerfile, [])
    }

    #[test]
    fn hostile_h097_only_the_builders_own_frontends_read_a_dockerfile() {
        for fine in [
            "FROM x\n",
            "# a comment\n# escape=`\nFROM x\n# syntax=evil/frontend\n",
            "# syntax=docker/dockerfile:1.7-labs\nFROM x\n",
            "# syntax=docker.io/docker/dockerfile@sha256:abc\nFROM x\n",
        ] {
            assert_eq!(said(fine), Ok(()), "{fine}");
        }
        for evil in [
            "# syntax=evil/frontend\nFROM x\n",
            "#syntax = evil/frontend\nFROM x\n",
            "# SYNTAX=evil/frontend\nFROM x\n",
            "// syntax=evil/frontend\n",
            "#!/bin/x\n# syntax=evil/frontend\n",
            "\u{feff}# syntax=evil/frontend\n",
            "\n\n# escape=`\n# syntax=evil/frontend\n",
            "# syntax=docker/dockerfile.evil\n",
            "# syntax=docker/dockerfile:1 --evil\n",
            "# syntax=evil.example:5000/docker/dockerfile\n",
            "{\"syntax\": \"evil/frontend\"}",
        ] {
            assert!(said(evil).is_err(), "{evil}");
        }
        let refused = said("FROM x\n").and_then(|()| said("\n# syntax=evil\n"));
        let Err(refused) = refused else {
            panic!("it is refused")
        };
        assert!(refused.to_string().contains("Dockerfile:2"), "{refused}");
    }

    #[test]
    fn hostile_h097_no_argument_is_the_builders_own_setting() {
        for name in [
            "BUILDKIT_SYNTAX",
            "BUILDKIT_CACHE_MOUNT_NS",
            "buildkit_syntax",
        ] {
            let refused = check("FROM x\n", ["VERSION", name]);
            assert_eq!(refused, Err(FrontendRefused::Argument(name.to_owned())));
        }
        assert_eq!(check("FROM x\n", ["VERSION"]), Ok(()));
    }
}
