//! Environments as they are registered on the server: which target and router serve them, at which
//! address, and what the server asks for whatever the pipeline file says.

mod hosts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use slipway_core::manifest::Allowed;
use slipway_core::rollout::{Freeze, check_freezes};
use slipway_core::time::Timestamp;
use slipway_daemon::Clock;
use slipway_identity::Own;
use slipway_store::{Db, EnvironmentRow, StoreError};

use crate::metrics::{MetricSource, Prometheus, PrometheusPlace};
use crate::several::{Host, Hosts, SeveralRouters, SeveralTargets};
use crate::targets::{DockerHost, KubernetesTarget, Target};
use crate::traffic::{KubernetesTraffic, RouterTraffic, Traffic};

pub use hosts::DockerPlace;
pub(crate) use hosts::check_hosts;

/// Adapters kept open at once.
const OPEN_MAX: usize = 256;

/// Where an environment's instances and traffic are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentTarget {
    /// `docker` or `kubernetes`.
    pub kind: String,
    /// The engine: `unix:///var/run/docker.sock`; empty = the usual place.
    #[serde(default)]
    pub docker: String,
    /// Several Docker hosts, each with a router of its own, instead of `docker` and `router`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub docker_hosts: Vec<DockerPlace>,
    /// The namespace, for `kubernetes`.
    #[serde(default)]
    pub kubernetes: Option<KubernetesPlace>,
    /// The router's control socket: `unix:///…/router.sock`. For `kubernetes` it may be empty: traffic is
    /// moved by the cluster then.
    #[serde(default)]
    pub router: String,
    /// Answers the pipeline file's own gates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusPlace>,
    /// Address that services of this environment are served on.
    pub listen: String,
    /// Host names; empty = every name.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// By service name, where several share an environment.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceAddress>,
}

/// A namespace of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesPlace {
    /// Its name.
    pub namespace: String,
    /// A kubeconfig on the coordinator's host; empty = its service account, or the usual file.
    #[serde(default)]
    pub kubeconfig: String,
    /// A context of it; empty = the current one.
    #[serde(default)]
    pub context: String,
    /// The Service or HTTPRoute that carries the service; empty = named after the service.
    #[serde(default)]
    pub route: String,
    /// The Gateway, `name` or `namespace/name`; empty = a Service's selector is switched.
    #[serde(default)]
    pub gateway: String,
    /// The port of the Services; 0 = 80.
    #[serde(default)]
    pub port: u16,
}

/// Where one service is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAddress {
    /// Address.
    pub listen: String,
    /// Host names; empty = every name.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// What the server asks for, whatever the pipeline file says. The stricter of both holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Somebody must approve.
    #[serde(default)]
    pub approval: bool,
    /// How many different people.
    #[serde(default)]
    pub min_approvals: u32,
    /// Whoever started it may not approve it.
    #[serde(default)]
    pub approver_not_initiator: bool,
    /// Groups whose members may approve; empty = as the file says.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Failed share above which a version is taken back, parts per million; 0 = 1 %.
    #[serde(default)]
    pub max_error_ppm: u64,
    /// What manifests of a service may ask for beyond the usual, on Kubernetes.
    #[serde(default, skip_serializing_if = "Allowed::is_usual")]
    pub pods: Allowed,
    /// When nothing starts here.
    #[serde(default)]
    pub freeze: Vec<Freeze>,
}

impl EnvironmentTarget {
    /// Where `service` is served.
    #[must_use]
    pub fn address_of(&self, service: &str) -> ServiceAddress {
        self.services
            .get(service)
            .cloned()
            .unwrap_or_else(|| ServiceAddress {
                listen: self.listen.clone(),
                hosts: self.hosts.clone(),
            })
    }
}

