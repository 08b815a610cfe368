//! What a container is to be: plain data, turned into the engine's words in one place.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount,
    MountType, NetworkingConfig, PortBinding, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};

/// A container to be created.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Its name; empty = the engine chooses.
    pub name: String,
    /// Image reference or digest.
    pub image: String,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command; empty = keep.
    pub command: Vec<String>,
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Working directory; `None` = the image's, when that is a plain folder.
    pub workdir: Option<String>,
    /// `uid:gid` or a name; `None` = the image's.
    pub user: Option<String>,
    /// Host name inside.
    pub hostname: Option<String>,
    /// Whether standard input is kept open for [`crate::OutputStream`].
    pub stdin: bool,
    /// Resource limits.
    pub limits: Limits,
    /// What it may.
    pub security: Security,
    /// Folders and volumes.
    pub mounts: Vec<MountSpec>,
    /// Memory file systems: path → options.
    pub tmpfs: BTreeMap<String, String>,
    /// The engine's runtime; `None` = its usual one.
    pub runtime: Option<String>,
    /// Networks.
    pub network: NetworkSpec,
    /// Where the engine keeps output.
    pub log: LogDriver,
    /// Health check; `None` = the image's.
    pub health: Option<HealthSpec>,
    /// Whether the engine starts it again by itself unless it was stopped.
    pub restart: bool,
}

/// Resource limits; 0 or `None` = the engine's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes; swap is limited to the same, so there is none.
    pub memory_bytes: u64,
    /// Billionths of a CPU.
    pub nano_cpus: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Size of `/dev/shm`.
    pub shm_bytes: u64,
    /// Open files.
    pub nofile: u64,
    /// How readily the kernel kills it.
    pub oom_score_adj: Option<i16>,
}

/// What a container may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Capabilities taken.
    pub cap_drop: Vec<String>,
    /// Capabilities given back.
    pub cap_add: Vec<String>,
    /// Security options, e.g. `no-new-privileges:true`.
    pub options: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only_root: bool,
    /// Whether a small init reaps zombies.
    pub init: bool,
}

/// A folder or volume in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSpec {
    /// A folder of the host.
    Bind {
        /// On the host.
        source: String,
        /// In the container.
        target: String,
        /// Whether it is read-only.
        read_only: bool,
    },
    /// A named volume.
    Volume {
        /// Its name.
        name: String,
        /// In the container.
        target: String,
        /// Whether it is read-only.
        read_only: bool,
    },
}

/// Networks of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Network name, `none`, or empty for the engine's default bridge.
    pub name: String,
    /// Names under which others on that network find it.
    pub aliases: Vec<String>,
    /// Ports opened on the host.
    pub publish: Vec<PublishedPort>,
}

/// A port opened on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Inside.
    pub container: u16,
    /// Address on the host.
    pub host_ip: String,
    /// On the host; 0 = any free one.
    pub host: u16,
}

/// Where the engine keeps what a container prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogDriver {
    /// The engine's default.
    #[default]
    Default,
    /// Nowhere.
    None,
    /// The engine's own files, at most this many bytes.
    Local {
        /// Limit; rounded up to a megabyte.
        max_bytes: u64,
    },
}

/// A health check inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// Shell command.
    pub command: String,
    /// How often.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

