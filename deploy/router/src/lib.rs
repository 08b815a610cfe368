//! The traffic router: a process of its own between clients and the instances of a service.
//!
//! Owns requests on a Docker host: listeners, the choice of an instance, retries, upgrades, counters,
//! and a table per service that survives restarts. Knows routes, weights, instances and fences; not
//! builds, images or strategies.
//!
//! Invariants: a request that begins after an acknowledged commit uses the committed table; a request
//! is counted at its version before the first wait, so a drained version has nothing left in it; what
//! may have been executed is repeated only when its method allows that; a table is durable before it
//! is used; an older fence changes nothing.

mod access_log;
pub mod args;
mod ask;
pub mod config;
mod control;
mod convert;
mod counters;
mod guard;
mod hand_over;
mod in_flight;
mod metrics;
mod proxy;
mod remote;
mod run;
mod service;
mod services;
mod state_file;
mod table;
mod tls;

pub use config::Config;
pub use remote::IDENTITY_FILE;
pub use run::{Parts, run, serve};

/// What `in_flight` is made of; its test brings others that watch.
mod atomics {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}