/// Registers an environment, or changes the one with this name. `id` is used only when it is new.
///
/// # Errors
/// When its hosts cannot be used, or the store cannot make it durable.
pub async fn ensure_environment(
    db: &Db,
    id: &str,
    name: &str,
    target: &EnvironmentTarget,
    policy: &Policy,
    now: Timestamp,
) -> Result<EnvironmentRow, StoreError> {
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| StoreError::Corrupt(error.to_string()))
    };
    check_freezes(&policy.freeze).map_err(StoreError::Conflict)?;
    if !target.docker_hosts.is_empty() {
        check(target).map_err(StoreError::Conflict)?;
    }
    let target = json(serde_json::to_string(target))?;
    let policy = json(serde_json::to_string(policy))?;
    db.ensure_environment(id, name, &target, &policy, now).await
}

/// A target and a router, as a place uses them.
#[derive(Clone)]
pub struct Adapters {
    /// Where instances live.
    pub target: Arc<dyn Target>,
    /// What moves traffic.
    pub traffic: Arc<dyn Traffic>,
    /// What answers the user's own gates.
    pub metrics: Option<Arc<dyn MetricSource>>,
}

/// Opens the adapters of an environment; tests bring fakes.
pub trait Connect: Send + Sync {
    /// The adapters for this target.
    ///
    /// # Errors
    /// A text for people.
    fn connect(&self, target: &EnvironmentTarget) -> Result<Adapters, String>;
}

/// The real ones, kept open by address.
pub(crate) struct RealAdapters {
    open: Mutex<BTreeMap<Key, Adapters>>,
    clock: Clock,
    /// Who this coordinator is, once it knows: routers of other hosts ask.
    identity: Arc<OnceLock<Own>>,
}

/// What says where an adapter goes: engine, hosts, namespace, router, Prometheus.
type Key = (
    String,
    Vec<DockerPlace>,
    Option<KubernetesPlace>,
    String,
    Option<PrometheusPlace>,
);

impl Connect for RealAdapters {
    fn connect(&self, target: &EnvironmentTarget) -> Result<Adapters, String> {
        check(target)?;
        let key = (
            target.docker.clone(),
            target.docker_hosts.clone(),
            target.kubernetes.clone(),
            target.router.clone(),
            target.prometheus.clone(),
        );
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&key) {
            return Ok(known.clone());
        }
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        let (instances, traffic) = if target.docker_hosts.is_empty() {
            one(target)?
        } else {
            self.several(&target.docker_hosts)?
        };
        let metrics: Option<Arc<dyn MetricSource>> = match &target.prometheus {
            Some(place) => Some(Arc::new(Prometheus::new(place)?)),
            None => None,
        };
        let adapters = Adapters {
            target: instances,
            traffic,
            metrics,
        };
        open.insert(key, adapters.clone());
        Ok(adapters)
    }
}

impl RealAdapters {
    pub(crate) fn new(clock: Clock, identity: Arc<OnceLock<Own>>) -> Self {
        Self {
            open: Mutex::default(),
            clock,
            identity,
        }
    }

    fn several(&self, places: &[DockerPlace]) -> Result<Ports, String> {
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            let said = |error: String| format!("host {}: {error}", place.name);
            let engine = match &place.tls {
                Some(files) => DockerHost::remote(&place.docker, files),
                None => DockerHost::new(&place.docker),
            };
            let router = if place.router.starts_with("unix://") {
                RouterTraffic::new(&place.router)
            } else {
                let own = self.identity.get().ok_or_else(|| {
                    said(
                        "no_identity: this coordinator has no certificate yet; see its log"
                            .to_owned(),
                    )
                })?;
                RouterTraffic::remote(&place.router, own)
            };
            all.push(Host {
                name: place.name.clone(),
                listen: place.listen.clone(),
                engine: Arc::new(engine.map_err(|e| said(e.to_string()))?),
                router: Arc::new(router.map_err(|e| said(e.to_string()))?),
            });
        }
        let hosts = Hosts::new(all, self.clock.clone());
        let target = Arc::new(SeveralTargets(Arc::clone(&hosts)));
        Ok((target, Arc::new(SeveralRouters(hosts))))
    }
}

/// What carries instances and what carries their traffic.
type Ports = (Arc<dyn Target>, Arc<dyn Traffic>);

