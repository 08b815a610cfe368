//! What can go wrong between us and an engine.

use std::time::Duration;

/// Waiting for the end of a container.
pub(crate) const WAIT: &str = "wait";

/// Why the engine did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// No engine answers.
    #[error("the Docker engine cannot be reached; start it, or let this user use its socket")]
    Unreachable(#[source] bollard::errors::Error),
    /// The call took longer than its deadline.
    #[error("the Docker engine did not finish `{call}` within {limit:?}")]
    Deadline {
        /// Which call.
        call: &'static str,
        /// Its deadline.
        limit: Duration,
    },
    /// The object does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The object is in a state that forbids the call, or its name is taken.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The engine refused the call.
    #[error("the engine refused `{call}` ({status}): {message}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// A stream of progress ended with an error (pull, push, build).
    #[error("{call} failed: {message}")]
    Failed {
        /// Which call.
        call: &'static str,
        /// The engine's words.
        message: String,
    },
    /// The engine's answer lacks something that it always has.
    #[error("the engine's answer to `{call}` lacks {what}")]
    Incomplete {
        /// Which call.
        call: &'static str,
        /// What is missing.
        what: &'static str,
    },
    /// The build context cannot be handed to the engine.
    #[error("the build context cannot be offered on a loopback port")]
    Context(#[source] std::io::Error),
    /// Where the container would stand is no plain folder of its own.
    #[error(
        "working_directory_refused: the working directory {path:?} is not used, because {problem}; \
         set `WORKDIR` in the image to an absolute path outside /proc, /sys and /dev"
    )]
    Workdir {
        /// The path, cut when it is long.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Talking to the engine failed halfway.
    #[error("talking to the Docker engine failed in `{call}`")]
    Transport {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
}

impl DockerError {
    /// Whether the object that was asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Whether the engine went away, or was never there: what it executes may go on without it.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Transport { .. } => true,
            // It closes what it has open before it stops.
            Self::Incomplete { call, .. } => *call == WAIT,
            _ => false,
        }
    }

    pub(crate) fn from_call(call: &'static str, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError {
                status_code: 404,
                message,
            } => Self::NotFound(message),
            Error::DockerResponseServerError {
                status_code: 409,
                message,
            } => Self::Conflict(message),
            Error::DockerResponseServerError {
                status_code: status,
                message,
            } => Self::Refused {
                call,
                status,
                message,
            },
            Error::DockerStreamError { error: message } => Self::Failed { call, message },
            Error::SocketNotFoundError(_) | Error::HyperLegacyError { .. } => {
                Self::Unreachable(error)
            }
            source => Self::Transport { call, source },
        }
    }
}
