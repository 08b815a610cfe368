//! Bearer tokens: 256 random bits, recognisable by secret scanners, kept as a hash.

use sha2::{Digest as _, Sha256};
use slipway_daemon::Rng;

/// What a token is for: its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A person's or a program's API token.
    Api,
    /// Lets a process join.
    Join,
    /// One attempt's own.
    Attempt,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Api => "slp_",
            Self::Join => "slpj_",
            Self::Attempt => "slpt_",
        }
    }
}

/// Longest token that is looked at.
const LONGEST: usize = 200;

/// A new token. Shown once.
#[must_use]
pub fn mint(kind: Kind, rng: &Rng) -> String {
    let secret = hex::encode(rng.bytes::<32>());
    let checksum = crc32c::crc32c(secret.as_bytes());
    format!("{}{secret}{checksum:08x}", kind.prefix())
}

/// The stored form of a token of this kind; `None` when the text cannot be one (a typing error is
/// found by the checksum, without asking the store).
#[must_use]
pub fn hash(kind: Kind, text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return None;
    }
    let rest = text.strip_prefix(kind.prefix())?;
    let (secret, checksum) = rest.split_at_checked(64)?;
    if format!("{:08x}", crc32c::crc32c(secret.as_bytes())) != checksum {
        return None;
    }
    Some(hex::encode(Sha256::digest(text.as_bytes())))
}

/// The token of an `Authorization: Bearer …` value.
#[must_use]
pub fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_kind_and_whole_or_none_at_all() {
        let rng = Rng::seeded(3);
        let token = mint(Kind::Api, &rng);
        assert!(hash(Kind::Api, &token).is_some());
        assert_ne!(hash(Kind::Api, &token).as_deref(), Some(token.as_str()));
        assert_eq!(hash(Kind::Attempt, &token), None, "another kind");
        let last = token.chars().last().unwrap();
        let flipped = if last == '0' { '1' } else { '0' };
        let typo = format!("{}{flipped}", &token[..token.len() - 1]);
        for bad in [
            "",
            "slp_",
            &token[..70],
            &typo,
            &format!("{token}0"),
            &"é".repeat(40),
        ] {
            assert_eq!(hash(Kind::Api, bad), None, "{bad}");
        }
        assert_eq!(bearer(&format!("BEARER {token}")), Some(token.as_str()));
        assert_eq!(bearer(&token), None);
    }
}
