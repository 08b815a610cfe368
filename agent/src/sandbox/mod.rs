//! Where commands are executed: port [`Sandbox`], its Docker adapter, and a fake.
//!
//! A sandbox is created before anything is executed in it, keeps its output until it is removed, and
//! survives the agent. It never decides what an ending means.

pub(crate) mod deny_list;
pub mod docker;
pub mod doors;
pub mod fake;
pub mod profile;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use slipway_core::pipeline::{Sandbox as Profile, ServiceSpec};
use slipway_proto::convert::AttemptKey;
use tokio::sync::mpsc;

use doors::Gateway;

/// What a sandbox cannot do.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The image cannot be had.
    #[error("image `{image}` cannot be pulled: {reason}")]
    Image {
        /// Which.
        image: String,
        /// Why.
        reason: String,
    },
    /// A service never became ready.
    #[error("service `{name}` was not ready within {limit:?}: {output}")]
    ServiceNotReady {
        /// Which.
        name: String,
        /// How long it was waited for.
        limit: Duration,
        /// What its check said last.
        output: String,
    },
    /// A service was over before it was ready.
    #[error("service `{name}` ended with exit code {code} before it was ready: {output}")]
    ServiceEnded {
        /// Which.
        name: String,
        /// Its exit code.
        code: i64,
        /// What it printed last.
        output: String,
    },
    /// A service's image wants to stand where no container of ours may.
    #[error("service `{name}` is not started: {reason}")]
    ServiceWorkdir {
        /// Which.
        name: String,
        /// What is wrong, and how to mend it.
        reason: String,
    },
    /// The limits that were asked for are not in force.
    #[error("the engine did not put the sandbox's limits in force: {0}")]
    NotConfined(String),
    /// An image cannot be built or pushed.
    #[error("{0}")]
    Build(String),
    /// It ended its containers.
    #[error(
        "the container engine was restarted, and its containers ended with it. With \"live-restore\": true in \
         its settings they go on"
    )]
    EngineRestarted,
    /// The engine failed.
    #[error("the container engine failed: {0}")]
    Engine(String),
}

/// What is to be executed.
#[derive(Clone, Debug)]
pub struct StageRun {
    /// Which attempt.
    pub key: AttemptKey,
    /// Image reference.
    pub image: String,
    /// One shell script.
    pub script: String,
    /// Every variable, secrets among them.
    pub environment: BTreeMap<String, String>,
    /// The folder that becomes `/workspace`.
    pub workspace: PathBuf,
    /// How much it may.
    pub profile: Profile,
    /// Containers beside it: (service, its variables).
    pub services: Vec<(ServiceSpec, BTreeMap<String, String>)>,
}

/// How a stage's container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code.
    pub code: i64,
    /// The limit in bytes, when the kernel killed something in it for memory.
    pub out_of_memory: Option<u64>,
    /// Whether the engine saw all of it.
    pub engine: EngineWas,
}

/// Where a stage's engine was while it executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineWas {
    /// There, all the time.
    There,
    /// Away for a while: output broke off, and the engine has all of it now.
    Away,
    /// Away when the stage ended: what it printed meanwhile is lost with Docker's own restoring.
    AwayAtItsEnd,
}

/// An image to be built and pushed.
#[derive(Clone, Debug)]
pub struct ImageRun {
    /// Which attempt.
    pub key: AttemptKey,
    /// The context, as one deterministic tar.
    pub context: Bytes,
    /// Path inside the context.
    pub dockerfile: String,
    /// Full references.
    pub tags: Vec<String>,
    /// Whether to push them.
    pub push: bool,
    /// `linux/amd64`; empty = the engine's own.
    pub platform: String,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Whose caches it may use: no other project's.
    pub project: String,
    /// Seconds since 1970 of the commit.
    pub epoch: i64,
    /// Longest time.
    pub limit: Duration,
}

/// An image that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMade {
    /// Repository without tag.
    pub repository: String,
    /// `sha256:…` as the image registry knows it; the engine's own id when it was not pushed.
    pub digest: String,
    /// Whether the same input gives the same digest again.
    pub reproducible: bool,
}

/// What an engine can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSaid {
    /// Its version.
    pub version: String,
    /// Whether it builds with BuildKit.
    pub buildkit: bool,
    /// Whether the same input gives the same image digest.
    pub reproducible_images: bool,
    /// Whether root in a container is nobody on the host.
    pub user_namespaces: bool,
}

/// Containers of attempts.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// What the engine can do.
    async fn engine(&self) -> Result<EngineSaid, SandboxError>;
    /// Whether the engine is there at all.
    async fn answers(&self) -> Result<(), SandboxError>;
    /// Resolves when the engine goes away, or at once when it is.
    async fn gone(&self);
    /// Makes the image available.
    async fn ensure_image(&self, image: &str) -> Result<(), SandboxError>;
    /// Creates everything for a stage; nothing of the stage is executed yet.
    async fn create(&self, run: &StageRun) -> Result<(), SandboxError>;
    /// This host's end of the network that the stage will be on; `None` = it has none.
    async fn gateway(&self, _: &StageRun) -> Result<Option<Gateway>, SandboxError> {
        Ok(None)
    }
    /// Lets stages of that network reach this address of the host.
    async fn let_in(&self, _: &Gateway, _: SocketAddr) -> anyhow::Result<()> {
        Ok(())
    }
    /// Denies it again.
    async fn keep_out(&self, _: &Gateway, _: SocketAddr) -> anyhow::Result<()> {
        Ok(())
    }
    /// Executes.
    async fn start(&self, key: &AttemptKey) -> Result<(), SandboxError>;
    /// Everything printed since the beginning, then what comes; ends with the container.
    fn output(&self, key: &AttemptKey) -> BoxStream<'static, Result<Bytes, SandboxError>>;
    /// Waits for the end, also while the engine is away for a while.
    async fn wait(&self, key: &AttemptKey) -> Result<Ended, SandboxError>;
    /// Bytes that it has written outside its workspace, on the host's disk.
    async fn written(&self, key: &AttemptKey) -> Result<u64, SandboxError>;
    /// Ends it: SIGTERM, then SIGKILL after `grace`.
    async fn stop(&self, key: &AttemptKey, grace: Duration) -> Result<(), SandboxError>;
    /// Removes everything of an attempt; fine when nothing is there.
    async fn remove(&self, key: &AttemptKey) -> Result<(), SandboxError>;
    /// Attempts whose stage container was started (and may have ended). One that was only created
    /// has executed nothing and cannot be told from one that ended well by its exit code.
    async fn held(&self) -> Result<Vec<AttemptKey>, SandboxError>;
    /// Attempts that anything at all is left of: a container that never started, a service, a
    /// network.
    async fn remains(&self) -> Result<Vec<AttemptKey>, SandboxError>;
    /// Builds and pushes an image; `printed` gets what the builder prints.
    async fn build(
        &self,
        image: &ImageRun,
        printed: mpsc::Sender<Vec<u8>>,
    ) -> Result<ImageMade, SandboxError>;
}
