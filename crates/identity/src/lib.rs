//! Who a process of this installation is, and how its connections prove it.
//!
//! Owns the installation's authority, certificates (X.509, RFC 5280) and requests for them
//! (PKCS #10, RFC 2986), both ends of mutual TLS 1.3 for gRPC, joining and renewal, and the
//! enforcement of core's table (role, method) on every call. Does not own who is revoked (the store
//! says so, the dispatcher asks) nor what a caller may do with a stage or a rollout.
//!
//! Invariant: a peer's name comes out of the certificate of its connection and out of nothing else;
//! certificates are written here from scratch, out of a name that the server chose and a public key.

pub mod authority;
pub mod certificate;
pub mod connect;
pub mod credentials;
pub mod guard;
pub mod incoming;
pub mod join;
pub mod own;
pub mod peers;
pub mod request;
mod verify;

pub use authority::Authority;
pub use certificate::Peer;
pub use credentials::Credentials;
pub use guard::Guard;
pub use incoming::{Connection, Connections, Incoming};
pub use join::{Establish, JoinToken, Joined};
pub use own::Own;

/// What can go wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate, key or request that cannot be used.
    #[error("{what}: {why}")]
    Unusable {
        /// Which thing.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// TLS refuses the settings.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl IdentityError {
    pub(crate) fn unusable(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Unusable {
            what,
            why: why.to_string(),
        }
    }
}
