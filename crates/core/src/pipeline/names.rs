//! Names, globs and small values: what they may be.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Longest glob, characters.
const GLOB_MAX: usize = 512;

/// Whether a text may name a stage, service or environment.
pub(super) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 63
        && bytes
            .next()
            .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bytes.all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
}

/// Whether a text may name an environment variable of a stage.
pub(super) fn variable_problem(name: &str) -> Option<&'static str> {
    let mut bytes = name.bytes();
    let shaped = name.len() <= 256
        && bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !shaped {
        return Some("a variable is letters, digits and `_`, and begins with a letter");
    }
    if name.starts_with("SLIPWAY_") {
        return Some("names that begin with SLIPWAY_ are set by Slipway");
    }
    if matches!(name, "LD_PRELOAD" | "LD_LIBRARY_PATH" | "LD_AUDIT") {
        return Some("loader variables cannot be set");
    }
    None
}

/// A few glob patterns as one.
pub(super) struct Globs(GlobSet);

impl Globs {
    /// Compiles; `*` stays inside one folder, `**` does not.
    pub(super) fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            if pattern.len() > GLOB_MAX {
                return Err(format!("a pattern is longer than {GLOB_MAX} characters"));
            }
            let glob = GlobBuilder::new(pattern)
                .literal_separator(true)
                .build()
                .map_err(|e| e.kind().to_string())?;
            set.add(glob);
        }
        set.build().map(Self).map_err(|e| e.kind().to_string())
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// Globs that were checked when their file was read, to choose paths with.
pub struct Selector(Option<Globs>);

impl Selector {
    /// No glob at all selects everything, and so do globs that cannot be read: what is watched too
    /// closely is only executed too often.
    #[must_use]
    pub fn new(globs: &[String]) -> Self {
        let some = (!globs.is_empty()).then(|| Globs::new(globs).ok());
        Self(some.flatten())
    }

    /// Whether a path is selected.
    #[must_use]
    pub fn selects(&self, path: &str) -> bool {
        self.0.as_ref().is_none_or(|globs| globs.matches(path))
    }
}

/// Whether a path stays inside the workspace; what is wrong with it otherwise.
pub(super) fn path_problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        Some("the path is empty")
    } else if path.starts_with('/') {
        Some("the path must be relative to the workspace")
    } else if path.split('/').any(|part| part == "..") {
        Some("the path must not leave the workspace")
    } else if path.len() > 4_096 || path.contains('\0') {
        Some("the path is not usable")
    } else {
        None
    }
}

/// Bytes of `512MiB`, `1g`, `1000000`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// What is wrong with an image reference, if anything. The registry's own grammar is narrower; this
/// refuses what could be taken for something else than a reference.
pub(super) fn image_problem(reference: &str) -> Option<&'static str> {
    if reference.is_empty() {
        return Some("the image reference is empty");
    }
    if reference.len() > 512 {
        return Some("the image reference is longer than 512 characters");
    }
    if reference.starts_with('-') {
        return Some("an image reference cannot begin with `-`");
    }
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':' | b'@');
    if !reference.bytes().all(allowed) {
        return Some("an image reference has no spaces or other special characters");
    }
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    if let Some(digest) = digest {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Some("the digest must be sha256: and 64 hex digits");
        }
    }
    let path = rest
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .map_or(rest, |(path, _)| path);
    let name = path
        .split_once('/')
        .filter(|(host, _)| host.contains(['.', ':']) || *host == "localhost")
        .map_or(path, |(_, name)| name);
    let good = !name.is_empty()
        && name.split('/').all(|part| {
            part.bytes()
                .next()
                .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                && part.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
                })
        });
    (!good).then_some("the repository part is lower-case letters, digits, `.`, `_` and `-`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h036_only_image_references_are_image_references() {
        let digest = "a".repeat(64);
        for good in [
            "busybox",
            "python:3.13",
            "localhost:5000/x",
            "registry.example/team/shop:abc1234",
            &format!("busybox@sha256:{digest}"),
        ] {
            assert_eq!(image_problem(good), None, "{good}");
        }
        for bad in [
            "",
            "busybox --privileged",
            "--help",
            "registry.example/x:latest@sha256:abcd",
            "Busybox",
            "a//b",
            "x:5000/",
        ] {
            assert!(image_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn hostile_h038_variable_names_are_plain() {
        assert_eq!(variable_problem("DATABASE_URL"), None);
        for bad in [
            "A=B",
            "",
            "A\0B",
            "BASH_FUNC_x%%",
            "SLIPWAY_TOKEN",
            "1A",
            "LD_PRELOAD",
        ] {
            assert!(variable_problem(bad).is_some(), "{bad}");
        }
    }
}
