//! Pods that execute an agent: what is in one, and its life.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::objects::every;
use crate::{Cluster, ClusterError, within};

/// Where everything of an agent lies in its pod, for itself and for its engine.
const STATE: &str = "/var/lib/slipway";
/// Where its settings are.
const SETTINGS: &str = "/etc/slipway";

/// A pod to be made.
#[derive(Clone, Debug)]
pub struct AgentPod {
    /// Its name, and that of the secret with its settings.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The agent's image.
    pub image: String,
    /// A container engine beside it (privileged); empty = the node's own, by its socket.
    pub engine_image: String,
    /// Whose rights it has; empty = the namespace's default.
    pub service_account: String,
    /// How long it may take to end.
    pub grace_seconds: u64,
    /// The agent's settings file. `data_dir` and `cache` are this pod's.
    pub settings: Secretive,
}

/// A text that is not shown.
#[derive(Clone)]
pub struct Secretive(pub String);

impl std::fmt::Debug for Secretive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secretive(..)")
    }
}

impl From<String> for Secretive {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// A pod in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it executes, or is about to.
    pub alive: bool,
}

impl AgentPod {
    /// Where the agent keeps its state.
    #[must_use]
    pub fn data_dir() -> String {
        format!("{STATE}/agent")
    }

    /// Where the cache daemon beside it listens.
    #[must_use]
    pub fn cache_socket() -> String {
        format!("{STATE}/cache/cache.sock")
    }

    fn secret(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": self.name, "labels": self.labels},
            "stringData": {"agent.toml": self.settings.0},
        })
    }

    /// Engine and cache are sidecars that end with the agent.
    fn pod(&self) -> Value {
        let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        let state = mount("state", STATE);
        let socket = mount("socket", "/var/run");
        let mut beside = vec![json!({
            "name": "cache", "image": self.image, "args": ["cache"], "restartPolicy": "Always",
            "env": [
                {"name": "SLIPWAY_CACHE_DIRECTORY", "value": format!("{STATE}/cache")},
                {"name": "SLIPWAY_CACHE_SOCKET", "value": Self::cache_socket()},
                {"name": "SLIPWAY_CACHE_HEALTH_ADDRESS", "value": ""},
            ],
            "volumeMounts": [state],
        })];
        let engine = if self.engine_image.is_empty() {
            json!({"name": "socket", "hostPath": {"path": "/var/run"}})
        } else {
            beside.push(json!({
                "name": "engine", "image": self.engine_image, "restartPolicy": "Always",
                "securityContext": {"privileged": true},
                "volumeMounts": [state, socket],
            }));
            json!({"name": "socket", "emptyDir": {}})
        };
        let mut spec = json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": self.grace_seconds,
            "automountServiceAccountToken": false,
            "initContainers": beside,
            "containers": [{
                "name": "agent", "image": self.image,
                "args": ["agent", "--config", format!("{SETTINGS}/agent.toml")],
                "volumeMounts": [state, socket, {"name": "settings", "mountPath": SETTINGS, "readOnly": true}],
            }],
            "volumes": [
                {"name": "state", "emptyDir": {}},
                {"name": "settings", "secret": {"secretName": self.name, "defaultMode": 0o400}},
                engine,
            ],
        });
        if !self.service_account.is_empty() {
            spec["serviceAccountName"] = json!(self.service_account);
        }
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "labels": self.labels},
            "spec": spec,
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(
    call: &'static str,
    value: Value,
) -> Result<T, ClusterError> {
    serde_json::from_value(value).map_err(|e| ClusterError::Refused {
        call,
        status: 0,
        words: e.to_string(),
    })
}

impl Cluster {
    fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn secrets_api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Every pod with all of these labels.
    ///
    /// # Errors
    /// When the cluster does not answer, or does not list all of them.
    pub async fn pods(&self, labels: &[(&str, &str)]) -> Result<Vec<PodView>, ClusterError> {
        let found = every(&self.pods_api(), "list pods", labels).await?;
        Ok(found.into_iter().filter_map(view).collect())
    }

    /// Makes a pod and the secret with its settings; false when the pod is there already.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn create(&self, pod: &AgentPod) -> Result<bool, ClusterError> {
        match within("look for a pod", self.pods_api().get(&pod.name)).await {
            Ok(_) => return Ok(false),
            Err(ClusterError::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let create = PostParams::default();
        let secret: Secret = read("make a secret", pod.secret())?;
        // An earlier try may have left one, with another join token.
        self.delete_secret(&pod.name).await?;
        within("make a secret", self.secrets_api().create(&create, &secret)).await?;
        let body: Pod = read("make a pod", pod.pod())?;
        match within("make a pod", self.pods_api().create(&create, &body)).await {
            Ok(_) => Ok(true),
            Err(ClusterError::Exists(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets a pod end within its grace, and removes its secret. Gone is success.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn delete(&self, name: &str) -> Result<(), ClusterError> {
        let parameters = DeleteParams::default();
        let deleted = within("delete a pod", self.pods_api().delete(name, &parameters)).await;
        match deleted {
            Ok(_) | Err(ClusterError::NotFound(_)) => self.delete_secret(name).await,
            Err(error) => Err(error),
        }
    }

    async fn delete_secret(&self, name: &str) -> Result<(), ClusterError> {
        let (parameters, secrets) = (DeleteParams::default(), self.secrets_api());
        match within("delete a secret", secrets.delete(name, &parameters)).await {
            Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn view(pod: Pod) -> Option<PodView> {
    let phase = pod.status.and_then(|s| s.phase).unwrap_or_default();
    Some(PodView {
        name: pod.metadata.name?,
        labels: pod.metadata.labels.unwrap_or_default(),
        // One that is being deleted is still there until its grace is over.
        alive: !matches!(phase.as_str(), "Succeeded" | "Failed"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_one_and_its_settings_are_in_its_secret_alone() {
        let pod = AgentPod {
            name: "slipway-agent-x".to_owned(),
            labels: BTreeMap::new(),
            image: "agent:1".to_owned(),
            engine_image: "engine:1".to_owned(),
            service_account: "builder".to_owned(),
            grace_seconds: 3_600,
            settings: "join_token = 'slpj_secret'".to_owned().into(),
        };
        let made: Pod = serde_json::from_value(pod.pod()).unwrap();
        let spec = made.spec.unwrap();
        assert_eq!(spec.termination_grace_period_seconds, Some(3_600));
        assert_eq!(spec.init_containers.unwrap().len(), 2);
        assert!(!pod.pod().to_string().contains("slpj_"));
        assert!(!format!("{pod:?}").contains("slpj_"));
        let secret: Secret = serde_json::from_value(pod.secret()).unwrap();
        assert!(secret.string_data.unwrap()["agent.toml"].contains("slpj_"));
    }
}
