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
    /// Lets a drained agent take work again.
    Resume {
        /// Its id.
        agent: String,
    },
    /// Makes a join token, shown once.
    JoinToken {
        /// How many agents may join with it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
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
                        ]
                    })
                    .collect();
                output::table(
                    &["agent", "name", "state", "stream", "busy", "engine"],
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
            Self::JoinToken { uses } => {
                let made = client
                    .post("/agents/join-tokens", json!({"uses": uses}))
                    .await?;
                output::data(&text(&made, "join_token"));
            }
        }
        Ok(Exit::Ok)
    }
}

/// `slipway queue`.
pub(crate) async fn queue(server: &Server) -> anyhow::Result<Exit> {
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
