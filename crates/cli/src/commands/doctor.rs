//! `slipway doctor`: what this machine has and lacks, one line each, with what to do about it.

use std::path::PathBuf;

use serde_json::json;
use slipway_core::disk::Room;
use slipway_daemon::{Clock, Rng};
use slipway_docker::Engine;

use crate::client::{Client, Server};
use crate::exit_code::Exit;
use crate::output;

/// Flags of `slipway doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Proves the sandbox of an agent on this host from inside, and leaves the proof in its folder:
    /// without it the agent gets no code from outside.
    #[arg(long)]
    agent: bool,
    /// That agent's settings; without them, those of the first agent of `slipway up`.
    #[arg(long, requires = "agent")]
    config: Option<PathBuf>,
}

struct Check {
    name: &'static str,
    good: bool,
    found: String,
    fix: &'static str,
}

impl Doctor {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        if self.agent {
            return self.agent(server).await;
        }
        let mut checks = vec![git().await];
        checks.extend(docker().await);
        checks.push(packet_filter().await);
        checks.push(disk(server));
        checks.push(reachable(server).await);
        checks.extend(pools(server).await);
        let bad = checks.iter().filter(|c| !c.good).count();
        if self.json {
            let all: Vec<_> = checks
                .iter()
                .map(|c| json!({"name": c.name, "good": c.good, "found": c.found, "fix": c.fix}))
                .collect();
            output::json(&all.into());
        } else {
            for check in &checks {
                let mark = if check.good { "✓" } else { "✗" };
                output::data(&format!("{mark} {}: {}", check.name, check.found));
                if !check.good {
                    output::data(&format!("    {}", check.fix));
                }
            }
        }
        Ok(if bad == 0 { Exit::Ok } else { Exit::Failure })
    }

    async fn agent(&self, server: &Server) -> anyhow::Result<Exit> {
        let config = match &self.config {
            Some(_) => slipway_agent::config::Config::load(self.config.as_deref())?,
            None => {
                let mut config = slipway_agent::config::Config::load(None)?;
                config.data_dir = server.data_dir.join("agent-0");
                config
            }
        };
        let (clock, rng) = (Clock::system(), Rng::system());
        let report = slipway_agent::probe::probe(&config, &clock, &rng).await?;
        let strict = report.proves_strict();
        if self.json {
            let all: Vec<_> = report
                .findings
                .iter()
                .map(|f| json!({"profile": f.profile, "what": f.what, "good": f.good, "found": f.found}))
                .collect();
            output::json(&json!({"strict_proven": strict, "findings": all}));
        } else {
            for found in &report.findings {
                let mark = if found.good { "✓" } else { "✗" };
                let colon = if found.found.is_empty() { "" } else { ": " };
                output::data(&format!(
                    "{mark} {:<8} {}{colon}{}",
                    found.profile, found.what, found.found
                ));
            }
            output::say(if strict {
                "proven: this agent may execute code from outside, from its next connection on"
            } else {
                "not proven: this agent gets no code from outside; what is marked ✗ says why"
            });
        }
        Ok(if strict { Exit::Ok } else { Exit::Failure })
    }
}

async fn git() -> Check {
    let version = tokio::process::Command::new("git")
        .arg("--version")
        .output()
        .await;
    let found = version
        .ok()
        .filter(|out| out.status.success())
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    Check {
        name: "git",
        good: found.is_some(),
        found: found.unwrap_or_else(|| "not found".to_owned()),
        fix: "install git 2.39 or newer",
    }
}

async fn docker() -> Vec<Check> {
    let facts = match Engine::connect(None) {
        Ok(engine) => engine.facts().await,
        Err(error) => Err(error),
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            return vec![Check {
                name: "docker",
                good: false,
                found: error.to_string(),
                fix: "install and start a Docker engine (`make setup` does on Debian)",
            }];
        }
    };
    let check = |name, good, found: &str, fix| Check {
        name,
        good,
        found: found.to_owned(),
        fix,
    };
    let yes = |good| if good { "yes" } else { "no" };
    vec![
        check("docker", true, &facts.version, ""),
        check(
            "process limits",
            facts.pids_limit,
            yes(facts.pids_limit),
            "boot with the pids cgroup controller",
        ),
        check(
            "reproducible images",
            facts.reproducible_images,
            yes(facts.reproducible_images),
            "Docker 26 or newer with the containerd image store; builds work without it",
        ),
        check(
            "user namespaces",
            facts.user_namespaces,
            yes(facts.user_namespaces),
            "set `userns-remap` in daemon.json: a further wall around code from outside",
        ),
    ]
}

/// Whether an agent started by this user could limit what stages reach.
async fn packet_filter() -> Check {
    let listed = tokio::process::Command::new("nft")
        .args(["list", "tables"])
        .output()
        .await;
    let found = match listed {
        Ok(out) if out.status.success() => Ok("nftables can be set"),
        Ok(_) => Err("this user may not set nftables"),
        Err(_) => Err("nft is not installed"),
    };
    Check {
        name: "network limits",
        good: found.is_ok(),
        found: found.unwrap_or_else(|why| why).to_owned(),
        fix: "install nftables and start agents as root, or stages reach this host and private addresses",
    }
}

fn disk(server: &Server) -> Check {
    let dir = if server.data_dir.exists() {
        server.data_dir.clone()
    } else {
        ".".into()
    };
    let facts = slipway_agent::capacity::facts(&dir);
    let room = Room {
        free: facts.disk_free_bytes,
        usable: facts.disk_total_bytes,
    };
    let free = room.percent();
    Check {
        name: "free disk",
        good: free >= 15,
        found: format!("{free} %"),
        fix: "agents take no stage below 15 %",
    }
}

async fn reachable(server: &Server) -> Check {
    let answered = match Client::new(server) {
        Ok(client) => client.get("/agents").await.map(|_| ()),
        Err(error) => Err(error),
    };
    Check {
        name: "server",
        good: answered.is_ok(),
        found: match &answered {
            Ok(()) => format!("{} answers", server.server),
            Err(error) => format!("{error:#}"),
        },
        fix: "start one with `slipway up`, or name it with --server and --token",
    }
}

/// Whether pools of agents have the size that they should have.
async fn pools(server: &Server) -> Option<Check> {
    let degraded = super::pools::degraded(&Client::new(server).ok()?).await?;
    Some(Check {
        name: "pools",
        good: degraded.is_empty(),
        found: match degraded.is_empty() {
            true => "as large as they should be".to_owned(),
            false => degraded.join("; "),
        },
        fix: "`slipway pool explain <pool>` says more",
    })
}
