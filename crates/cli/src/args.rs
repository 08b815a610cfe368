//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client::{Refused, Server};
use crate::commands::{self, agents, builds, deploy, doctor, lint, pools, project, run, up};
use crate::exit_code::Exit;
use crate::output;

/// Builds software and launches it.
#[derive(Debug, Parser)]
#[command(name = "slipway", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole system in one process, the router beside it.
    Up(up::Up),
    /// Takes webhooks, plans builds, gives stages to agents.
    Dispatcher(slipway_dispatcher::args::Options),
    /// Executes stages in Docker.
    Agent(slipway_agent::args::Options),
    /// Keeps content beside an agent.
    Cache(slipway_cache::args::Args),
    /// Carries rollouts out.
    Coordinator(slipway_deploy::args::Args),
    /// Carries traffic on a Docker host.
    Router(slipway_router::args::Args),
    /// Executes the local checkout without a server.
    Run(run::Run),
    /// Checks a pipeline file.
    Lint(lint::Lint),
    /// Checks this machine.
    Doctor(doctor::Doctor),
    /// Builds.
    #[command(subcommand)]
    Builds(builds::Builds),
    /// The log of a build.
    Logs(builds::Logs),
    /// Deployments.
    #[command(subcommand)]
    Deploy(deploy::Deploy),
    /// Approves a deployment.
    Approve(deploy::Approve),
    /// Brings the last good version back.
    Rollback(deploy::Rollback),
    /// Agents.
    #[command(subcommand)]
    Agents(agents::Agents),
    /// Pools of agents that grow and shrink.
    #[command(subcommand)]
    Pool(pools::Pool),
    /// What waits for an agent, and why.
    Queue {
        #[command(subcommand)]
        verb: Option<agents::Queue>,
    },
    /// Repositories and their hooks.
    #[command(subcommand)]
    Repos(project::Repos),
    /// Values for stages; never printed.
    #[command(subcommand)]
    Secret(project::Secret),
    /// API tokens.
    #[command(subcommand)]
    Token(project::Token),
    /// An authenticated raw call.
    Api {
        /// Path below /api/v1.
        path: String,
    },
    /// The long form of an error code.
    Explain {
        /// For example SLP0107.
        code: String,
    },
}

impl Cli {
    pub(crate) fn start(self) -> ExitCode {
        match self.command {
            Command::Up(up) => up.start(&self.server),
            Command::Dispatcher(options) => options.start(),
            Command::Agent(options) => options.start(),
            Command::Cache(args) => slipway_cache::args::start_with(&args),
            Command::Coordinator(args) => slipway_deploy::args::start_with(&args),
            Command::Router(args) => slipway_router::args::start_with(&args),
            command => client(&self.server, command),
        }
    }
}

/// Client verbs on a small runtime of their own.
fn client(server: &Server, command: Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&error.into());
            return Exit::Failure.into();
        }
    };
    match runtime.block_on(dispatch(server, command)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = error
                .downcast_ref::<Refused>()
                .map_or(Exit::Failure, Refused::exit);
            output::error(&error);
            exit.into()
        }
    }
}

async fn dispatch(server: &Server, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Run(run) => run.execute().await,
        Command::Lint(lint) => lint.execute(),
        Command::Doctor(doctor) => doctor.execute(server).await,
        Command::Builds(builds) => builds.execute(server).await,
        Command::Logs(logs) => logs.execute(server).await,
        Command::Deploy(deploy) => deploy.execute(server).await,
        Command::Approve(approve) => approve.execute(server).await,
        Command::Rollback(rollback) => rollback.execute(server).await,
        Command::Agents(agents) => agents.execute(server).await,
        Command::Queue { verb } => verb.unwrap_or(agents::Queue::List).execute(server).await,
        Command::Pool(pool) => pool.execute(server).await,
        Command::Repos(repos) => repos.execute(server).await,
        Command::Secret(secret) => secret.execute(server).await,
        Command::Token(token) => token.execute(server).await,
        Command::Api { path } => commands::api(server, &path).await,
        Command::Explain { code } => Ok(commands::explain::explain(&code)),
        Command::Up(_)
        | Command::Dispatcher(_)
        | Command::Agent(_)
        | Command::Cache(_)
        | Command::Coordinator(_)
        | Command::Router(_) => anyhow::bail!("this command is a process of its own"),
    }
}
