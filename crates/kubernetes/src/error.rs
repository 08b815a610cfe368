//! What a cluster may answer.

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
    /// It changed since it was read, or another field manager owns a part of it.
    #[error("{0}: it changed at the same time, or somebody else owns a part of it")]
    Conflict(&'static str),
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
                (409, _) => Self::Conflict(call),
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
