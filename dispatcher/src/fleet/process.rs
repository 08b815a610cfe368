//! Agents as child processes of this host. Each has a folder with its settings (0600; the join token is
//! in it, never in an argument) and is found again, after any restart of the dispatcher, by the path of
//! that file on its command line: there is no instant at which one exists and cannot be found.
//!
//! Signals go through a process descriptor that was opened before the command line was looked at, so
//! that a number that was given to another process is never hit.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal};
use slipway_core::fleet::{Listed, Listing};
use slipway_core::id::AgentId;
use slipway_docker::Engine;
use slipway_docker::labels::INSTALL;

use super::{FleetProvider, Order, ProviderError, Target};
use crate::config::FleetConfig;

/// An agent that holds nothing ends within its own limit of 10 s; then it is killed.
const GRACE: Duration = Duration::from_secs(20);
/// A program that was executed has its command line within this, on the busiest host.
const NAMED: Duration = Duration::from_secs(5);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);
/// Variables that a child gets of ours; everything else could be a secret of the dispatcher's.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "DOCKER_HOST"];
/// Settings of one agent.
pub(super) const FILE: &str = "agent.toml";

/// The agents of one pool on this host.
pub struct Processes {
    config: FleetConfig,
    dir: PathBuf,
    command: Vec<String>,
}

/// One process that was found.
struct Found {
    agent: AgentId,
    pid: i32,
    fd: OwnedFd,
    begun: u64,
}

impl Found {
    fn name(&self) -> String {
        format!("process {} begun {}", self.pid, self.begun)
    }

    fn signal(&self, signal: Signal) {
        let _gone_already = rustix::process::pidfd_send_signal(&self.fd, signal);
    }

    fn is_alive(&self) -> bool {
        state(self.pid).is_some_and(|(state, begun)| begun == self.begun && state != 'Z')
    }
}

