//! The cluster client: pods of one namespace by label, and what is declared there (Deployments, Services,
//! HTTPRoutes). The one home of `kube`.
//!
//! Knows neither pools nor rollouts: whoever starts a pod says what it is. Every call has a limit, may be
//! repeated, and says in words what the cluster said.

mod error;
mod instances;
mod objects;
mod pods;

pub use error::ClusterError;
pub use instances::ServingPod;
pub use objects::{Claim, FIELD_MANAGER, Object, ObjectKind};
pub use pods::{AgentPod, PodView, Secretive};

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Any call to the cluster's API.
const LIMIT: Duration = Duration::from_secs(30);

/// One namespace of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// By the usual means: the pod's own service account, or the kubeconfig.
    ///
    /// # Errors
    /// When there is neither.
    pub async fn connect(namespace: &str) -> Result<Self, ClusterError> {
        let config = Config::infer()
            .await
            .map_err(|e| ClusterError::Config(e.to_string()))?;
        Self::with(config, namespace)
    }

    /// By a kubeconfig and a context of it; empty = the usual file, its current context. With neither,
    /// as [`Cluster::connect`] does.
    ///
    /// # Errors
    /// When the file or the context cannot be used.
    pub async fn open(
        kubeconfig: &str,
        context: &str,
        namespace: &str,
    ) -> Result<Self, ClusterError> {
        if kubeconfig.is_empty() && context.is_empty() {
            return Self::connect(namespace).await;
        }
        let options = KubeConfigOptions {
            context: (!context.is_empty()).then(|| context.to_owned()),
            ..KubeConfigOptions::default()
        };
        let file = if kubeconfig.is_empty() {
            Kubeconfig::read()
        } else {
            Kubeconfig::read_from(kubeconfig)
        };
        let unusable = |error: &dyn std::fmt::Display| {
            let context = if context.is_empty() {
                "the current one"
            } else {
                context
            };
            ClusterError::Config(format!(
                "kubeconfig `{kubeconfig}`, context {context}: {error}"
            ))
        };
        let file = file.map_err(|error| unusable(&error))?;
        let config = Config::from_custom_kubeconfig(file, &options).await;
        Self::with(config.map_err(|error| unusable(&error))?, namespace)
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// At an address, without credentials: for tests.
    ///
    /// # Errors
    /// When it is no address.
    pub fn at(address: &str, namespace: &str) -> Result<Self, ClusterError> {
        let address = address
            .parse()
            .map_err(|_| ClusterError::Config(format!("`{address}` is no address")))?;
        Self::with(Config::new(address), namespace)
    }

    fn with(mut config: Config, namespace: &str) -> Result<Self, ClusterError> {
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(LIMIT);
        Ok(Self {
            client: Client::try_from(config).map_err(|e| ClusterError::Config(e.to_string()))?,
            namespace: namespace.to_owned(),
        })
    }
}

/// A call within its limit.
async fn within<T>(
    call: &'static str,
    called: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(LIMIT, called).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ClusterError::of(call, error)),
        Err(_) => Err(ClusterError::Slow(call)),
    }
}
