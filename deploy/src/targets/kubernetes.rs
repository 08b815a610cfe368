//! Instances as pods of a Deployment per version, in one namespace.
//!
//! A Deployment is named after its version, so that "it exists already" means "adopt it"; its pod
//! template is never changed after that, only its count. The image is named by its digest.
//!
//! Fencing is by annotation: a Deployment carries the token of whoever changed it last, nobody with a
//! lower one touches the place, and every change names the resource version that was read with it.
//!
//! Pods are described by Slipway, or by the user's own manifests (`body`): what those need beside the
//! Deployment is named after the version as well, and goes with it.
//!
//! The grace of a stop is the pod's own: it is written down when the Deployment is made.

mod body;
mod made;
mod said;

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use slipway_core::manifest::GRACE_MAX;
use slipway_core::rollout::{InstanceView, VersionSpec};
use slipway_core::traffic::Fence;
use slipway_kubernetes::{Cluster, ClusterError, Object, ObjectKind, ServingPod};
use tokio::sync::OnceCell;

use super::{Instances, Place, Target, TargetError};
use crate::places::KubernetesPlace;
use said::refusal;
pub(crate) use said::words;

/// Whose an object is.
pub(crate) const OWNER: (&str, &str) = ("app.kubernetes.io/managed-by", "slipway");
pub(crate) const VERSION: &str = "slipway.dev/version";
/// The token that something was changed under last.
pub(crate) const TOKEN: &str = "slipway.dev/token";
/// The name of the port of a pod.
pub(crate) const PORT_NAME: &str = "serve";
const SERVICE: &str = "slipway.dev/service";
const ENVIRONMENT: &str = "slipway.dev/environment";
pub(crate) const PORT: &str = "slipway.dev/port";
const NAME: &str = "slipway.dev/name";
/// Its pods are described by the user's manifests; the value names what they need beside the Deployment.
pub(crate) const MANIFESTS: &str = "slipway.dev/manifests";
/// Changes that met another one, before it is told: the Deployment's own controller writes its status
/// a few times while pods start.
pub(crate) const TRIES: u32 = 5;
/// Between two looks while a controller works: as often as a person would not notice.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// For a controller to see a change: one that takes longer is not running.
pub(crate) const SEEN_LIMIT: Duration = Duration::from_secs(30);
/// A pod goes on for this long after it was told to end, so that whoever still sends to it hears of it.
const LINGER_SECONDS: u64 = 15;
/// And has this long to end, the lingering included.
const GRACE_SECONDS: u64 = 45;
/// For pods to be gone, beside their grace: what the node takes.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// A cluster that is connected to when it is first used.
pub(crate) struct Reach {
    place: KubernetesPlace,
    cluster: OnceCell<Cluster>,
}

impl Reach {
    pub(crate) fn new(place: KubernetesPlace) -> Self {
        Self {
            place,
            cluster: OnceCell::new(),
        }
    }

    pub(crate) fn connected(cluster: Cluster) -> Self {
        Self {
            place: KubernetesPlace::default(),
            cluster: OnceCell::new_with(Some(cluster)),
        }
    }

    pub(crate) async fn cluster(&self) -> Result<&Cluster, ClusterError> {
        let place = &self.place;
        let connecting =
            || async { Cluster::open(&place.kubeconfig, &place.context, &place.namespace).await };
        self.cluster.get_or_try_init(connecting).await
    }
}

/// One namespace of one cluster.
pub struct KubernetesTarget {
    reach: Reach,
}

/// The name of a version's Deployment and of its Service.
pub(crate) fn name_of(version: &str) -> String {
    format!("slipway-{}", version.to_lowercase())
}

/// The token that an object was changed under last.
pub(crate) fn token_of(object: &Object) -> Option<u64> {
    object.annotations.get(TOKEN)?.parse().ok()
}

/// How long a Deployment's pods may take to end.
fn grace(object: &Object) -> Duration {
    let seconds = object
        .body
        .pointer("/spec/template/spec/terminationGracePeriodSeconds");
    let seconds = seconds.and_then(Value::as_u64).unwrap_or(GRACE_SECONDS);
    Duration::from_secs(seconds.min(GRACE_MAX))
}

fn fenced(all: &[Object], fence: Fence) -> Result<(), TargetError> {
    match all.iter().filter_map(token_of).max() {
        Some(seen) if seen > fence.token => Err(TargetError::StaleToken { seen }),
        _ => Ok(()),
    }
}

