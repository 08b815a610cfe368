//! `slipway up`: the whole system, and what runs where.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use slipway_daemon::Shutdown;
use slipway_daemon::telemetry::LogFormat;

use crate::client::Server;
use crate::embedded::{Embedded, Environment, Options, Ports};
use crate::output;

/// Flags of `slipway up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Listen on this address.
    #[arg(long, default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Agents in this process.
    #[arg(long, default_value_t = 1)]
    agents: u32,
    /// Beside them, agents as processes of their own: as many as there is work for, up to so many.
    #[arg(long, default_value_t = 0)]
    max_agents: u32,
    /// Stages at once per agent; 0 = one per processor.
    #[arg(long, default_value_t = 0)]
    slots: u32,
    /// Repository addresses allowed besides https and ssh, by prefix.
    #[arg(long = "allow-source")]
    allowed_sources: Vec<String>,
    /// Where services of the environment `staging` are served.
    #[arg(long, default_value = "127.0.0.1:8081")]
    staging: SocketAddr,
    /// Where services of the environment `production` are served.
    #[arg(long, default_value = "127.0.0.1:8080")]
    production: SocketAddr,
    /// Free ports instead of the usual ones.
    #[arg(long)]
    any_ports: bool,
    /// Writes the addresses to this file (JSON) once everything is up.
    #[arg(long)]
    address_file: Option<PathBuf>,
    /// What to log.
    #[arg(long, default_value = "warn")]
    log: String,
    /// Shorter waits in rollouts: for demonstrations.
    #[arg(long, hide = true)]
    quick_rollouts: bool,
}

impl Up {
    pub(crate) fn start(self, server: &Server) -> ExitCode {
        let data_dir = server.data_dir.clone();
        let log = self.log.clone();
        slipway_daemon::start("slipway", &log, LogFormat::Text, |shutdown| async move {
            self.execute(data_dir, shutdown).await
        })
    }

    async fn execute(self, data_dir: PathBuf, shutdown: Shutdown) -> anyhow::Result<()> {
        let environment = |name: &str, listen| Environment {
            name: name.to_owned(),
            listen,
        };
        let options = Options {
            ports: if self.any_ports {
                Ports::default()
            } else {
                Ports::USUAL
            },
            host: self.listen,
            agents: self.agents,
            slots: self.slots,
            max_agents: self.max_agents,
            allowed_sources: self.allowed_sources,
            environments: vec![
                environment("staging", self.staging),
                environment("production", self.production),
            ],
            router_binary: std::env::current_exe()?,
            reconcile_seconds: 300,
            quick_rollouts: self.quick_rollouts,
            ..Options::in_dir(&data_dir)
        };
        let up = Embedded::start(options, shutdown.clone()).await?;
        say_where(&up, self.staging, self.production, &data_dir);
        if let Some(path) = &self.address_file {
            let addresses = serde_json::json!({
                "rest": up.rest.to_string(), "intake": up.intake.to_string(),
                "grpc": up.grpc.to_string(), "coordinator": up.coordinator.to_string(),
            });
            let temporary = path.with_extension("new");
            std::fs::write(&temporary, addresses.to_string())?;
            std::fs::rename(&temporary, path)?;
        }
        shutdown.cancelled().await;
        output::say("stopping; the router goes on");
        up.stop().await;
        Ok(())
    }
}

fn say_where(up: &Embedded, staging: SocketAddr, production: SocketAddr, data: &std::path::Path) {
    output::say("slipway is up");
    output::say(&format!(
        "  REST and API document   http://{}/api/openapi.json",
        up.rest
    ));
    output::say(&format!(
        "  webhooks                http://{}/webhooks/<hook>",
        up.intake
    ));
    output::say(&format!(
        "  agents and operators    http://{} (gRPC)",
        up.grpc
    ));
    output::say(&format!("  staging                 http://{staging}"));
    output::say(&format!("  production              http://{production}"));
    output::say(&format!("  data                    {}", data.display()));
    if up.first_start {
        output::say("");
        output::say(&format!(
            "  your token (shown once, kept in {}/admin.token):",
            data.display()
        ));
        output::say(&format!("  {}", up.token));
    }
    output::say("");
    output::say("  next: slipway repos add https://host.example/you/project.git");
    output::say("  Ctrl-C stops everything but the router");
}
