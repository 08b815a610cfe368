//! Agents as containers on a Docker host. The agent drives the host's own engine through its socket, and
//! its state folder is at the same path inside as outside, so that the workspaces that it binds into
//! stages are found by the engine. Such a container is as powerful as root on that host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::fleet::{Listed, Listing};
use slipway_core::id::AgentId;
use slipway_docker::{
    ContainerSpec, DockerError, Engine, LogDriver, MountSpec, NetworkSpec, Security,
};

use super::process::{FILE, remove_containers};
use super::{FleetProvider, Order, ProviderError, Target};
use crate::config::FleetConfig;

/// Whose machines they are, which pool, which agent.
const INSTALLATION: &str = "slipway.fleet";
const POOL: &str = "slipway.pool";
const AGENT: &str = "slipway.agent";
/// Where an engine's socket usually is.
const SOCKET: &str = "/var/run/docker.sock";
/// An agent that holds nothing ends within its own limit of 10 s.
const GRACE: Duration = Duration::from_secs(20);
/// What the engine keeps of an agent's log.
const LOG_MAX: u64 = 10 * 1024 * 1024;

/// The containers of one pool.
pub struct Containers {
    engine: Engine,
    config: FleetConfig,
    installation: String,
    pool: String,
    image: String,
    network: String,
    socket: String,
    dir: PathBuf,
}

impl From<DockerError> for ProviderError {
    fn from(error: DockerError) -> Self {
        Self::new(error)
    }
}

impl Containers {
    /// On the engine that the settings name.
    ///
    /// # Errors
    /// When it cannot be spoken to.
    pub fn new(
        config: &FleetConfig,
        installation: &str,
        pool: &str,
        image: &str,
        network: &str,
    ) -> Result<Self, ProviderError> {
        let named = (!config.docker.is_empty()).then_some(config.docker.as_str());
        let dir = config.directory.join(pool);
        std::fs::create_dir_all(&dir).map_err(ProviderError::new)?;
        Ok(Self {
            engine: Engine::connect(named)?,
            config: config.clone(),
            installation: installation.to_owned(),
            pool: pool.to_owned(),
            image: image.to_owned(),
            network: network.to_owned(),
            socket: named.unwrap_or(SOCKET).to_owned(),
            dir: dir.canonicalize().map_err(ProviderError::new)?,
        })
    }

    fn folder(&self, agent: &AgentId) -> PathBuf {
        self.dir.join(agent.as_str())
    }

    /// Its settings: its join token is in no argument, no label and no variable.
    fn file(&self, agent: &AgentId) -> String {
        self.folder(agent).join(FILE).display().to_string()
    }

    fn write_settings(&self, order: &Order) -> std::io::Result<()> {
        let state = self.folder(&order.agent).join("state");
        std::fs::create_dir_all(&state)?;
        let settings = order
            .settings
            .here(&self.config, &state.display().to_string());
        settings.write(Path::new(&self.file(&order.agent)))
    }

    fn spec(&self, order: &Order) -> ContainerSpec {
        let folder = self.folder(&order.agent).display().to_string();
        let same = |path: &str| MountSpec::Bind {
            source: path.to_owned(),
            target: path.to_owned(),
            read_only: false,
        };
        let mut mounts = vec![
            same(&folder),
            MountSpec::Bind {
                source: self.socket.clone(),
                target: SOCKET.to_owned(),
                read_only: false,
            },
        ];
        // The cache daemon beside it: its socket, and the content that it lays out.
        let cache = self.config.agent.get("cache").and_then(|v| v.as_str());
        let beside = cache.and_then(|socket| Path::new(socket).parent());
        mounts.extend(beside.map(|dir| same(&dir.display().to_string())));
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        ContainerSpec {
            name: name(&order.agent),
            image: self.image.clone(),
            command: ["agent", "--config", &self.file(&order.agent)]
                .map(str::to_owned)
                .to_vec(),
            labels: BTreeMap::from([
                label(INSTALLATION, &self.installation),
                label(POOL, &self.pool),
                label(AGENT, order.agent.as_str()),
            ]),
            mounts,
            security: Security {
                cap_drop: vec!["ALL".to_owned()],
                // Files of stages belong to anybody; the packet filter keeps stages from this host.
                cap_add: [
                    "CHOWN",
                    "DAC_OVERRIDE",
                    "FOWNER",
                    "SETUID",
                    "SETGID",
                    "KILL",
                    "NET_ADMIN",
                ]
                .map(str::to_owned)
                .to_vec(),
                options: vec!["no-new-privileges:true".to_owned()],
                read_only_root: false,
                init: true,
            },
            network: NetworkSpec {
                name: self.network.clone(),
                ..NetworkSpec::default()
            },
            log: LogDriver::Local { max_bytes: LOG_MAX },
            ..ContainerSpec::default()
        }
    }

    async fn all(&self) -> Result<Vec<slipway_docker::ContainerSummary>, ProviderError> {
        let labels = [
            (INSTALLATION, self.installation.as_str()),
            (POOL, self.pool.as_str()),
        ];
        Ok(self.engine.list_containers(&labels).await?)
    }
}

fn name(agent: &AgentId) -> String {
    format!("slipway-agent-{agent}")
}

fn agent_of(labels: &BTreeMap<String, String>) -> Option<AgentId> {
    labels.get(AGENT)?.parse().ok()
}

#[async_trait]
impl FleetProvider for Containers {
    async fn list(&self) -> Result<Listing, ProviderError> {
        let machines = self.all().await?.into_iter().map(|found| Listed {
            agent: agent_of(&found.labels),
            machine: found.id,
            running: found.running,
        });
        Ok(Listing {
            machines: machines.collect(),
            complete: true,
        })
    }

    async fn start(&self, order: &Order) -> Result<String, ProviderError> {
        let there = self.all().await?.into_iter();
        let mut there = there.filter(|c| agent_of(&c.labels).as_ref() == Some(&order.agent));
        if let Some(known) = there.next() {
            self.engine.start_container(&known.id).await?;
            return Ok(known.id);
        }
        self.write_settings(order).map_err(ProviderError::new)?;
        let id = match self.engine.create_container(&self.spec(order)).await {
            Ok(id) => id,
            Err(error) => return Err(error.into()),
        };
        self.engine.start_container(&id).await?;
        Ok(id)
    }

    async fn stop(&self, target: &Target) -> Result<(), ProviderError> {
        for found in self.all().await? {
            let agent = agent_of(&found.labels);
            let meant = target.machine.as_ref() == Some(&found.id)
                || (agent.is_some() && agent == target.agent);
            if meant {
                self.engine.stop_container(&found.id, GRACE).await?;
                self.engine.remove_container(&found.id).await?;
            }
        }
        let Some(agent) = &target.agent else {
            return Ok(());
        };
        remove_containers(&self.config, agent).await?;
        match tokio::fs::remove_dir_all(self.folder(agent)).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ProviderError::new(e)),
            _ => Ok(()),
        }
    }
}
