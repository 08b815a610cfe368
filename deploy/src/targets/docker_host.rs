//! Instances as containers on a Docker host.
//!
//! A container is named after its version and number, so that "it exists already" means "adopt it".
//! It is made from the digest, on a bridge network of its environment, publishes no port, and is
//! reached by its address there: the router must be on the same Linux host. Several hosts: `several`.
//!
//! Fencing is by label: a container carries the token that it was made under, and nobody with a lower
//! one touches the place. An adopted container keeps its label, so that a stale owner is refused here
//! only after its successor made something; the store's fence and the router's refuse it before.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::rollout::{InstanceView, VersionSpec};
use slipway_core::traffic::Fence;
use slipway_docker::{
    BridgeSpec, ContainerSpec, ContainerState, ContainerView, DockerError, Engine, Limits,
    NetworkSpec, Security, TlsFiles, labels,
};

use super::{Instances, Place, Target, TargetError};

const SERVICE: &str = "slipway.service";
const ENVIRONMENT: &str = "slipway.environment";
const VERSION: &str = "slipway.version";
const TOKEN: &str = "slipway.token";
const PORT: &str = "slipway.port";
const NAME: &str = "slipway.name";
const PURPOSE: (&str, &str) = (labels::PURPOSE, "deployment");
/// How long an image may take to come.
const PULL_LIMIT: Duration = Duration::from_secs(540);
/// More processes than this in one instance is a runaway.
const PIDS: u64 = 4_096;

/// One engine.
pub struct DockerHost {
    engine: Engine,
}

