//! Agents and the queue.

use serde_json::json;

use super::text;
use crate::client::{Client, Server};
use crate::exit_code::Exit;
use crate::output;

/// Verbs of agents.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Agents {
    /// Lists agents.
    List,
    /// Lets an agent finish what it holds and take nothing new.
    Drain {
        /// Its id.
        agent: String,
    },
    /// Lets a quarantined or draining agent take work again.
    Resume {
        /// Its id.
        agent: String,
    },
    /// Makes a join token, shown once.
    JoinToken {
        /// How many may join with it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// What joins: `agent`, `cache`, `router`, or `deployer` (a coordinator).
        #[arg(long, default_value = "agent")]
        role: String,
    },
    /// Removes an agent for good: its certificate is worthless from now on.
    Remove {
        /// Its id.
        agent: String,
    },
}

impl Agents {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        match self {
            Self::List => {
                let found = client.get("/agents").await?;
                let rows: Vec<Vec<String>> = found
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|a| {
                        let load = format!("{}/{}", a["busy"], a["slots"]);
                        let connected = if a["connected"] == true {
                            "connected"
                        } else {
                            "away"
                        };
                        vec![
                            text(a, "agent_id"),
                            text(a, "name"),
                            text(a, "state"),
                            connected.to_owned(),
                            load,
                            text(&a["facts"], "engine_version"),
                            text(a, "reason"),
                        ]
                    })
                    .collect();
                output::table(
                    &["agent", "name", "state", "stream", "busy", "engine", "why"],
                    &rows,
                );
            }
            Self::Drain { agent } => {
                client
                    .post(&format!("/agents/{agent}/drain"), json!({}))
                    .await?;
                output::say("draining");
            }
            Self::Resume { agent } => {
                client
                    .post(&format!("/agents/{agent}/resume"), json!({}))
                    .await?;
                output::say("it takes work again");
            }
            Self::Remove { agent } => {
                client.delete(&format!("/agents/{agent}")).await?;
                output::say("removed");
            }
            Self::JoinToken { uses, role } => {
                let asked = json!({"uses": uses, "role": role});
                let made = client.post("/agents/join-tokens", asked).await?;
                output::data(&text(&made, "join_token"));
            }
        }
        Ok(Exit::Ok)
    }
}

/// Verbs of the queue.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Queue {
    /// Lists the stages that wait for an agent longest; what `slipway queue` alone does.
    List,
    /// Says everything about why one stage waits.
    Explain {
        /// Its id.
        stage: String,
    },
}

impl Queue {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        match self {
            Self::List => list(server).await,
            Self::Explain { stage } => explain(server, &stage).await,
        }
    }
}

async fn explain(server: &Server, stage: &str) -> anyhow::Result<Exit> {
    let told = Client::new(server)?.get(&format!("/queue/{stage}")).await?;
    output::data(&text(&told, "reason"));
    output::data(&format!("stages ahead: {}", text(&told, "ahead")));
    let left = told["back_off_ms"].as_u64().unwrap_or(0);
    if left > 0 {
        output::data(&format!("back-off left: {} s", left.div_ceil(1_000)));
    }
    let group = &told["group"];
    if !group.is_null() {
        let (name, limit) = (text(group, "name"), text(group, "limit"));
        output::data(&format!("group `{name}` admits {limit}, held by:"));
        for holder in group["holders"].as_array().into_iter().flatten() {
            let who = match holder["build_id"].as_str() {
                Some(build) => format!("build {build}"),
                None => format!(
                    "stage {} on agent {}",
                    text(holder, "stage_id"),
                    text(holder, "agent_id")
                ),
            };
            output::data(&format!("  {who}"));
        }
    }
    for near in told["nearest"].as_array().into_iter().flatten() {
        let (agent, lacks) = (text(near, "agent_id"), text(near, "lacks"));
        output::data(&format!("agent {agent}: {lacks}"));
    }
    Ok(Exit::Ok)
}

async fn list(server: &Server) -> anyhow::Result<Exit> {
    let found = Client::new(server)?.get("/queue").await?;
    let rows: Vec<Vec<String>> = found
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| {
            [
                "stage_id",
                "build_id",
                "stage_name",
                "ready_since",
                "reason",
            ]
            .map(|f| text(s, f))
            .to_vec()
        })
        .collect();
    output::table(
        &["stage", "build", "name", "ready since", "why it waits"],
        &rows,
    );
    Ok(Exit::Ok)
}
