//! Where instances live. One port, one file per kind of target; the contract suite in
//! `tests/contract` holds for all of them.

mod docker_host;
pub mod fake;
pub(crate) mod kubernetes;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::rollout::{HostView, InstanceView, VersionSpec};
use slipway_core::traffic::Fence;

pub use docker_host::DockerHost;
pub use kubernetes::KubernetesTarget;

/// A service in an environment, by immutable ids.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The service's id.
    pub service_id: String,
    /// The environment's id.
    pub environment_id: String,
    /// The service's name, for people.
    pub service: String,
}

/// Why a target did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A newer owner has been here.
    #[error("stale_token: an instance was made under token {seen}, which is newer")]
    StaleToken {
        /// Its token.
        seen: u64,
    },
    /// It will not work by trying again: no such image, no such device.
    #[error("the target refused: {0}")]
    Refused(String),
    /// Whether it happened is not known.
    #[error("the target did not answer as expected: {0}")]
    Unknown(String),
}

/// Instances by version.
pub type Instances = BTreeMap<String, Vec<InstanceView>>;

/// A target. Every call is absolute and may be repeated.
#[async_trait]
pub trait Target: Send + Sync {
    /// Makes sure that every instance of a version exists and is running: created, adopted or
    /// started.
    async fn ensure(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<(), TargetError>;

    /// The same for the first `count` of its instances: what shares traffic needs no more.
    async fn ensure_some(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
        count: u32,
    ) -> Result<(), TargetError> {
        let mut some = version.clone();
        some.replicas = count;
        self.ensure(fence, place, &some).await
    }

    /// The hosts, where there are several.
    fn hosts(&self) -> Vec<HostView> {
        Vec::new()
    }

    /// Every instance of a place, running or not.
    async fn observe(&self, place: &Place) -> Result<Instances, TargetError>;

    /// How full the memory of a version's fullest running instance is, thousandths of its limit; `None`
    /// when no limit is set, or when this kind of target cannot say.
    async fn memory(&self, _place: &Place, _version: &str) -> Result<Option<u32>, TargetError> {
        Ok(None)
    }

    /// Makes sure that no more than the first `keep` instances of a version are running: the others are
    /// stopped with `grace`, and kept, so that `ensure` brings them back.
    async fn park(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        keep: u32,
        grace: Duration,
    ) -> Result<(), TargetError>;

    /// Makes sure that no instance of a version is left; each gets `grace` to stop.
    async fn retire(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        grace: Duration,
    ) -> Result<(), TargetError>;
}
