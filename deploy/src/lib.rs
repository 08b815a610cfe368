//! The deploy coordinator: brings versions of services into environments, and takes them back.
//!
//! Owns every write to the rollout tables, the effects on targets (Docker hosts) and on traffic (the
//! router), health and smoke checks, and the commands of people about rollouts. Does not decide what
//! comes next (that is `slipway_core::rollout`), build anything, or carry traffic.
//!
//! Invariants: an intent is stored before its effect; only what was read back counts; whoever lost
//! the lock or the lease stops; identity comes from the caller's token, or the
//! certificate of its connection, and from nothing else.

mod api;
pub mod args;
pub mod config;
mod loops;
pub mod metrics;
mod places;
mod probes;
mod run;
pub mod several;
pub mod targets;
pub mod traffic;
mod usecases;

pub use config::Config;
pub use places::{
    Adapters, Connect, DockerPlace, EnvironmentTarget, KubernetesPlace, Policy, ServiceAddress,
    ensure_environment,
};
pub use run::{IDENTITY_FILE, Parts, run, serve};