impl DockerHost {
    /// At `address`: `unix:///path/to/socket`, or empty for the usual place.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(address: &str) -> Result<Self, TargetError> {
        let socket = match address.strip_prefix("unix://") {
            Some(path) => Some(path),
            None if address.is_empty() => None,
            None => {
                let text = format!("docker address `{address}` is not unix:///path/to/socket");
                return Err(TargetError::Refused(text));
            }
        };
        let engine = Engine::connect(socket).map_err(refusal)?;
        Ok(Self { engine })
    }

    /// The engine of another host, `tcp://host:port`, over mutual TLS.
    ///
    /// # Errors
    /// When the address or a file cannot be used.
    pub fn remote(address: &str, files: &TlsFiles) -> Result<Self, TargetError> {
        // Names the files: their paths are settings, not secrets.
        let engine = Engine::connect_tls(address, files)
            .map_err(|error| TargetError::Refused(format!("docker at `{address}`: {error}")))?;
        Ok(Self { engine })
    }

    async fn views(&self, place: &Place) -> Result<Vec<ContainerView>, TargetError> {
        let wanted = [
            PURPOSE,
            (SERVICE, place.service_id.as_str()),
            (ENVIRONMENT, place.environment_id.as_str()),
        ];
        let list = self
            .engine
            .list_containers(&wanted)
            .await
            .map_err(refusal)?;
        let mut views = Vec::with_capacity(list.len());
        for summary in list {
            match self.engine.inspect_container(&summary.id).await {
                Ok(view) => views.push(view),
                // Removed between the two looks.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        Ok(views)
    }

    async fn network(&self, place: &Place) -> Result<String, TargetError> {
        let name = format!("slipway-env-{}", place.environment_id.to_lowercase());
        let mine = BTreeMap::from([
            (PURPOSE.0.to_owned(), PURPOSE.1.to_owned()),
            (ENVIRONMENT.to_owned(), place.environment_id.clone()),
        ]);
        let wanted = [(ENVIRONMENT, place.environment_id.as_str())];
        let known = self.engine.list_networks(&wanted).await.map_err(refusal)?;
        if !known.contains(&name) {
            let spec = BridgeSpec {
                name: name.clone(),
                labels: mine,
                ..BridgeSpec::default()
            };
            match self.engine.create_network(&spec).await {
                Ok(_) | Err(DockerError::Conflict(_)) => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        Ok(name)
    }

    /// Makes sure that the image is here, by its digest.
    async fn image(&self, image: &str) -> Result<(), TargetError> {
        match self.engine.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() && image.contains('@') => {}
            Err(error) => return Err(refusal(error)),
        }
        self.engine
            .pull_image(image, None, PULL_LIMIT, |_| {})
            .await
            .map_err(refusal)
    }

    fn spec(
        place: &Place,
        version: &VersionSpec,
        fence: Fence,
        name: String,
        network: &str,
    ) -> ContainerSpec {
        let label = |key: &str, value: String| (key.to_owned(), value);
        let mut env = version.environment.clone();
        env.entry("PORT".to_owned())
            .or_insert_with(|| version.port.to_string());
        ContainerSpec {
            name,
            image: version.image.clone(),
            env,
            labels: BTreeMap::from([
                label(PURPOSE.0, PURPOSE.1.to_owned()),
                label(SERVICE, place.service_id.clone()),
                label(ENVIRONMENT, place.environment_id.clone()),
                label(NAME, place.service.clone()),
                label(VERSION, version.version_id.clone()),
                label(TOKEN, fence.token.to_string()),
                label(PORT, version.port.to_string()),
            ]),
            limits: Limits {
                memory_bytes: version.memory_bytes,
                nano_cpus: u64::from(version.cpu_millis) * 1_000_000,
                pids: PIDS,
                ..Limits::default()
            },
            security: Security {
                options: vec!["no-new-privileges:true".to_owned()],
                init: true,
                ..Security::default()
            },
            network: NetworkSpec {
                name: network.to_owned(),
                aliases: vec![place.service.clone()],
                ..NetworkSpec::default()
            },
            // A crash is brought back by the engine; the health checks see it all the same.
            restart: true,
            ..ContainerSpec::default()
        }
    }
}

fn instance(view: &ContainerView) -> Option<(String, InstanceView)> {
    let version = view.labels.get(VERSION)?.clone();
    let port = view.labels.get(PORT)?;
    let ip = view.addresses.values().next();
    let running = view.state == ContainerState::Running;
    let address = ip.filter(|_| running).map(|ip| format!("{ip}:{port}"));
    Some((
        version,
        InstanceView {
            id: view.name.clone(),
            address,
            exits: view.restarts,
            oom: view.oom_killed,
        },
    ))
}

fn fenced(views: &[ContainerView], fence: Fence) -> Result<(), TargetError> {
    let token = |view: &ContainerView| view.labels.get(TOKEN)?.parse::<u64>().ok();
    match views.iter().filter_map(token).max() {
        Some(seen) if seen > fence.token => Err(TargetError::StaleToken { seen }),
        _ => Ok(()),
    }
}

/// The class of the error, never the engine's words: those may repeat a variable's value, or what the
/// image printed. Whoever needs them finds them in the engine's own log.
fn refusal(error: DockerError) -> TargetError {
    match &error {
        DockerError::NotFound(_) => TargetError::Refused("the engine knows no such object".into()),
        DockerError::Conflict(_) => {
            let text = "the object's state forbids it, or its name is taken";
            TargetError::Refused(text.to_owned())
        }
        DockerError::Refused { call, status, .. } => {
            TargetError::Refused(format!("the engine refused `{call}` ({status})"))
        }
        DockerError::Failed { call, .. } => TargetError::Refused(format!("{call} failed")),
        DockerError::Workdir { .. } => TargetError::Refused(error.to_string()),
        _ => TargetError::Unknown(error.to_string()),
    }
}

#[async_trait]
impl Target for DockerHost {
    async fn ensure(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<(), TargetError> {
        let views = self.views(place).await?;
        fenced(&views, fence)?;
        self.image(&version.image).await?;
        let network = self.network(place).await?;
        for number in 1..=version.replicas {
            let name = format!("slipway-{}-{number}", version.version_id);
            if !views.iter().any(|view| view.name == name) {
                let spec = Self::spec(place, version, fence, name.clone(), &network);
                match self.engine.create_container(&spec).await {
                    // The name says whose it is: made by a try whose reply was lost.
                    Ok(_) | Err(DockerError::Conflict(_)) => {}
                    Err(error) => return Err(refusal(error)),
                }
            }
            self.engine.start_container(&name).await.map_err(refusal)?;
        }
        Ok(())
    }

    async fn observe(&self, place: &Place) -> Result<Instances, TargetError> {
        let mut all = Instances::new();
        for (version, instance) in self.views(place).await?.iter().filter_map(instance) {
            all.entry(version).or_default().push(instance);
        }
        for list in all.values_mut() {
            list.sort_by(|a, b| a.id.cmp(&b.id));
        }
        Ok(all)
    }

    async fn memory(&self, place: &Place, version: &str) -> Result<Option<u32>, TargetError> {
        let mut fullest = None;
        for view in self.views(place).await? {
            let limit = view.in_force.limits.memory_bytes;
            let mine = view.labels.get(VERSION).is_some_and(|v| v == version);
            if !mine || limit == 0 || view.state != ContainerState::Running {
                continue;
            }
            match self.engine.memory_used(&view.id).await {
                Ok(Some(used)) => {
                    let permille = u128::from(used) * 1_000 / u128::from(limit);
                    fullest = fullest.max(Some(u32::try_from(permille).unwrap_or(u32::MAX)));
                }
                Ok(None) => {}
                // Removed between the two looks.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        Ok(fullest)
    }

    async fn park(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        keep: u32,
        grace: Duration,
    ) -> Result<(), TargetError> {
        let mut views = self.views(place).await?;
        fenced(&views, fence)?;
        views.retain(|view| view.labels.get(VERSION).is_some_and(|v| v == version));
        // In the order in which instances are shown: the same ones go on as get traffic.
        views.sort_by(|a, b| a.name.cmp(&b.name));
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        for view in views.iter().skip(keep) {
            if view.state != ContainerState::Running {
                continue;
            }
            match self.engine.stop_container(&view.id, grace).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        Ok(())
    }

    async fn retire(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        grace: Duration,
    ) -> Result<(), TargetError> {
        let views = self.views(place).await?;
        fenced(&views, fence)?;
        let mine = |view: &&ContainerView| view.labels.get(VERSION).is_some_and(|v| v == version);
        for view in views.iter().filter(mine) {
            if view.state == ContainerState::Running {
                match self.engine.stop_container(&view.id, grace).await {
                    Ok(()) => {}
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(refusal(error)),
                }
            }
            match self.engine.remove_container(&view.id).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h102_what_an_engine_says_of_a_refusal_is_told_by_its_class_alone() {
        let message = "invalid env PASSWORD=hunter2".to_owned();
        let all = [
            DockerError::NotFound(message.clone()),
            DockerError::Conflict(message.clone()),
            DockerError::Refused {
                call: "create container",
                status: 400,
                message: message.clone(),
            },
            DockerError::Failed {
                call: "pull",
                message,
            },
        ];
        for error in all {
            let class = refusal(error).to_string();
            assert!(!class.contains("hunter2"), "{class}");
            assert!(class.len() > 20, "it still says what happened: {class}");
        }
    }
}