impl ContainerSpec {
    /// The engine's words; `workdir` is the checked one.
    pub(crate) fn body(&self, workdir: &str) -> ContainerCreateBody {
        let ports: Vec<String> = self
            .network
            .publish
            .iter()
            .map(|p| format!("{}/tcp", p.container))
            .collect();
        ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: self.entrypoint.clone(),
            cmd: (!self.command.is_empty()).then(|| self.command.clone()),
            env: Some(self.env.iter().map(|(k, v)| format!("{k}={v}")).collect()),
            labels: Some(to_hash_map(&self.labels)),
            working_dir: Some(workdir.to_owned()),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            attach_stdin: Some(self.stdin),
            open_stdin: Some(self.stdin),
            stdin_once: Some(self.stdin),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            exposed_ports: (!ports.is_empty()).then_some(ports),
            healthcheck: self.health.as_ref().map(health_config),
            host_config: Some(self.host_config()),
            networking_config: self.networking(),
            ..ContainerCreateBody::default()
        }
    }

    fn networking(&self) -> Option<NetworkingConfig> {
        if self.network.aliases.is_empty() || self.network.name.is_empty() {
            return None;
        }
        let endpoint = EndpointSettings {
            aliases: Some(self.network.aliases.clone()),
            ..EndpointSettings::default()
        };
        Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(self.network.name.clone(), endpoint)])),
        })
    }

    fn host_config(&self) -> HostConfig {
        let limits = &self.limits;
        HostConfig {
            memory: positive(limits.memory_bytes),
            memory_swap: positive(limits.memory_bytes),
            nano_cpus: positive(limits.nano_cpus),
            pids_limit: positive(limits.pids),
            shm_size: positive(limits.shm_bytes),
            oom_score_adj: limits.oom_score_adj.map(i64::from),
            ulimits: positive(limits.nofile).map(|n| vec![ulimit("nofile", n), ulimit("core", 0)]),
            cap_drop: Some(self.security.cap_drop.clone()),
            cap_add: Some(self.security.cap_add.clone()),
            security_opt: Some(self.security.options.clone()),
            readonly_rootfs: Some(self.security.read_only_root),
            init: Some(self.security.init),
            privileged: Some(false),
            mounts: Some(self.mounts.iter().map(mount).collect()),
            tmpfs: (!self.tmpfs.is_empty()).then(|| to_hash_map(&self.tmpfs)),
            network_mode: (!self.network.name.is_empty()).then(|| self.network.name.clone()),
            port_bindings: self.bindings(),
            log_config: log_config(&self.log),
            restart_policy: self.restart.then_some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
                maximum_retry_count: None,
            }),
            runtime: self.runtime.clone(),
            ..HostConfig::default()
        }
    }

    fn bindings(&self) -> Option<HashMap<String, Option<Vec<PortBinding>>>> {
        if self.network.publish.is_empty() {
            return None;
        }
        let binding = |port: &PublishedPort| {
            let host = PortBinding {
                host_ip: Some(port.host_ip.clone()),
                host_port: Some(port.host.to_string()),
            };
            (format!("{}/tcp", port.container), Some(vec![host]))
        };
        Some(self.network.publish.iter().map(binding).collect())
    }
}

fn positive(value: u64) -> Option<i64> {
    (value > 0).then(|| i64::try_from(value).unwrap_or(i64::MAX))
}

fn ulimit(name: &str, value: i64) -> ResourcesUlimits {
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(value),
        hard: Some(value),
    }
}

fn mount(spec: &MountSpec) -> Mount {
    let (typ, source, target, read_only) = match spec {
        MountSpec::Bind {
            source,
            target,
            read_only,
        } => (MountType::BIND, source, target, *read_only),
        MountSpec::Volume {
            name,
            target,
            read_only,
        } => (MountType::VOLUME, name, target, *read_only),
    };
    Mount {
        typ: Some(typ),
        source: Some(source.clone()),
        target: Some(target.clone()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn log_config(driver: &LogDriver) -> Option<HostConfigLogConfig> {
    match driver {
        LogDriver::Default => None,
        LogDriver::None => Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        LogDriver::Local { max_bytes } => Some(HostConfigLogConfig {
            typ: Some("local".to_owned()),
            config: Some(HashMap::from([
                (
                    "max-size".to_owned(),
                    format!("{}m", max_bytes.div_ceil(1 << 20).max(1)),
                ),
                ("max-file".to_owned(), "1".to_owned()),
                ("compress".to_owned(), "false".to_owned()),
            ])),
        }),
    }
}

fn health_config(spec: &HealthSpec) -> HealthConfig {
    let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    HealthConfig {
        test: Some(vec!["CMD-SHELL".to_owned(), spec.command.clone()]),
        interval: Some(nanos(spec.interval)),
        timeout: Some(nanos(spec.timeout)),
        retries: Some(i64::from(spec.retries)),
        ..HealthConfig::default()
    }
}

pub(crate) fn to_hash_map(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_swap_beyond_memory_and_never_privileged() {
        let spec = ContainerSpec {
            limits: Limits {
                memory_bytes: 7,
                ..Limits::default()
            },
            ..ContainerSpec::default()
        };
        let host = spec.host_config();
        assert_eq!((host.memory, host.memory_swap), (Some(7), Some(7)));
        assert_eq!(host.privileged, Some(false));
        assert_eq!(host.pids_limit, None);
    }
}
