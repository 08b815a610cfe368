//! The cache that other build tools ask in their own protocols: what a stage may do there, under which
//! names, and what its tools are told.
//!
//! Owns the token of an attempt, its rights, the rule for keys, the variables, and which entries leave the
//! table first. Does not own whose scopes an attempt has (the dispatcher, [`crate::memo`]), nor any
//! protocol or byte of content (`cache-daemon`).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Bytes of a key, as other tools choose them.
pub const KEY_MAX: usize = 512;
/// Entries of one attempt: a compiler cache of a large project has one or two per file.
pub const ATTEMPT_ENTRIES_MAX: usize = 20_000;
/// Bytes that one attempt may bring, however large the store is …
pub const ATTEMPT_BYTES_MAX: u64 = 16 << 30;
/// … and at most this share of the store (percent), …
pub const ATTEMPT_SHARE: u64 = 10;
/// … or this one, when it executes code from outside.
pub const OUTSIDE_ATTEMPT_SHARE: u64 = 2;
/// Bytes of one entry.
pub const ENTRY_MAX: u64 = 2 << 30;
/// Entries of one host's table.
pub const ENTRIES_MAX: usize = 200_000;
/// Of these, those that builds of code from outside left (percent).
pub const OUTSIDE_SHARE: usize = 20;
/// An entry that nobody asked for in so long is none: its content has left by then.
pub const IDLE_DAYS: u64 = 8;

/// Separates these tokens from every other use of the hash.
const TOKEN: &str = "slipway remote cache token v1";
/// A team, for a tool that wants one. It says nothing: whose entries are read is in no request.
const TEAM: &str = "slipway";

/// A build tool that has a remote cache of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// Bazel, over HTTP.
    Bazel,
    /// ccache, over HTTP.
    Ccache,
    /// Gradle's HTTP build cache.
    Gradle,
    /// Nx, self-hosted.
    Nx,
    /// sccache, over WebDAV.
    Sccache,
    /// Turborepo.
    Turborepo,
}

impl Tool {
    /// All of them, in the order of [`Self::NAMES`].
    pub const ALL: [Self; 6] = [
        Self::Bazel,
        Self::Ccache,
        Self::Gradle,
        Self::Nx,
        Self::Sccache,
        Self::Turborepo,
    ];
    /// As they are written in a pipeline file.
    pub const NAMES: &'static [&'static str] =
        &["bazel", "ccache", "gradle", "nx", "sccache", "turborepo"];

    /// The tool of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let at = Self::NAMES.iter().position(|known| *known == name)?;
        Self::ALL.get(at).copied()
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let at = Self::ALL.iter().position(|known| *known == self);
        at.and_then(|at| Self::NAMES.get(at)).unwrap_or(&"")
    }
}

/// What a stage may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Read, and leave entries behind when it passed.
    ReadWrite,
    /// Read: what it would leave could hold a secret, or it is executed for what it does outside.
    ReadOnly,
}

/// What a stage may do that was given scopes to read.
#[must_use]
pub fn rights(holds_secret: bool, at_most_once: bool) -> Rights {
    if holds_secret || at_most_once {
        Rights::ReadOnly
    } else {
        Rights::ReadWrite
    }
}

/// The token of one attempt's door: made of the attempt's own, which nobody can find out from it, so that
/// an agent that comes back to a stage still knows what to mask. `None` = there is nothing to make it of.
#[must_use]
pub fn token(of_attempt: &str, attempt: &str) -> Option<String> {
    if of_attempt.is_empty() {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key(TOKEN);
    for part in [of_attempt, attempt] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    Some(hasher.finalize().to_hex().to_string())
}

/// What is wrong with a key that a tool sent, if anything. It never becomes part of a path; what is
/// refused here would only be strange in a log.
#[must_use]
pub fn key_problem(key: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~+=@,:/".contains(c);
    if key.is_empty() {
        Some("the key is empty")
    } else if key.len() > KEY_MAX {
        Some("the key is longer than 512 bytes")
    } else if !key.chars().all(plain) {
        Some("the key holds a character that no tool uses")
    } else if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("the key is a path to somewhere else")
    } else {
        None
    }
}

/// Bytes that one attempt may bring to a store of this quota.
#[must_use]
pub fn attempt_bytes(quota: u64, trusted: bool) -> u64 {
    let share = if trusted {
        ATTEMPT_SHARE
    } else {
        OUTSIDE_ATTEMPT_SHARE
    };
    (quota / 100 * share).min(ATTEMPT_BYTES_MAX)
}

/// The variables that tell these tools where the cache is.
#[must_use]
pub fn environment(
    tools: &[Tool],
    at: SocketAddr,
    token: &str,
    rights: Rights,
) -> BTreeMap<String, String> {
    let url = format!("http://{at}");
    let read_only = rights == Rights::ReadOnly;
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        all.insert(name.to_owned(), value);
    };
    set("SLIPWAY_CACHE_URL", url.clone());
    set("SLIPWAY_CACHE_TOKEN", token.to_owned());
    for tool in tools {
        match tool {
            // They read no variables: a flag and a script of the repository name the two above.
            Tool::Bazel | Tool::Gradle => {}
            Tool::Ccache => {
                let only = if read_only { "|read-only=true" } else { "" };
                let storage = format!("http://slipway:{token}@{at}/ccache{only}");
                set("CCACHE_REMOTE_STORAGE", storage);
            }
            Tool::Nx => {
                set("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", url.clone());
                set("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN", token.to_owned());
            }
            Tool::Sccache => {
                set("SCCACHE_WEBDAV_ENDPOINT", format!("{url}/sccache"));
                set("SCCACHE_WEBDAV_TOKEN", token.to_owned());
            }
            Tool::Turborepo => {
                set("TURBO_API", url.clone());
                set("TURBO_TOKEN", token.to_owned());
                set("TURBO_TEAM", TEAM.to_owned());
                if read_only {
                    set("TURBO_REMOTE_CACHE_READ_ONLY", "true".to_owned());
                }
            }
        }
    }
    all
}

/// An entry of the table, as a sweep sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether builds of trusted code wrote it.
    pub trusted: bool,
    /// When it was last asked for or written.
    pub used_at: Timestamp,
}

/// The places of those entries that leave: the long unused, and the least recently used beyond the limit
/// of `max` entries. Those of outside builds make room for each other only.
#[must_use]
pub fn leaving(seen: &[Seen], max: usize, now: Timestamp) -> Vec<usize> {
    let idle = std::time::Duration::from_secs(IDLE_DAYS * 24 * 3_600);
    let mut order: Vec<usize> = (0..seen.len()).collect();
    let key = |at: &usize| {
        seen.get(*at)
            .map(|s| (!s.trusted, std::cmp::Reverse(s.used_at)))
    };
    order.sort_by_key(key);
    let (mut outside, mut all) = (0_usize, 0_usize);
    let mut out = Vec::new();
    for at in order {
        let Some(entry) = seen.get(at) else { continue };
        let crowded = !entry.trusted && outside >= max / 100 * OUTSIDE_SHARE;
        if crowded || all >= max || now.since(entry.used_at) > idle {
            out.push(at);
            continue;
        }
        all += 1;
        outside += usize::from(!entry.trusted);
    }
    out.sort_unstable();
    out
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
