//! Keys: relative paths that mean the same in a folder and in S3.

use std::fmt;

/// The text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an object key is 1–512 of letters, digits, `.`, `_`, `-` and `/`, with no empty or dotted part"
)]
pub struct InvalidKey;

/// A checked key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Checks a text.
    ///
    /// # Errors
    /// When it could leave the store's folder or mean two things.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        let parts = text
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.'));
        if text.is_empty() || text.len() > 512 || !text.bytes().all(plain) || !parts {
            return Err(InvalidKey);
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_leaves_its_folder() {
        assert!(Key::new("logs/b/s/1/0.zst").is_ok());
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/../b",
            ".a",
            "a\0",
            "a b",
            &"x".repeat(513),
        ] {
            assert_eq!(Key::new(bad), Err(InvalidKey), "{bad}");
        }
    }
}
