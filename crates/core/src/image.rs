//! Image references: `[registry/]repository[:tag][@sha256:…]`, parsed once into a closed type and
//! handed to the engine's API, never to a command line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A checked reference to an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct InvalidImage {
    text: String,
    reason: &'static str,
}

/// Longest repository name (as image registries have it).
const NAME_MAX: usize = 255;
/// Longest tag.
const TAG_MAX: usize = 128;

impl ImageReference {
    /// Host (with port) of the image registry; `None` = the engine's default.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// Path inside the image registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and path, without tag and digest.
    #[must_use]
    pub fn repository(&self) -> String {
        match &self.registry {
            Some(host) => format!("{host}/{}", self.path),
            None => self.path.clone(),
        }
    }

    /// The tag, when there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `sha256:…`, when there is one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same image pinned to `digest`.
    ///
    /// # Errors
    /// When `digest` is not `sha256:` and 64 lower-case hex digits.
    pub fn with_digest(&self, digest: &str) -> Result<Self, InvalidImage> {
        if !is_digest(digest) {
            return Err(refuse(
                digest,
                "a digest is sha256: and 64 lower-case hex digits",
            ));
        }
        let digest = Some(digest.to_owned());
        Ok(Self {
            digest,
            tag: None,
            ..self.clone()
        })
    }

    /// Whether the image registry is on this machine, where plain HTTP is used.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.registry.as_deref().unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name == "localhost" || name.starts_with("127.") || name == "[::1]"
    }
}

fn refuse(text: &str, reason: &'static str) -> InvalidImage {
    InvalidImage {
        text: text.chars().take(80).collect(),
        reason,
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first
        && text.len() <= TAG_MAX
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_component(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edge = |b: Option<u8>| b.is_some_and(ok);
    edge(text.bytes().next())
        && edge(text.bytes().last())
        && text
            .bytes()
            .all(|b| ok(b) || matches!(b, b'.' | b'_' | b'-'))
        && !text.contains("..")
        && !text.contains("___")
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !text.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let port_ok = port.is_none_or(|p| !p.is_empty() && p.parse::<u16>().is_ok());
    let bracketed = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .is_some_and(|n| n.parse::<std::net::Ipv6Addr>().is_ok());
    let named = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        && !name.starts_with(['.', '-'])
        && !name.ends_with(['.', '-']);
    port_ok && (bracketed || named)
}

impl FromStr for ImageReference {
    type Err = InvalidImage;

    fn from_str(text: &str) -> Result<Self, InvalidImage> {
        if text.is_empty() {
            return Err(refuse(text, "it is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => {
                return Err(refuse(
                    text,
                    "a digest is sha256: and 64 lower-case hex digits",
                ));
            }
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                if !is_host(host) {
                    return Err(refuse(text, "its host is not a host name"));
                }
                (Some(host.to_owned()), rest)
            }
            _ => (None, rest),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) if is_tag(tag) => (path, Some(tag.to_owned())),
            Some(_) => return Err(refuse(text, "its tag holds what a tag cannot hold")),
            None => (rest, None),
        };
        if path.len() > NAME_MAX || !path.split('/').all(is_component) {
            return Err(refuse(
                text,
                "a repository is lower-case letters, digits, `.`, `_`, `-` and `/`",
            ));
        }
        Ok(Self {
            registry,
            path: path.to_owned(),
            tag,
            digest,
        })
    }
}

impl TryFrom<String> for ImageReference {
    type Error = InvalidImage;
    fn try_from(text: String) -> Result<Self, InvalidImage> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(image: ImageReference) -> Self {
        image.to_string()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart_and_shown_as_it_came() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, registry, path, tag) in [
            ("busybox", None, "busybox", None),
            ("library/busybox:1", None, "library/busybox", Some("1")),
            (
                "127.0.0.1:5000/shop:ab1",
                Some("127.0.0.1:5000"),
                "shop",
                Some("ab1"),
            ),
            ("localhost/a/b__c", Some("localhost"), "a/b__c", None),
            (
                "registry.example/x:V1.2-r_3",
                Some("registry.example"),
                "x",
                Some("V1.2-r_3"),
            ),
        ] {
            let image: ImageReference = text.parse().unwrap();
            assert_eq!(image.registry(), registry, "{text}");
            assert_eq!((image.path(), image.tag()), (path, tag), "{text}");
            assert_eq!(image.to_string(), text);
            let pinned = image.with_digest(&digest).unwrap();
            assert_eq!(pinned.digest(), Some(digest.as_str()));
            assert_eq!(pinned.to_string().parse(), Ok(pinned));
        }
    }

    #[test]
    fn hostile_h036_what_is_no_reference_is_refused() {
        let cut = format!("registry.example/x:latest@sha256:{}", "a".repeat(63));
        for bad in [
            "",
            "busybox --privileged",
            "--privileged",
            "Busybox",
            "x:",
            "x@",
            "a//b",
            "/a",
            "a/",
            "../a",
            "x:tag:tag",
            "host:99999/x",
            "host:/x",
            "x:a b",
            "x\n",
            "é",
            cut.as_str(),
        ] {
            assert!(
                bad.parse::<ImageReference>().is_err(),
                "{bad:?} was accepted"
            );
        }
    }
}
