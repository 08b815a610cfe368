//! Distinct id types, so that a build's id can never stand where a stage's is asked for.
//!
//! Ids are ULIDs in their canonical text form (26 characters of Crockford base32, sortable by time
//! of creation). They are made at the rim, from a clock and randomness; here they are only checked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wrong with a text that should be an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{kind}` id must be 26 characters of Crockford base32")]
pub struct InvalidId {
    kind: &'static str,
}

fn is_ulid(text: &str) -> bool {
    text.len() == 26
        && text.as_bytes()[0] <= b'7'
        && text.bytes().all(|b| {
            b.is_ascii_digit()
                || (b.is_ascii_uppercase() && !matches!(b, b'I' | b'L' | b'O' | b'U'))
        })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The canonical text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_ulid(text) { Ok(Self(text.to_owned())) } else { Err(InvalidId { kind: $kind }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                if is_ulid(&text) { Ok(Self(text)) } else { Err(InvalidId { kind: $kind }) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A repository that Slipway builds.
    RepoId, "repository"
);
id!(
    /// One pipeline at one commit.
    BuildId, "build"
);
id!(
    /// One stage of one build.
    StageId, "stage"
);
id!(
    /// One agent, for as long as its registration lives.
    AgentId, "agent"
);
id!(
    /// One rollout of one version of a service into an environment ("deployment" in the API).
    RolloutId, "deployment"
);
id!(
    /// A webhook endpoint of one repository.
    HookId, "hook"
);
id!(
    /// One delivery in the inbox.
    DeliveryId, "delivery"
);
id!(
    /// One file kept from a stage.
    ArtifactId, "artifact"
);
id!(
    /// One feature flag.
    FlagId, "flag"
);
id!(
    /// One API token (its public half; the secret half is stored as a hash).
    TokenId, "token"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_canonical_ulid_or_refused() {
        assert!("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<BuildId>().is_ok());
        for bad in [
            "",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "01ARZ3NDEKTSV4RRFFQ69G5FAVX",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01arz3ndektsv4rrffq69g5fav",
            "../../../../../etc/passwd!",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
            "é1ARZ3NDEKTSV4RRFFQ69G5FA",
        ] {
            assert!(bad.parse::<BuildId>().is_err(), "{bad} was accepted");
        }
    }
}
