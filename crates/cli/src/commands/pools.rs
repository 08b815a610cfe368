//! Pools of agents.

use std::path::PathBuf;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::text;
use crate::client::{Client, Server};
use crate::exit_code::Exit;
use crate::output;

/// Verbs of pools.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Pool {
    /// Lists pools and their sizes.
    List,
    /// Makes a pool, or changes what is given of it.
    Set(Box<Set>),
    /// Removes a pool: its agents finish what they hold and go.
    Remove {
        /// Its name.
        pool: String,
    },
    /// Says why a pool has the size it has.
    Explain {
        /// Its name.
        pool: String,
    },
}

/// Flags of `slipway pool set`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// Its name.
    pool: String,
    /// All settings as a JSON file; flags go before it.
    #[arg(long)]
    file: Option<PathBuf>,
    /// process, docker, kubernetes, exec, webhook or external.
    #[arg(long)]
    provider: Option<String>,
    /// Fewest agents.
    #[arg(long)]
    min: Option<u32>,
    /// Most agents.
    #[arg(long)]
    max: Option<u32>,
    /// Stages at once on one agent.
    #[arg(long)]
    slots: Option<u32>,
    /// Free slots that are kept.
    #[arg(long)]
    reserve: Option<u32>,
    /// Seconds of idleness after which an agent may go.
    #[arg(long)]
    idle_seconds: Option<u64>,
    /// Seconds within which at most half of the pool goes.
    #[arg(long)]
    down_period_seconds: Option<u64>,
    /// Hours of agents per day after which nothing new is started.
    #[arg(long)]
    max_agent_hours: Option<u32>,
    /// A label of its agents, `name=value`.
    #[arg(long = "label")]
    labels: Vec<String>,
    /// Image of docker and kubernetes agents.
    #[arg(long)]
    image: Option<String>,
    /// Namespace of kubernetes agents.
    #[arg(long)]
    namespace: Option<String>,
    /// Program of an exec pool.
    #[arg(long)]
    program: Option<String>,
    /// Address of a webhook pool. Its signing key comes from standard input.
    #[arg(long)]
    url: Option<String>,
}

impl Pool {
    pub(crate) async fn execute(self, server: &Server) -> anyhow::Result<Exit> {
        let client = Client::new(server)?;
        match self {
            Self::List => list(&client).await?,
            Self::Set(set) => set.execute(&client).await?,
            Self::Remove { pool } => {
                let path = format!("/pools/{pool}");
                client.call(Method::DELETE, &path, None).await?;
                output::say("removed; its agents finish what they hold");
            }
            Self::Explain { pool } => explain(&client, &pool).await?,
        }
        Ok(Exit::Ok)
    }
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let found = client.get("/pools").await?;
    let rows: Vec<Vec<String>> = found.as_array().into_iter().flatten().map(row).collect();
    output::table(
        &[
            "pool",
            "provider",
            "min–max",
            "wanted",
            "ready",
            "booting",
            "leaving",
            "state",
        ],
        &rows,
    );
    Ok(())
}

fn row(pool: &Value) -> Vec<String> {
    let (settings, now) = (&pool["settings"], &pool["now"]);
    let state = match &now["degraded"] {
        Value::String(words) => words.clone(),
        _ if pool["removed"] == true => "removed".to_owned(),
        _ => "ok".to_owned(),
    };
    let number = |name: &str| now[name].as_u64().unwrap_or(0);
    vec![
        text(pool, "pool"),
        text(&settings["provider"], "kind"),
        format!("{}–{}", settings["min"], settings["max"]),
        text(now, "desired"),
        text(now, "ready"),
        text(now, "booting"),
        (number("draining") + number("leaving")).to_string(),
        state,
    ]
}

async fn explain(client: &Client, pool: &str) -> anyhow::Result<()> {
    let found = client.get(&format!("/pools/{pool}/explain")).await?;
    for reason in found["reasons"].as_array().into_iter().flatten() {
        output::data(reason.as_str().unwrap_or_default());
    }
    let rows: Vec<Vec<String>> = found["machines"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| {
            ["agent_id", "state", "created_at", "boot_ms", "machine"]
                .map(|field| text(m, field))
                .to_vec()
        })
        .collect();
    if !rows.is_empty() {
        output::table(&["agent", "state", "since", "boot ms", "machine"], &rows);
    }
    Ok(())
}

impl Set {
    async fn execute(self, client: &Client) -> anyhow::Result<()> {
        let path = format!("/pools/{}", self.pool);
        let mut settings = match &self.file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                serde_json::from_str(&text).context("the settings are not JSON")?
            }
            // What is not given stays as it is.
            None => match client.get(&path).await {
                Ok(known) => known["settings"].clone(),
                Err(_) => json!({}),
            },
        };
        self.fill(&mut settings)?;
        let key = self.url.is_some();
        if key && settings["signing_key"].is_null() {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            if !line.trim().is_empty() {
                settings["signing_key"] = json!(line.trim());
            }
        }
        client.put(&path, settings).await?;
        output::say(&format!(
            "pool `{}` is set; `slipway pool explain {0}` says what it does",
            self.pool
        ));
        Ok(())
    }

    fn fill(&self, settings: &mut Value) -> anyhow::Result<()> {
        let numbers = [
            ("min", self.min.map(u64::from)),
            ("max", self.max.map(u64::from)),
            ("slots", self.slots.map(u64::from)),
            ("reserve", self.reserve.map(u64::from)),
            ("idle_seconds", self.idle_seconds),
            ("down_period_seconds", self.down_period_seconds),
            ("max_agent_hours", self.max_agent_hours.map(u64::from)),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                settings[name] = json!(value);
            }
        }
        for label in &self.labels {
            let (name, value) = label
                .split_once('=')
                .with_context(|| format!("`{label}` is no label; write `name=value`"))?;
            settings["labels"][name] = json!(value);
        }
        if let Some(kind) = &self.provider {
            settings["provider"] = json!({"kind": kind});
        } else if settings["provider"].is_null() {
            settings["provider"] = json!({"kind": "process"});
        }
        for (name, value) in [
            ("image", &self.image),
            ("namespace", &self.namespace),
            ("program", &self.program),
            ("url", &self.url),
        ] {
            if let Some(value) = value {
                settings["provider"][name] = json!(value);
            }
        }
        Ok(())
    }
}

/// For `slipway doctor`: pools that cannot have the size they should have; `None` = no server.
pub(crate) async fn degraded(client: &Client) -> Option<Vec<String>> {
    let found = client.get("/pools").await.ok()?;
    let words = found.as_array()?.iter().filter_map(|pool| {
        let words = pool["now"]["degraded"].as_str()?;
        Some(format!("{}: {words}", text(pool, "pool")))
    });
    Some(words.collect())
}
