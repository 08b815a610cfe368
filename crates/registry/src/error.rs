//! What can go wrong with an image registry.

use std::time::Duration;

/// Why a question to an image registry has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such image.
    #[error("image `{0}` is not in its registry")]
    NotFound(String),
    /// The login is missing, wrong, or not allowed to read it.
    #[error("the image registry refuses us for `{image}`; check the login for its host")]
    Unauthorized {
        /// Which.
        image: String,
    },
    /// It does not answer, or not with sense.
    #[error("the image registry of `{image}` cannot be used: {problem}")]
    Unavailable {
        /// Which.
        image: String,
        /// What happened.
        problem: String,
    },
    /// It did not answer in time.
    #[error("the image registry of `{image}` did not answer within {limit:?}")]
    Deadline {
        /// Which.
        image: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The reference cannot be asked for there.
    #[error("`{0}` is not a reference of this registry")]
    Foreign(String),
}
