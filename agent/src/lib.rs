//! The agent: executes attempts in Docker, safely, and tells the dispatcher how they end.
//!
//! Reading order: `link` (the stream to the dispatcher; leases) → `attempt` (one attempt from
//! assignment to result) → `sandbox` (port: Docker, and a fake) → `workspace::checkout` → `log_stream`.
//! Knows no other agent and opens no port but health. Whatever it holds is on disk before it acts, so
//! that a restart re-adopts its containers.

pub mod args;
pub mod attempt;
mod cache_watch;
pub mod capacity;
mod clean_up;
pub mod config;
mod dispatchers;
mod engine_watch;
pub mod held;
mod inventory;
mod link;
mod log_stream;
mod logins;
pub mod probe;
mod run;
pub mod sandbox;
pub mod workspace;

pub use run::{IDENTITY_FILE, Parts, run, serve};
