//! The life of a container: create, start, stop, kill, look, list, remove.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, InspectContainerOptionsBuilder,
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};

use crate::engine::{LONG, SHORT, within};
use crate::{ContainerSpec, DockerError, Engine, Limits, Security, workdir};

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Exists, never started.
    Created,
    /// Executing (paused and restarting count as such).
    Running,
    /// Ended, with its exit code.
    Exited(i64),
}

/// What a health check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// There is no health check.
    Unchecked,
    /// Not decided yet.
    Starting,
    /// It passed.
    Healthy,
    /// It failed too often.
    Unhealthy,
}

/// One container, looked at closely.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Engine's id.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// What it does.
    pub state: ContainerState,
    /// Whether the kernel killed something in it for memory.
    pub oom_killed: bool,
    /// How often the engine started it again by itself.
    pub restarts: u64,
    /// The engine's error when it could not be started.
    pub error: String,
    /// Health.
    pub health: Health,
    /// Address by network name.
    pub addresses: BTreeMap<String, String>,
    /// Host port by container port (TCP).
    pub ports: BTreeMap<u16, u16>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Digest of the image that it was made from.
    pub image: String,
    /// The limits that are really in force.
    pub in_force: EngineLimits,
}

/// Limits as the engine says they are in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineLimits {
    /// Resources.
    pub limits: Limits,
    /// What it may.
    pub security: Security,
    /// Whether it is privileged.
    pub privileged: bool,
}

/// One container in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Engine's id.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it executes now.
    pub running: bool,
    /// Whether it was ever started.
    pub started: bool,
}

impl Engine {
    /// Creates a container and returns its id. Nothing is executed yet.
    ///
    /// # Errors
    /// `NotFound` when the image is not here, `Conflict` when the name is taken, `Workdir` when the
    /// spec or the image names a working directory that is no plain folder.
    pub async fn create_container(&self, spec: &ContainerSpec) -> Result<String, DockerError> {
        let mut options = CreateContainerOptionsBuilder::default();
        if !spec.name.is_empty() {
            options = options.name(&spec.name);
        }
        // The one that was checked is the one that is used: the image's name may move in between.
        let named = match &spec.workdir {
            Some(named) => named.clone(),
            None => self.inspect_image(&spec.image).await?.workdir,
        };
        let body = spec.body(workdir::checked(&named)?);
        let created = self.docker.create_container(Some(options.build()), body);
        Ok(within("create container", LONG, created).await?.id)
    }

    /// Starts a created or stopped container. Already running is success.
    ///
    /// # Errors
    /// When the engine cannot start it.
    pub async fn start_container(&self, id: &str) -> Result<(), DockerError> {
        let start = self
            .docker
            .start_container(id, None::<StartContainerOptions>);
        unless_unchanged(within("start container", LONG, start).await)
    }

    /// Asks a container to stop (SIGTERM), then kills it after `grace`. Already stopped is success.
    ///
    /// # Errors
    /// When there is no such container or the engine cannot stop it.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), DockerError> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let limit = LONG.saturating_add(grace);
        let stop = self.docker.stop_container(id, Some(options));
        unless_unchanged(within("stop container", limit, stop).await)
    }

    /// Kills a container at once. Not running, or gone, is success.
    ///
    /// # Errors
    /// When the engine cannot kill it.
    pub async fn kill_container(&self, id: &str) -> Result<(), DockerError> {
        self.signal_container(id, "SIGKILL").await
    }

    /// Sends a signal. Not running, or gone, is success.
    ///
    /// # Errors
    /// When the engine cannot send it.
    pub async fn signal_container(&self, id: &str, signal: &str) -> Result<(), DockerError> {
        let options = KillContainerOptionsBuilder::default()
            .signal(signal)
            .build();
        let kill = self.docker.kill_container(id, Some(options));
        match within("kill container", SHORT, kill).await {
            Err(DockerError::Conflict(_) | DockerError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// Removes a container with its anonymous volumes, killing it when need be. Gone is success.
    ///
    /// # Errors
    /// When the engine cannot remove it.
    pub async fn remove_container(&self, id: &str) -> Result<(), DockerError> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let remove = self.docker.remove_container(id, Some(options));
        match within("remove container", LONG, remove).await {
            // Somebody else is removing it right now: the same end.
            Err(DockerError::Conflict(m)) if m.contains("already in progress") => Ok(()),
            Err(DockerError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// Looks at a container closely.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn inspect_container(&self, id: &str) -> Result<ContainerView, DockerError> {
        let look = self
            .docker
            .inspect_container(id, None::<InspectContainerOptions>);
        view(within("inspect container", SHORT, look).await?)
    }

    /// Bytes of a container's own layer: what it has written that is neither in a volume nor in memory.
    /// The engine walks the layer for it.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    pub async fn written_bytes(&self, id: &str) -> Result<u64, DockerError> {
        let options = InspectContainerOptionsBuilder::default().size(true).build();
        let look = self.docker.inspect_container(id, Some(options));
        let found = within("inspect container", LONG, look).await?;
        Ok(found
            .size_rw
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0))
    }

    /// All containers, running or not, that carry every one of these labels.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn list_containers(
        &self,
        labels: &[(&str, &str)],
    ) -> Result<Vec<ContainerSummary>, DockerError> {
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&label_filter(labels))
            .build();
        let list = within(
            "list containers",
            SHORT,
            self.docker.list_containers(Some(options)),
        )
        .await?;
        let summary = |found: bollard::models::ContainerSummary| {
            let name = found.names.unwrap_or_default().into_iter().next();
            Some(ContainerSummary {
                id: found.id?,
                name: name.unwrap_or_default().trim_start_matches('/').to_owned(),
                labels: found.labels.unwrap_or_default().into_iter().collect(),
                running: found.state == Some(bollard::models::ContainerSummaryStateEnum::RUNNING),
                started: found.state != Some(bollard::models::ContainerSummaryStateEnum::CREATED),
            })
        };
        Ok(list.into_iter().filter_map(summary).collect())
    }
}

