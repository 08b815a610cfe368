//! Agents as pods of one namespace. A pod is deleted when its agent was drained and holds nothing; its
//! grace period is the longest stage all the same, for whoever else deletes it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use slipway_core::fleet::{Listed, Listing};
use slipway_core::id::AgentId;
use slipway_kubernetes::{AgentPod, Cluster, ClusterError};
use tokio::sync::OnceCell;

use super::{FleetProvider, Order, ProviderError, Target};

const INSTALLATION: &str = "slipway.dev/fleet";
const POOL: &str = "slipway.dev/pool";
const AGENT: &str = "slipway.dev/agent";

/// What every pod of a pool has.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// The agent's image.
    pub image: String,
    /// A container engine beside it; empty = the node's.
    pub engine_image: String,
    /// Whose rights it has.
    pub service_account: String,
    /// How long it may take to end.
    pub grace_seconds: u64,
}

/// The pods of one pool.
pub struct Pods {
    namespace: String,
    cluster: OnceCell<Cluster>,
    installation: String,
    pool: String,
    template: Template,
}

impl From<ClusterError> for ProviderError {
    fn from(error: ClusterError) -> Self {
        Self::new(error)
    }
}

fn name(agent: &AgentId) -> String {
    format!("slipway-agent-{}", agent.as_str().to_lowercase())
}

impl Pods {
    /// In a namespace of the cluster that this process is in, or that the kubeconfig names.
    #[must_use]
    pub fn new(namespace: &str, installation: &str, pool: &str, template: Template) -> Self {
        Self {
            namespace: namespace.to_owned(),
            cluster: OnceCell::new(),
            installation: installation.to_owned(),
            pool: pool.to_owned(),
            template,
        }
    }

    /// In a cluster of choice.
    #[must_use]
    pub fn of(cluster: Cluster, installation: &str, pool: &str, template: Template) -> Self {
        Self {
            cluster: OnceCell::new_with(Some(cluster)),
            ..Self::new("", installation, pool, template)
        }
    }

    async fn cluster(&self) -> Result<&Cluster, ProviderError> {
        let connect = || Cluster::connect(&self.namespace);
        Ok(self.cluster.get_or_try_init(connect).await?)
    }

    fn pod(&self, order: &Order) -> AgentPod {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        AgentPod {
            name: name(&order.agent),
            labels: BTreeMap::from([
                label("app.kubernetes.io/name", "slipway-agent"),
                label("app.kubernetes.io/managed-by", "slipway"),
                label(INSTALLATION, &self.installation),
                label(POOL, &self.pool),
                label(AGENT, order.agent.as_str()),
            ]),
            image: self.template.image.clone(),
            engine_image: self.template.engine_image.clone(),
            service_account: self.template.service_account.clone(),
            grace_seconds: self.template.grace_seconds,
            settings: order
                .settings
                .elsewhere(&AgentPod::data_dir(), &AgentPod::cache_socket())
                .to_file()
                .into(),
        }
    }
}

#[async_trait]
impl FleetProvider for Pods {
    async fn list(&self) -> Result<Listing, ProviderError> {
        let labels = [
            (INSTALLATION, self.installation.as_str()),
            (POOL, self.pool.as_str()),
        ];
        let pods = self.cluster().await?.pods(&labels).await?;
        let machines = pods.into_iter().map(|pod| Listed {
            agent: pod.labels.get(AGENT).and_then(|id| id.parse().ok()),
            machine: pod.name,
            running: pod.alive,
        });
        Ok(Listing {
            machines: machines.collect(),
            complete: true,
        })
    }

    async fn start(&self, order: &Order) -> Result<String, ProviderError> {
        let pod = self.pod(order);
        self.cluster().await?.create(&pod).await?;
        Ok(pod.name)
    }

    async fn stop(&self, target: &Target) -> Result<(), ProviderError> {
        let named = target.agent.as_ref().map(name).or(target.machine.clone());
        match named {
            Some(name) => Ok(self.cluster().await?.delete(&name).await?),
            None => Ok(()),
        }
    }
}