fn replicas(object: &Object) -> u32 {
    let count = object
        .body
        .pointer("/spec/replicas")
        .and_then(Value::as_u64);
    count.and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

/// Whether one of its containers has this image: which one, the manifests said.
fn has_image(object: &Object, image: &str) -> bool {
    let containers = object.body.pointer("/spec/template/spec/containers");
    let containers = containers.and_then(Value::as_array).map(Vec::as_slice);
    let mut containers = containers.unwrap_or_default().iter();
    containers.any(|one| one["image"] == image)
}

fn instance(pod: &ServingPod) -> Option<(String, InstanceView)> {
    let version = pod.labels.get(VERSION)?.clone();
    let port = pod.labels.get(PORT)?;
    let ip = pod.ip.as_ref().filter(|_| pod.ready);
    // An IPv6 address is told from its port by brackets.
    let address = ip.map(|ip| {
        if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        }
    });
    Some((
        version,
        InstanceView {
            id: pod.name.clone(),
            address,
            exits: u64::from(pod.restarts),
            oom: pod.oom,
        },
    ))
}

impl KubernetesTarget {
    /// A namespace, connected to when it is first used.
    #[must_use]
    pub fn new(place: KubernetesPlace) -> Self {
        let reach = Reach::new(place);
        Self { reach }
    }

    /// On a cluster that is connected to.
    #[must_use]
    pub fn on(cluster: Cluster) -> Self {
        let reach = Reach::connected(cluster);
        Self { reach }
    }

    async fn cluster(&self) -> Result<&Cluster, TargetError> {
        self.reach.cluster().await.map_err(refusal)
    }

    async fn deployments(&self, place: &Place) -> Result<Vec<Object>, TargetError> {
        let cluster = self.cluster().await?;
        let labels = wanted(place);
        let all = cluster.objects(ObjectKind::Deployment, &labels);
        all.await.map_err(refusal)
    }

    /// Waits until the controller has seen what is wanted of a Deployment now.
    async fn seen(&self, version: &str) -> Result<(), TargetError> {
        let (cluster, name) = (self.cluster().await?, name_of(version));
        let waiting = async {
            loop {
                let found = cluster.object(ObjectKind::Deployment, &name).await;
                match found.map_err(refusal)? {
                    Some(object) if object.is_seen() => return Ok(()),
                    Some(_) => tokio::time::sleep(LOOK_EVERY).await,
                    None => {
                        let text = format!("Deployment `{name}` was removed by somebody else");
                        return Err(TargetError::Unknown(text));
                    }
                }
            }
        };
        let late = |_| {
            let limit = SEEN_LIMIT.as_secs();
            let text = format!("no controller looked at Deployment `{name}` within {limit} s");
            Err(TargetError::Unknown(text))
        };
        tokio::time::timeout(SEEN_LIMIT, waiting)
            .await
            .unwrap_or_else(late)
    }

