//! Who stays where while two versions share traffic, and which half of the clients somebody is in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::table::FULL_BP;

/// Longest name of a header that clients are known by.
const HEADER_MAX: usize = 64;

/// What a client is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Stickiness {
    /// Nobody stays anywhere: exact turns.
    #[default]
    None,
    /// Browsers by a cookie that they are given; everybody else takes turns.
    Auto,
    /// By their address.
    Ip,
    /// By the value of a header.
    Header(String),
}

/// A word that names no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stickiness is `auto`, `none`, `ip` or `header:<name>`")]
pub struct UnknownStickiness;

impl FromStr for Stickiness {
    type Err = UnknownStickiness;
    fn from_str(text: &str) -> Result<Self, UnknownStickiness> {
        match text {
            "" | "none" => return Ok(Self::None),
            "auto" => return Ok(Self::Auto),
            "ip" => return Ok(Self::Ip),
            _ => {}
        }
        let name = text.strip_prefix("header:").ok_or(UnknownStickiness)?;
        let good = !name.is_empty()
            && name.len() <= HEADER_MAX
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if good {
            Ok(Self::Header(name.to_ascii_lowercase()))
        } else {
            Err(UnknownStickiness)
        }
    }
}

impl fmt::Display for Stickiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Ip => f.write_str("ip"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

impl TryFrom<String> for Stickiness {
    type Error = UnknownStickiness;
    fn try_from(text: String) -> Result<Self, UnknownStickiness> {
        text.parse()
    }
}

impl From<Stickiness> for String {
    fn from(stickiness: Stickiness) -> Self {
        stickiness.to_string()
    }
}

/// A client's point on the line of basis points. Salted by the new version, so that nobody is the first
/// to get every new version; the same for all of its weights, so that the 1 % stay in the 10 %.
#[must_use]
pub fn point(canary: &str, client: &[u8]) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(canary.as_bytes());
    hasher.update(&[0]);
    hasher.update(client);
    let hash = hasher.finalize();
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_le_bytes([a, b, c, d]) % FULL_BP
}

/// Which half of the clients somebody is in, whatever the deployment.
#[must_use]
pub fn second_half(client: &[u8]) -> bool {
    blake3::hash(client).as_bytes()[0] & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_percent_stay_in_the_ten_and_every_share_is_about_its_weight() {
        let clients: Vec<String> = (0..20_000).map(|i| format!("client-{i}")).collect();
        for weight in [100, 1_000, 5_000] {
            let inside = clients
                .iter()
                .filter(|c| point("v2", c.as_bytes()) < weight)
                .count();
            let share = inside as f64 / clients.len() as f64 * 10_000.0;
            assert!(
                (share / f64::from(weight) - 1.0).abs() < 0.15,
                "{weight}: {share}"
            );
        }
        let other = clients.iter().filter(|c| point("v3", c.as_bytes()) < 1_000);
        let both = other.filter(|c| point("v2", c.as_bytes()) < 1_000).count();
        assert!(both < 400, "the same clients are first each time: {both}");
        let second = clients.iter().filter(|c| second_half(c.as_bytes())).count();
        assert!((9_500..10_500).contains(&second), "{second}");
    }

    #[test]
    fn words_read_back_and_others_are_refused() {
        for word in ["none", "auto", "ip", "header:x-user"] {
            assert_eq!(word.parse::<Stickiness>().unwrap().to_string(), word);
        }
        for bad in [
            "cookie",
            "header:",
            "header:a b",
            "header:a\r\n",
            "HEADER:x",
        ] {
            assert!(bad.parse::<Stickiness>().is_err(), "{bad}");
        }
    }
}
