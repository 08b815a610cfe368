//! The cache daemon: blobs by digest, and workspaces made of them, for the agent beside it.
//!
//! Knows nothing of builds or stages. The cache only saves time: without it builds are slower, never
//! wrong, so whatever fails here is a miss. A blob's name is its hash, checked when it is written and
//! when it is read.

pub mod args;
pub mod blobs;
pub mod config;
mod counters;
pub mod index;
mod loops;
#[cfg(test)]
mod noise;
pub mod peers;
mod run;
mod server;
mod store;

pub use config::Config;
pub use counters::Counters;
pub use run::{Parts, run, serve};
pub use store::{Checked, Hit, Keep, Saved, Stats, Store, StoreError, Wanted};

/// The built-in settings, with comments.
pub const DEFAULT_CONFIG: &str = include_str!("default-config.toml");