/// One engine and one router, or a cluster.
fn one(target: &EnvironmentTarget) -> Result<Ports, String> {
    let instances: Arc<dyn Target> = match &target.kubernetes {
        Some(place) => Arc::new(KubernetesTarget::new(place.clone())),
        None => Arc::new(DockerHost::new(&target.docker).map_err(|e| e.to_string())?),
    };
    let traffic: Arc<dyn Traffic> = match &target.kubernetes {
        Some(place) if target.router.is_empty() => Arc::new(KubernetesTraffic::new(place)),
        _ => Arc::new(RouterTraffic::new(&target.router).map_err(|e| e.to_string())?),
    };
    Ok((instances, traffic))
}

/// Whether a target is whole, and of a kind that is known.
fn check(target: &EnvironmentTarget) -> Result<(), String> {
    check_hosts(&target.docker_hosts)?;
    let one =
        !(target.docker.is_empty() && target.router.is_empty() && target.kubernetes.is_none());
    if !target.docker_hosts.is_empty() && (one || target.kind != "docker") {
        return Err("hosts_and_one: `docker_hosts` is for kind `docker`, and stands instead of `docker`, `router` and \
                    `kubernetes`; remove those"
            .to_owned());
    }
    match (target.kind.as_str(), &target.kubernetes) {
        ("docker", None) => Ok(()),
        ("docker", Some(_)) => Err(
            "a target of kind `docker` has no `kubernetes`; remove it, or change the kind".into(),
        ),
        ("kubernetes", None) => {
            Err("a target of kind `kubernetes` needs `kubernetes: {\"namespace\": …}`".into())
        }
        ("kubernetes", Some(_)) if !target.docker.is_empty() => Err(
            "a target of kind `kubernetes` has no `docker`; remove it, or change the kind".into(),
        ),
        ("kubernetes", Some(place)) if place.namespace.is_empty() => {
            Err("`kubernetes.namespace` is empty; name the namespace of the services".into())
        }
        ("kubernetes", Some(place)) if !(target.router.is_empty() || place.gateway.is_empty()) => {
            Err(
                "both `router` and `kubernetes.gateway` are set; one of them moves the traffic"
                    .into(),
            )
        }
        ("kubernetes", Some(_)) => Ok(()),
        (kind, _) => Err(format!(
            "target kind `{kind}` is not known; use `docker` or `kubernetes`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(json: &str) -> Result<(), String> {
        let target: EnvironmentTarget = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let adapters = RealAdapters::new(Clock::system(), Arc::default());
        adapters.connect(&target).map(drop)
    }

    #[tokio::test]
    async fn a_target_that_is_not_whole_says_what_is_missing() {
        let good =
            r#"{"kind":"kubernetes","kubernetes":{"namespace":"shop"},"listen":"gateway:80"}"#;
        assert_eq!(connected(good), Ok(()));
        for (json, said) in [
            (r#"{"kind":"swarm","listen":""}"#, "`swarm` is not known"),
            (r#"{"kind":"kubernetes","listen":""}"#, "needs `kubernetes"),
            (
                r#"{"kind":"kubernetes","kubernetes":{"namespace":""},"listen":""}"#,
                "`kubernetes.namespace` is empty",
            ),
            (
                r#"{"kind":"kubernetes","docker":"unix:///x","kubernetes":{"namespace":"x"},"listen":""}"#,
                "has no `docker`",
            ),
            (
                r#"{"kind":"docker","kubernetes":{"namespace":"x"},"listen":""}"#,
                "has no `kubernetes`",
            ),
            (
                r#"{"kind":"kubernetes","kubernetes":{"namespace":"x","gateway":"g"},"router":"unix:///x","listen":""}"#,
                "both `router` and `kubernetes.gateway`",
            ),
            (r#"{"kind":"docker","listen":""}"#, "router address"),
            (
                r#"{"kind":"kubernetes","kubernetes":{"namespace":"x","pods":1},"listen":""}"#,
                "unknown field",
            ),
        ] {
            let error = connected(json).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
