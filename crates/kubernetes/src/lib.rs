//! The cluster client: pods of one namespace, by label. The one home of `kube`.
//!
//! Knows neither pools nor rollouts: whoever starts a pod says what it is. Every call has a limit, may be
//! repeated, and says in words what the cluster said.

mod error;
mod pods;

pub use error::ClusterError;
pub use pods::{AgentPod, PodView, Secretive};

use std::time::Duration;

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
