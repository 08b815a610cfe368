//! Deployments.

use std::time::Duration;

use serde_json::{Value, json};
use slipway_proto::v1;

use super::direct::Coordinator;
use super::text;
use crate::client::{Client, Server};
use crate::exit_code::Exit;
use crate::output;

/// How often a watched deployment is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Verbs of deployments.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Deploy {
    /// Starts a deployment of a passed build.
    Start {
        /// The build's id.
        build: String,
        /// Environment.
        environment: String,
        /// canary, blue-green or rolling; absent = the file's.
        #[arg(long, default_value = "")]
        strategy: String,
        /// A rollout that is under way there goes back to stable first.
        #[arg(long)]
        supersede: bool,
    },
    /// Lists deployments, newest first.
    List {
        /// Environment.
        #[arg(long, default_value = "")]
        environment: String,
        /// Service.
        #[arg(long, default_value = "")]
        service: String,
        /// JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows a deployment.
    Show {
        /// Its id.
        deployment: String,
    },
    /// Says where a deployment stands, what its gates said, what comes next and whom it waits for.
    Explain {
        /// Its id.
        deployment: String,
    },
    /// Judges a deployment's recorded readings again: the same numbers give the same verdicts.
    Replay {
        /// Its id.
        deployment: String,
    },
    /// Starts an ended deployment again: the same plan, approved anew.
    Retry(Because),
    /// Follows a deployment to its end; the exit code says how it ended.
    Watch {
        /// Its id.
        deployment: String,
    },
    /// Approves.
    Approve(Approve),
    /// Refuses a deployment that waits for approval.
    Reject(Because),
    /// Ends the present bake or watch early.
    Promote {
        /// Its id.
        deployment: String,
        /// All remaining steps.
        #[arg(long)]
        full: bool,
    },
    /// Holds a deployment where it is.
    Pause(Because),
    /// Goes on.
    Resume(Because),
    /// Takes an active deployment back.
    Abort(Because),
    /// Brings the last good version back.
    Rollback(Rollback),
}

/// A deployment and a reason.
#[derive(Debug, clap::Args)]
pub(crate) struct Because {
    /// Its id.
    deployment: String,
    /// Why.
    #[arg(long, default_value = "")]
    reason: String,
}

/// `slipway approve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Approve {
    /// The deployment's id.
    deployment: String,
    /// Must equal the plan's hash, when given.
    #[arg(long, default_value = "")]
    plan_hash: String,
}

impl Approve {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let path = format!("/deployments/{}/approve", self.deployment);
        let body = json!({"plan_hash": self.plan_hash});
        let answer = Client::new(server)?.put(&path, body).await?;
        output::say(if answer["proceed_to_prod"] == true {
            "approved; it goes on"
        } else {
            "approved; more approvals are due"
        });
        Ok(Exit::Ok)
    }
}

/// `slipway rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rollback {
    /// The deployment's id.
    deployment: String,
    /// Why.
    #[arg(long)]
    reason: String,
    /// A version; absent = the last good one.
    #[arg(long, default_value = "")]
    to: String,
    #[command(flatten)]
    coordinator: Coordinator,
}

impl Rollback {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let direct = v1::RollBackRequest {
            deployment_id: self.deployment.clone(),
            reason: self.reason.clone(),
            to: self.to.clone(),
        };
        if let Some(answer) = self.coordinator.roll_back(server, direct).await? {
            output::say(&format!(
                "rolling back to {}",
                answer.rolled_back_to_version
            ));
            output::data(&answer.deployment_id);
            return Ok(Exit::Ok);
        }
        let path = format!("/deployments/{}/rollback", self.deployment);
        let body = json!({"reason": self.reason, "to": self.to});
        let answer = Client::new(server)?.put(&path, body).await?;
        output::say(&format!(
            "rolling back to {}",
            text(&answer, "rolled_back_to_version")
        ));
        output::data(&text(&answer, "deployment_id"));
        Ok(Exit::Ok)
    }
}

