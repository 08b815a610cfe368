//! Pods that serve: where one is reached, whether it is ready, how often it ended.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::objects::{FIELD_MANAGER, every};
use crate::{Cluster, ClusterError, within};

/// Which pods go last when there are to be fewer.
const KEEP: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A pod that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingPod {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, in seconds since 1970.
    pub made_at: i64,
    /// Its address in the cluster's network.
    pub ip: Option<String>,
    /// Whether its readiness check passes, and it is not being removed.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: u32,
    /// Whether the kernel ended it for its memory.
    pub oom: bool,
}

fn view(pod: Pod) -> ServingPod {
    let status = pod.status.unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let passes = status
        .conditions
        .iter()
        .flatten()
        .any(|one| one.type_ == "Ready" && one.status == "True");
    let restarts = containers.iter().map(|one| one.restart_count).sum::<i32>();
    ServingPod {
        name: pod.metadata.name.unwrap_or_default(),
        labels: pod.metadata.labels.unwrap_or_default(),
        made_at: pod
            .metadata
            .creation_timestamp
            .map_or(0, |at| at.0.as_second()),
        ip: status.pod_ip.filter(|ip| !ip.is_empty()),
        ready: passes && pod.metadata.deletion_timestamp.is_none(),
        restarts: u32::try_from(restarts).unwrap_or_default(),
        oom: containers.iter().any(ran_out),
    }
}

fn ran_out(status: &ContainerStatus) -> bool {
    [&status.state, &status.last_state]
        .into_iter()
        .flatten()
        .filter_map(|state| state.terminated.as_ref())
        .any(|ended| ended.reason.as_deref() == Some("OOMKilled"))
}

impl Cluster {
    /// Every serving pod with all of these labels, oldest first.
    ///
    /// # Errors
    /// When the cluster does not answer, or does not list all of them.
    pub async fn serving(&self, labels: &[(&str, &str)]) -> Result<Vec<ServingPod>, ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = every(&api, "list pods", labels).await?;
        let mut pods: Vec<ServingPod> = found.into_iter().map(view).collect();
        pods.sort_by(|a, b| (a.made_at, &a.name).cmp(&(b.made_at, &b.name)));
        Ok(pods)
    }

    /// Makes a pod one of the last that its Deployment gives up. Gone is success.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn keep_longest(&self, pod: &str) -> Result<(), ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let fields = json!({"metadata": {"annotations": {KEEP: "1000"}}});
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = within(
            "mark a pod",
            api.patch(pod, &parameters, &Patch::Merge(&fields)),
        )
        .await;
        match patched {
            Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
