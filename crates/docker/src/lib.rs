//! The Docker engine: containers, images, networks, volumes, builds, events. The only home of
//! bollard.
//!
//! Owns how Slipway speaks to an engine: every call has a deadline, everything we make carries our
//! labels, every error is one of [`DockerError`]. Does not know stages, attempts or rollouts: callers
//! say what a container may and find it again by label.

mod build;
mod container;
mod context;
mod engine;
mod error;
mod events;
mod exec;
mod image;
pub mod labels;
mod memory;
mod network;
mod output;
mod spec;
mod workdir;

pub use build::{BuildRequest, BuiltImage};
pub use container::{ContainerState, ContainerSummary, ContainerView, EngineLimits, Health};
pub use engine::{Engine, EngineFacts, GVISOR, TlsFiles};
pub use error::DockerError;
pub use events::ContainerEvent;
pub use exec::ExecResult;
pub use image::{Credentials, ImageView};
pub use network::BridgeSpec;
pub use output::{OutputSource, OutputStream, WaitHandle};
pub use spec::{
    ContainerSpec, HealthSpec, Limits, LogDriver, MountSpec, NetworkSpec, PublishedPort, Security,
};