/// State and start time of a process.
fn state(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let rest = text.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the file; `state` is field 3.
    let begun = fields.nth(18)?.parse().ok()?;
    Some((state, begun))
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> ProviderError {
    ProviderError::new(format!("cannot {what} {}: {error}", path.display()))
}

impl Processes {
    /// The agents of a pool below the fleet's folder.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(config: &FleetConfig, pool: &str) -> Result<Self, ProviderError> {
        let dir = config.directory.join(pool);
        std::fs::create_dir_all(&dir).map_err(|e| failed("make", &dir, &e))?;
        let dir = dir.canonicalize().map_err(|e| failed("find", &dir, &e))?;
        let command = if config.command.is_empty() {
            let own = std::env::current_exe().map_err(ProviderError::new)?;
            vec![own.display().to_string(), "agent".to_owned()]
        } else {
            config.command.clone()
        };
        Ok(Self {
            config: config.clone(),
            dir,
            command,
        })
    }

    fn file(&self, agent: &AgentId) -> PathBuf {
        self.dir.join(agent.as_str()).join(FILE)
    }

    /// Every process whose command line names a settings file of this pool, and that is ours.
    fn find(&self) -> Result<Vec<Found>, ProviderError> {
        let proc = Path::new("/proc");
        let entries = std::fs::read_dir(proc).map_err(|e| failed("read", proc, &e))?;
        let own = rustix::process::getuid().as_raw();
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            if self.agent_of(&entry.path()).is_none()
                || entry.metadata().map_or(true, |m| m.uid() != own)
            {
                continue;
            }
            let Some(number) = Pid::from_raw(pid) else {
                continue;
            };
            let Ok(fd) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else {
                continue;
            };
            // Looked at again now that the descriptor holds it.
            let (Some(agent), Some((state, begun))) = (self.agent_of(&entry.path()), state(pid))
            else {
                continue;
            };
            if state != 'Z' {
                found.push(Found {
                    agent,
                    pid,
                    fd,
                    begun,
                });
            }
        }
        Ok(found)
    }

    fn agent_of(&self, process: &Path) -> Option<AgentId> {
        let line = std::fs::read(process.join("cmdline")).ok()?;
        line.split(|b| *b == 0).find_map(|part| {
            let path = Path::new(std::str::from_utf8(part).ok()?);
            let folder = path.parent()?;
            let ours = path.file_name()? == FILE && folder.parent()? == self.dir;
            ours.then(|| folder.file_name()?.to_str()?.parse().ok())?
        })
    }

    fn write_settings(&self, order: &Order) -> Result<PathBuf, ProviderError> {
        let file = self.file(&order.agent);
        let folder = self.dir.join(order.agent.as_str());
        let data = folder.join("state");
        std::fs::create_dir_all(&data).map_err(|e| failed("make", &data, &e))?;
        let settings = order
            .settings
            .here(&self.config, &data.display().to_string());
        let written = settings.write(&file);
        written.map_err(|e| failed("write", &file, &e))?;
        Ok(file)
    }

    /// Until the process can be found, or has ended. The kernel tells of a program's execution before it
    /// has set the command line that `find` goes by.
    async fn named(&self, pid: i32) {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let named = tokio::time::timeout(NAMED, async {
            while self.agent_of(&process).is_none()
                && state(pid).is_some_and(|(state, _)| state != 'Z')
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        if named.await.is_err() {
            tracing::warn!(pid, "an agent was started and has no command line");
        }
    }

    async fn spawn(&self, order: &Order) -> Result<String, ProviderError> {
        let file = self.write_settings(order)?;
        let log = self.dir.join(order.agent.as_str()).join("agent.log");
        let output = std::fs::File::create(&log).map_err(|e| failed("write", &log, &e))?;
        let errors = output.try_clone().map_err(|e| failed("write", &log, &e))?;
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(ProviderError::new("`fleet.command` is empty"));
        };
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .args(["--log", "warn", "--config"])
            .arg(&file)
            .env_clear()
            .current_dir(self.dir.join(order.agent.as_str()))
            .stdin(std::process::Stdio::null())
            .stdout(output)
            .stderr(errors)
            // A group of its own: what stops the dispatcher does not stop its agents.
            .process_group(0)
            .kill_on_drop(false);
        for name in INHERITED {
            if let Some(value) = inherited(name) {
                command.env(name, value);
            }
        }
        let mut child = command
            .spawn()
            .map_err(|e| ProviderError::new(format!("cannot start {program}: {e}")))?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap_or(0);
        let name = format!(
            "process {pid} begun {}",
            state(pid).map_or(0, |(_, begun)| begun)
        );
        // Reaped whenever it ends. What a dispatcher that died left is reaped by init.
        slipway_daemon::spawn("reap an agent", async move {
            let _ended = child.wait().await;
        });
        self.named(pid).await;
        Ok(name)
    }

    /// SIGTERM, then SIGKILL, until it is gone.
    async fn end(found: &Found) -> Result<(), ProviderError> {
        for (signal, limit) in [
            (Signal::TERM, GRACE),
            (Signal::KILL, Duration::from_secs(5)),
        ] {
            found.signal(signal);
            let gone = tokio::time::timeout(limit, async {
                while found.is_alive() {
                    tokio::time::sleep(LOOK).await;
                }
            });
            if gone.await.is_ok() {
                return Ok(());
            }
        }
        Err(ProviderError::new(format!("{} does not end", found.name())))
    }

    /// Its folder, and what it left in the engine: no agent of this name ever comes back for it.
    async fn clear(&self, agent: &AgentId) -> Result<(), ProviderError> {
        let folder = self.dir.join(agent.as_str());
        if let Err(error) = remove_containers(&self.config, agent).await {
            tracing::debug!(%error, agent = %agent, "its containers cannot be looked for");
        }
        match tokio::fs::remove_dir_all(&folder).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &folder, &e))
            }
            _ => Ok(()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a child needs a path and a home; secrets of ours are not among these names"
)]
fn inherited(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Containers of attempts that an agent which is gone has left.
pub(super) async fn remove_containers(
    config: &FleetConfig,
    agent: &AgentId,
) -> Result<(), slipway_docker::DockerError> {
    let socket = config.agent.get("docker").and_then(|v| v.as_str());
    let engine = Engine::connect(socket.filter(|path| !path.is_empty()))?;
    for left in engine.list_containers(&[(INSTALL, agent.as_str())]).await? {
        tracing::warn!(container = left.name, agent = %agent, "removing what an agent left");
        engine.remove_container(&left.id).await?;
    }
    Ok(())
}

#[async_trait]
impl FleetProvider for Processes {
    async fn list(&self) -> Result<Listing, ProviderError> {
        let machines = self.find()?.into_iter().map(|found| Listed {
            machine: found.name(),
            agent: Some(found.agent),
            running: true,
        });
        Ok(Listing {
            machines: machines.collect(),
            complete: true,
        })
    }

    async fn start(&self, order: &Order) -> Result<String, ProviderError> {
        match self.find()?.iter().find(|found| found.agent == order.agent) {
            Some(found) => Ok(found.name()),
            None => self.spawn(order).await,
        }
    }

    async fn stop(&self, target: &Target) -> Result<(), ProviderError> {
        for found in self.find()? {
            if target.agent.as_ref() == Some(&found.agent)
                || target.machine.as_ref() == Some(&found.name())
            {
                Self::end(&found).await?;
            }
        }
        match &target.agent {
            Some(agent) => self.clear(agent).await,
            None => Ok(()),
        }
    }
}

/// Ends every process agent of every pool below the fleet's folder: for `slipway up`, whose agents end
/// with it. What they hold they finish first, within `limit`.
pub async fn end_all(config: &FleetConfig, limit: Duration) {
    let Ok(entries) = std::fs::read_dir(&config.directory) else {
        return;
    };
    let pools = entries.flatten().filter_map(|e| {
        let name = e.file_name().to_str()?.to_owned();
        Processes::new(config, &name).ok()
    });
    let pools: Vec<Processes> = pools.collect();
    let alive = || pools.iter().filter_map(|pool| pool.find().ok()).flatten();
    for found in alive() {
        found.signal(Signal::TERM);
    }
    let ended = tokio::time::timeout(limit, async {
        while alive().next().is_some() {
            tokio::time::sleep(LOOK).await;
        }
    });
    if ended.await.is_err() {
        alive().for_each(|found| found.signal(Signal::KILL));
    }
}