impl Deploy {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        let command = |because: Because, verb: &'static str| {
            let client = client.clone();
            async move {
                let path = format!("/deployments/{}/{verb}", because.deployment);
                let answer = client.put(&path, json!({"reason": because.reason})).await?;
                output::say(&text(&answer, "phase"));
                Ok(Exit::Ok)
            }
        };
        match self {
            Self::Start {
                build,
                environment,
                strategy,
                supersede,
            } => {
                let body = json!({"build_id": build, "target_env": environment,
                    "strategy": strategy, "supersede": supersede});
                let started = client.post("/deployments", body).await?;
                output::data(&text(&started, "deployment_id"));
                Ok(Exit::Ok)
            }
            Self::List {
                environment,
                service,
                json,
            } => {
                let path = format!("/deployments?environment={environment}&service={service}");
                let found = client.get(&path).await?;
                if json {
                    output::json(&found["items"]);
                } else {
                    list(&found);
                }
                Ok(Exit::Ok)
            }
            Self::Show { deployment } => {
                output::json(&client.get(&format!("/deployments/{deployment}")).await?);
                Ok(Exit::Ok)
            }
            Self::Explain { deployment } => explain(&client, &deployment).await,
            Self::Replay { deployment } => replay(&client, &deployment).await,
            Self::Retry(because) => {
                let path = format!("/deployments/{}/retry", because.deployment);
                let started = client.put(&path, json!({"reason": because.reason})).await?;
                output::data(&text(&started, "deployment_id"));
                Ok(Exit::Ok)
            }
            Self::Watch { deployment } => watch(&client, &deployment).await,
            Self::Approve(approve) => approve.execute(server).await,
            Self::Rollback(rollback) => rollback.execute(server).await,
            Self::Promote { deployment, full } => {
                let path = format!("/deployments/{deployment}/promote");
                let answer = client.put(&path, json!({"full": full})).await?;
                output::say(&text(&answer, "phase"));
                Ok(Exit::Ok)
            }
            Self::Reject(because) => command(because, "reject").await,
            Self::Pause(because) => command(because, "pause").await,
            Self::Resume(because) => command(because, "resume").await,
            Self::Abort(because) => command(because, "abort").await,
        }
    }
}

fn list(found: &Value) {
    let rows: Vec<Vec<String>> = found["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|d| {
            [
                "deployment_id",
                "service",
                "environment",
                "kind",
                "status",
                "phase",
                "approval_status",
                "reason",
            ]
            .map(|field| text(d, field))
            .to_vec()
        })
        .collect();
    output::table(
        &[
            "deployment",
            "service",
            "environment",
            "kind",
            "status",
            "phase",
            "approval",
            "reason",
        ],
        &rows,
    );
}

async fn explain(client: &Client, id: &str) -> anyhow::Result<Exit> {
    let found = client.get(&format!("/deployments/{id}")).await?;
    for line in found["explanation"].as_array().into_iter().flatten() {
        output::data(line.as_str().unwrap_or_default());
    }
    Ok(Exit::Ok)
}

async fn replay(client: &Client, id: &str) -> anyhow::Result<Exit> {
    let found = client.get(&format!("/deployments/{id}/replay")).await?;
    for step in found.as_array().into_iter().flatten() {
        let (at, verdict) = (&step["step"], text(step, "verdict"));
        output::data(&format!("step {at}: {verdict}: {}", text(step, "text")));
    }
    Ok(Exit::Ok)
}

async fn watch(client: &Client, id: &str) -> anyhow::Result<Exit> {
    let mut seen = String::new();
    loop {
        let found = client.get(&format!("/deployments/{id}")).await?;
        // What changes by itself (how long is left) is no news.
        let news = live(&found);
        if news != seen {
            output::say(&news);
            if text(&found, "phase") == "await_approval" {
                output::say(&format!("       slipway approve {id}"));
            }
            seen = news;
        }
        match text(&found, "status").as_str() {
            "in_progress" => tokio::time::sleep(LOOK).await,
            "completed" => return Ok(Exit::Ok),
            "rolled_back" => {
                output::say(&text(&found, "reason"));
                return Ok(Exit::RolledBack);
            }
            _ => {
                output::say(&text(&found, "reason"));
                return Ok(Exit::Failure);
            }
        }
    }
}

/// The view of one moment: how far, the share wanted and seen, the steps, and each gate's last word.
fn live(found: &Value) -> String {
    let mut view = format!(
        "{:>3} %  {:<14} {:>6} % of the traffic",
        found["progress"],
        text(found, "phase"),
        found["canary_percentage"],
    );
    let lines = found["explanation"].as_array().into_iter().flatten();
    for line in lines.filter_map(Value::as_str) {
        if line.starts_with("Steps: ") || line.starts_with("Gates: ") {
            view.push_str(&format!("\n       {line}"));
        } else if line.starts_with("Hosts: ") {
            // For how long is no news.
            let what = line.rsplit_once(", for ").map_or(line, |(what, _)| what);
            view.push_str(&format!("\n       {what}"));
        }
    }
    view
}
