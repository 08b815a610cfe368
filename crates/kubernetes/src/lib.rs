//! The cluster client.
