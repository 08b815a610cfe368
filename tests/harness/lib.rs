//! What whole-system tests share: the system in one process ([`Cluster`]) or in many
//! ([`Process`]), services of this machine ([`require()`]), a git repository, and every code host's
//! way of signing a delivery.
//!
//! Nothing here decides whether a test passes. Waiting is always for a condition, with a deadline.

pub mod bare;
pub mod cluster;
pub mod deliveries;
pub mod engine;
pub mod git;
pub mod installation;
pub mod machine;
pub mod nemesis;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod registry;
pub mod require;
pub mod rest;
pub mod rollouts;
pub mod several;
pub mod traffic;
pub mod wait;

pub use bare::BareAgent;
pub use cluster::{Cluster, Parts};
pub use deliveries::Hook;
pub use engine::EngineSocket;
pub use git::Repository;
pub use machine::{EngineAuthority, Machine};
pub use postgres::Postgres;
pub use process::Process;
pub use prometheus::Prometheus;
pub use proxy::Proxy;
pub use registry::ImageRegistry;
pub use require::require;
pub use rest::Rest;
pub use several::Several;
pub use wait::{eventually, free_address};