    /// Waits until no more than `keep` pods of a version are left.
    async fn left(
        &self,
        place: &Place,
        version: &str,
        keep: usize,
        grace: Duration,
    ) -> Result<(), TargetError> {
        let cluster = self.cluster().await?;
        let mut labels = wanted(place).to_vec();
        labels.push((VERSION, version));
        let waiting = async {
            loop {
                let pods = cluster.serving(&labels).await.map_err(refusal)?;
                if pods.len() <= keep {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let limit = grace + GONE_AFTER;
        let late = |_| {
            let limit = limit.as_secs();
            let text = format!("pods of version {version} did not end within {limit} s");
            Err(TargetError::Unknown(text))
        };
        tokio::time::timeout(limit, waiting)
            .await
            .unwrap_or_else(late)
    }

    /// Waits until an object that was deleted is gone: it is listed, and keeps its name, until the cluster
    /// has collected what it owned.
    async fn removed(&self, kind: ObjectKind, name: &str) -> Result<(), TargetError> {
        let cluster = self.cluster().await?;
        let waiting = async {
            loop {
                let found = cluster.object(kind, name).await.map_err(refusal)?;
                if !found.is_some_and(|object| object.ending) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = |_| {
            let limit = SEEN_LIMIT.as_secs();
            let text = format!("{kind:?} `{name}` was deleted and is still there after {limit} s");
            Err(TargetError::Unknown(text))
        };
        tokio::time::timeout(SEEN_LIMIT, waiting)
            .await
            .unwrap_or_else(late)
    }

    /// One try of `ensure`; false when the Deployment changed at the same time.
    async fn declare(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<bool, TargetError> {
        let all = self.deployments(place).await?;
        fenced(&all, fence)?;
        let (cluster, name) = (self.cluster().await?, name_of(&version.version_id));
        let done = match all.iter().find(|one| one.name == name) {
            None => return self.make(fence, place, version).await,
            Some(known) if known.ending => {
                let text = format!("Deployment `{name}` is still being removed");
                return Err(TargetError::Unknown(text));
            }
            Some(known) if !has_image(known, &version.image) => {
                return Err(TargetError::Refused(format!(
                    "Deployment `{name}` has another image than its version: somebody changed it; \
                     delete it, and it is made anew"
                )));
            }
            Some(known) => {
                // More than asked are left: to have fewer is `park`.
                let count = replicas(known).max(version.replicas);
                if replicas(known) == count && token_of(known) == Some(fence.token) {
                    return Ok(true);
                }
                if version.pods.is_some() {
                    self.extras(fence, place, version).await?;
                }
                let fields = counted(fence, count);
                cluster.change(ObjectKind::Deployment, known, fields).await
            }
        };
        match done {
            Ok(_) => Ok(true),
            Err(ClusterError::Conflict(_)) => Ok(false),
            Err(error) => Err(refusal(error)),
        }
    }
}

fn wanted(place: &Place) -> [(&str, &str); 3] {
    [
        OWNER,
        (SERVICE, place.service_id.as_str()),
        (ENVIRONMENT, place.environment_id.as_str()),
    ]
}

fn counted(fence: Fence, count: u32) -> Value {
    json!({
        "metadata": {"annotations": {TOKEN: fence.token.to_string()}},
        "spec": {"replicas": count},
    })
}

fn crowded(version: &str) -> TargetError {
    let text = format!("the Deployment of version {version} changed each time it was read");
    TargetError::Unknown(text)
}

#[async_trait]
impl Target for KubernetesTarget {
    async fn ensure(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<(), TargetError> {
        if !version.image.contains("@sha256:") {
            let image = &version.image;
            return Err(TargetError::Refused(format!(
                "image `{image}` is not named by its digest in a registry (name@sha256:…), and nodes \
                 of a cluster take images from there alone; push it first"
            )));
        }
        for _ in 0..TRIES {
            if self.declare(fence, place, version).await? {
                return self.seen(&version.version_id).await;
            }
        }
        Err(crowded(&version.version_id))
    }

    async fn observe(&self, place: &Place) -> Result<Instances, TargetError> {
        let mut all = Instances::new();
        // One without pods is there all the same: somebody has to remove it.
        for object in self.deployments(place).await? {
            if let Some(version) = object.labels.get(VERSION) {
                all.entry(version.clone()).or_default();
            }
        }
        let pods = self.cluster().await?.serving(&wanted(place)).await;
        for (version, instance) in pods.map_err(refusal)?.iter().filter_map(instance) {
            all.entry(version).or_default().push(instance);
        }
        Ok(all)
    }

    async fn park(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        keep: u32,
        _grace: Duration,
    ) -> Result<(), TargetError> {
        let cluster = self.cluster().await?;
        let first = usize::try_from(keep).unwrap_or(usize::MAX);
        for _ in 0..TRIES {
            let all = self.deployments(place).await?;
            fenced(&all, fence)?;
            let name = name_of(version);
            let Some(known) = all.iter().find(|one| one.name == name) else {
                return Ok(());
            };
            if replicas(known) > keep {
                let mut labels = wanted(place).to_vec();
                labels.push((VERSION, version));
                let pods = cluster.serving(&labels).await.map_err(refusal)?;
                // The ones that go on are those that go on getting traffic.
                for pod in pods.iter().take(first) {
                    cluster.keep_longest(&pod.name).await.map_err(refusal)?;
                }
                let fields = counted(fence, keep);
                match cluster.change(ObjectKind::Deployment, known, fields).await {
                    Ok(_) => {}
                    Err(ClusterError::Conflict(_)) => continue,
                    Err(error) => return Err(refusal(error)),
                }
            }
            self.seen(version).await?;
            return self.left(place, version, first, grace(known)).await;
        }
        Err(crowded(version))
    }

    async fn retire(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        _grace: Duration,
    ) -> Result<(), TargetError> {
        let (cluster, name) = (self.cluster().await?, name_of(version));
        for _ in 0..TRIES {
            let all = self.deployments(place).await?;
            fenced(&all, fence)?;
            let service = cluster.object(ObjectKind::Service, &name).await;
            let service = service.map_err(refusal)?;
            let service =
                service.filter(|one| one.labels.get(OWNER.0).is_some_and(|v| v == OWNER.1));
            let mut gone = Ok(());
            if let Some(service) = &service {
                gone = cluster.remove(ObjectKind::Service, service).await;
            }
            let known = all.iter().find(|one| one.name == name);
            let grace = known.map_or(Duration::from_secs(GRACE_SECONDS), grace);
            // The Deployment names what its pods need: it goes last.
            if let Some(known) = known.filter(|one| !one.ending) {
                gone = gone.and(self.strip(known).await);
                if gone.is_ok() {
                    gone = cluster.remove(ObjectKind::Deployment, known).await;
                }
            }
            match gone {
                Ok(()) => {
                    self.left(place, version, 0, grace).await?;
                    self.removed(ObjectKind::Deployment, &name).await?;
                    return self.removed(ObjectKind::Service, &name).await;
                }
                Err(ClusterError::Conflict(_)) => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        Err(crowded(version))
    }
}
