//! The coordinator's API.

mod auth;
mod rollouts;
mod status;

pub(crate) use rollouts::RolloutsApi;
