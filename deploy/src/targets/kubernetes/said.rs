//! What the cluster says, in words for a person: which of it is repeated, and which may pass by itself.

use slipway_kubernetes::ClusterError;

use super::TargetError;

/// How it begins when a field is unknown or has a wrong type.
const NOT_TYPED: &str = "failed to create typed patch object";
/// What the words of an admission that says no have, with the same status as a missing right.
const ADMISSION: &str = "admission webhook";
/// As much of the cluster's own words as a person reads.
const WORDS_MAX: usize = 600;

/// What a person is told: never the cluster's own words, which may repeat a variable's value.
pub(crate) fn words(error: &ClusterError) -> String {
    match error {
        ClusterError::Refused {
            call,
            status,
            words,
        } => {
            let hint = match (status, missing_right(words)) {
                (403, Some(rule)) => format!(
                    ": its account lacks {rule}; deploy/packaging/kubernetes/coordinator.yaml has all rights that are \
                     needed"
                ),
                (401 | 403, _) => {
                    ": give its account the rights in deploy/packaging/kubernetes/coordinator.yaml"
                        .to_owned()
                }
                _ => "; the cluster's audit log has its reason".to_owned(),
            };
            format!("the cluster refused to {call} ({status}){hint}")
        }
        other => other.to_string(),
    }
}

/// The rule that an account lacks, as the cluster names it: `User "…" cannot patch resource "deployments" in
/// API group "apps" in the namespace "shop"`. Nothing else of its words is repeated.
fn missing_right(words: &str) -> Option<String> {
    let is = |word: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'/');
        (word.len() <= 100 && word.bytes().all(good)).then(|| word.to_owned())
    };
    let quoted = |after: &str| {
        let (_, rest) = words.split_once(after)?;
        is(rest.split_once('"')?.0)
    };
    let (_, rest) = words.split_once("cannot ")?;
    let verb = is(rest.split(' ').next()?)?;
    let resource = quoted("resource \"")?;
    let group = quoted("API group \"").unwrap_or_default();
    let namespace = quoted("namespace \"").unwrap_or_default();
    Some(format!(
        "the right to `{verb}` `{resource}` of API group `{group}` in namespace `{namespace}`"
    ))
}

pub(super) fn refusal(error: ClusterError) -> TargetError {
    match &error {
        // The server's own trouble, or too many calls: it may be another time.
        ClusterError::Refused { status, .. } if *status >= 500 || matches!(*status, 0 | 429) => {
            TargetError::Unknown(words(&error))
        }
        ClusterError::Config(_) | ClusterError::NotFound(_) | ClusterError::Refused { .. } => {
            TargetError::Refused(words(&error))
        }
        _ => TargetError::Unknown(words(&error)),
    }
}

/// What the cluster says about the user's own manifests: they hold no secret, and it names the field.
pub(super) fn sentence(error: ClusterError) -> TargetError {
    let theirs = |status: u16, words: &str| {
        let asked = (400..500).contains(&status) && !matches!(status, 401 | 403 | 429);
        // An unknown field or a wrong type is the server's own trouble by its number (500), and not by its words.
        asked || words.starts_with(NOT_TYPED) || words.contains(ADMISSION)
    };
    match error {
        ClusterError::Refused {
            call,
            status,
            words,
        } if theirs(status, &words) => {
            let plain = words.chars().filter(|c| !c.is_control());
            let words: String = plain.take(WORDS_MAX).collect();
            TargetError::Refused(format!(
                "the cluster refuses to {call} of the manifests ({status}): {words}"
            ))
        }
        other => refusal(other),
    }
}

pub(super) fn unreadable(error: &slipway_core::manifest::ManifestError) -> TargetError {
    TargetError::Refused(error.to_string())
}