pub(crate) fn label_filter(labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let wanted = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    HashMap::from([("label".to_owned(), wanted)])
}

/// The engine says 304 when there was nothing to do.
fn unless_unchanged(result: Result<(), DockerError>) -> Result<(), DockerError> {
    match result {
        Err(DockerError::Refused { status: 304, .. }) => Ok(()),
        other => other,
    }
}

fn view(found: ContainerInspectResponse) -> Result<ContainerView, DockerError> {
    let call = "inspect container";
    let incomplete = |what| DockerError::Incomplete { call, what };
    let in_force = in_force(&found);
    let state = found.state.ok_or_else(|| incomplete("a state"))?;
    let what = match state.status {
        Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => {
            ContainerState::Exited(state.exit_code.unwrap_or(-1))
        }
        Some(_) => ContainerState::Running,
        None => return Err(incomplete("a status")),
    };
    let health = match state.health.and_then(|h| h.status) {
        None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) => Health::Unchecked,
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
    };
    let settings = found.network_settings.unwrap_or_default();
    let addresses = settings
        .networks
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, end)| Some((name, end.ip_address.filter(|ip| !ip.is_empty())?)))
        .collect();
    let ports = settings
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(port, bound)| {
            let host = bound?.into_iter().find_map(|b| b.host_port)?;
            Some((port.strip_suffix("/tcp")?.parse().ok()?, host.parse().ok()?))
        })
        .collect();
    Ok(ContainerView {
        id: found.id.ok_or_else(|| incomplete("an id"))?,
        name: found
            .name
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        state: what,
        oom_killed: state.oom_killed.unwrap_or(false),
        restarts: found
            .restart_count
            .and_then(|count| u64::try_from(count).ok())
            .unwrap_or(0),
        error: state.error.unwrap_or_default(),
        health,
        addresses,
        ports,
        labels: found
            .config
            .and_then(|c| c.labels)
            .unwrap_or_default()
            .into_iter()
            .collect(),
        image: found.image.unwrap_or_default(),
        in_force,
    })
}

fn in_force(found: &ContainerInspectResponse) -> EngineLimits {
    let Some(host) = &found.host_config else {
        return EngineLimits::default();
    };
    let number = |value: Option<i64>| value.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
    let nofile = host
        .ulimits
        .iter()
        .flatten()
        .find(|u| u.name.as_deref() == Some("nofile"))
        .and_then(|u| u.hard);
    let oom_score_adj = host.oom_score_adj.and_then(|v| i16::try_from(v).ok());
    let list = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
    EngineLimits {
        limits: Limits {
            memory_bytes: number(host.memory),
            nano_cpus: number(host.nano_cpus),
            pids: number(host.pids_limit),
            shm_bytes: number(host.shm_size),
            nofile: number(nofile),
            oom_score_adj,
        },
        security: Security {
            cap_drop: list(&host.cap_drop),
            cap_add: list(&host.cap_add),
            options: list(&host.security_opt),
            read_only_root: host.readonly_rootfs.unwrap_or(false),
            init: host.init.unwrap_or(false),
        },
        privileged: host.privileged.unwrap_or(true),
    }
}
