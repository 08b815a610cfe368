//! What an agent of a pool is told: the one place where it is given its settings.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use slipway_core::fleet::PoolSettings;
use slipway_core::id::AgentId;
use toml::{Table, Value};

use crate::config::FleetConfig;

/// Settings of one agent. Shows no values: the join token is among them.
#[derive(Clone)]
pub struct AgentSettings(Table);

impl std::fmt::Debug for AgentSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentSettings(..)")
    }
}

impl AgentSettings {
    /// Where the dispatcher is, how to join it, and what the pool says.
    #[must_use]
    pub fn of(
        config: &FleetConfig,
        pool: &str,
        settings: &PoolSettings,
        agent: &AgentId,
        join_token: &str,
    ) -> Self {
        let mut all = config.every_agent.clone();
        let mut put = |key: &str, value: Value| all.insert(key.to_owned(), value);
        let short: String = agent.as_str().chars().skip(18).collect();
        put("dispatcher", Value::String(config.dispatcher.clone()));
        put("join_token", Value::String(join_token.to_owned()));
        put(
            "name",
            Value::String(format!("{pool}-{}", short.to_lowercase())),
        );
        put("slots", Value::Integer(i64::from(settings.slots)));
        // Many agents of one host would want the same port.
        put("health_address", Value::String(String::new()));
        Self(all)
    }

    /// With the settings of this host's agents, and a folder.
    #[must_use]
    pub fn here(&self, config: &FleetConfig, data_dir: &str) -> Self {
        let mut all = self.0.clone();
        for (key, value) in &config.agent {
            all.insert(key.clone(), value.clone());
        }
        all.insert("data_dir".to_owned(), Value::String(data_dir.to_owned()));
        Self(all)
    }

    /// For a place of its own, with a folder and a cache daemon beside it.
    #[must_use]
    pub fn elsewhere(&self, data_dir: &str, cache: &str) -> Self {
        let mut all = self.0.clone();
        for (key, value) in [("data_dir", data_dir), ("cache", cache)] {
            all.insert(key.to_owned(), Value::String(value.to_owned()));
        }
        Self(all)
    }

    /// As a settings file.
    #[must_use]
    pub fn to_file(&self) -> String {
        self.0.to_string()
    }

    /// Writes them as a settings file that nobody else may read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        let mut open = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(file)?;
        open.write_all(self.to_file().as_bytes())
    }

    /// As variables, for where there is no file. Lists and tables have none.
    #[must_use]
    pub fn to_environment(&self) -> BTreeMap<String, String> {
        let plain = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Boolean(flag) => Some(flag.to_string()),
            _ => None,
        };
        self.0
            .iter()
            .filter_map(|(key, value)| {
                let name = format!("SLIPWAY_AGENT_{}", key.to_uppercase());
                Some((name, plain(value)?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_agent_is_told_reaches_pods_and_replaces_nothing_of_their_own() {
        let text = "allowed_sources = ['https://git.internal/']\njoin_token = 'theirs'\nslots = 9";
        let config = FleetConfig {
            every_agent: text.parse().expect("a table"),
            ..FleetConfig::default()
        };
        let order = crate::fleet::contract::order(&config, 1);
        let file = order.settings.elsewhere("/data", "/cache").to_file();
        let read: Table = file.parse().expect("a settings file");
        let allowed = read["allowed_sources"].as_array().expect("a list");
        assert_eq!(allowed[0].as_str(), Some("https://git.internal/"));
        assert_eq!(read["slots"].as_integer(), Some(1));
        assert_ne!(read["join_token"].as_str(), Some("theirs"));
    }
}
