//! What a cluster may answer.

/// Longest name of a field manager that the API allows.
const MANAGER_MAX: usize = 128;
/// As many of them as a person reads.
const MANAGERS_MAX: usize = 3;

/// Why the cluster did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Neither a service account nor a kubeconfig that can be used.
    #[error("no cluster to talk to: {0}; give this process a service account or a kubeconfig")]
    Config(String),
    /// No answer in time.
    #[error("{0}: no answer from the cluster in time")]
    Slow(&'static str),
    /// It is not there.
    #[error("{0}: there is no such object")]
    NotFound(&'static str),
    /// It is there already.
    #[error("{0}: it exists already")]
    Exists(&'static str),
    /// It changed since it was read.
    #[error("{0}: it changed at the same time")]
    Conflict(&'static str),
    /// Another field manager owns a part of it, and has it otherwise.
    #[error("{call}: somebody else ({managers}) owns a part of it")]
    Owned {
        /// What was asked.
        call: &'static str,
        /// Who, as the cluster names them.
        managers: String,
    },
    /// The cluster refused, in its words.
    #[error("{call}: the cluster refused ({status}): {words}")]
    Refused {
        /// What was asked.
        call: &'static str,
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// The connection failed.
    #[error("{call}: {words}")]
    Unreachable {
        /// What was asked.
        call: &'static str,
        /// Why.
        words: String,
    },
}

impl ClusterError {
    pub(crate) fn of(call: &'static str, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
                (404, _) => Self::NotFound(call),
                (409, "AlreadyExists") => Self::Exists(call),
                (409, _) => owned(call, &status).unwrap_or(Self::Conflict(call)),
                _ => Self::Refused {
                    call,
                    status: status.code,
                    words: status.message.clone(),
                },
            },
            other => Self::Unreachable {
                call,
                words: other.to_string(),
            },
        }
    }
}

/// A conflict over fields names each of them with its manager: `conflict with "kubectl-edit" using …`.
fn owned(call: &'static str, status: &kube::core::Status) -> Option<ClusterError> {
    let causes = status.details.as_ref().map(|details| &details.causes)?;
    let mut owners = causes
        .iter()
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .peekable();
    owners.peek()?;
    let mut managers: Vec<&str> = owners
        .filter_map(|cause| cause.message.split('"').nth(1))
        .filter(|name| name.len() <= MANAGER_MAX)
        .collect();
    managers.sort_unstable();
    managers.dedup();
    managers.truncate(MANAGERS_MAX);
    let managers = managers.join(", ");
    Some(ClusterError::Owned { call, managers })
}
