//! What a program or a webhook is asked, and how its answers are read: the same JSON for both.

use serde::{Deserialize, Serialize};
use slipway_core::fleet::{Listed, Listing};
use slipway_core::id::AgentId;

use super::{Order, ProviderError, Target};

/// Longest answer that is read: 1,000 machines at a kilobyte each.
pub(super) const ANSWER_MAX: usize = 1024 * 1024;
/// Longest name of a machine.
const NAME_MAX: usize = 200;
/// Machines of one listing; more than a pool has by ten times.
const LISTED_MAX: usize = 1_000;

/// A question.
#[derive(Serialize)]
pub(super) struct Question<'a> {
    /// Version of this format.
    version: u32,
    /// `list`, `start` or `stop`.
    pub(super) verb: &'static str,
    installation: &'a str,
    pool: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<&'a str>,
    /// What the agent's process is to find in its environment; the join token is among it.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<std::collections::BTreeMap<String, String>>,
}

impl<'a> Question<'a> {
    fn new(verb: &'static str, installation: &'a str, pool: &'a str) -> Self {
        Self {
            version: 1,
            verb,
            installation,
            pool,
            agent_id: None,
            machine: None,
            environment: None,
        }
    }

    pub(super) fn list(installation: &'a str, pool: &'a str) -> Self {
        Self::new("list", installation, pool)
    }

    pub(super) fn start(installation: &'a str, pool: &'a str, order: &'a Order) -> Self {
        Self {
            agent_id: Some(order.agent.as_str()),
            environment: Some(order.settings.to_environment()),
            ..Self::new("start", installation, pool)
        }
    }

    pub(super) fn stop(installation: &'a str, pool: &'a str, target: &'a Target) -> Self {
        Self {
            agent_id: target.agent.as_ref().map(AgentId::as_str),
            machine: target.machine.as_deref(),
            ..Self::new("stop", installation, pool)
        }
    }

    /// The same question has the same key, however often it is asked.
    pub(super) fn key(&self) -> String {
        let of = self.agent_id.or(self.machine).unwrap_or(self.pool);
        format!("{}/{of}", self.verb)
    }

    pub(super) fn body(&self) -> Result<Vec<u8>, ProviderError> {
        serde_json::to_vec(self).map_err(ProviderError::new)
    }
}

#[derive(Deserialize)]
struct ListedWire {
    #[serde(default)]
    agent_id: String,
    machine: String,
    #[serde(default = "yes")]
    running: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct ListingWire {
    machines: Vec<ListedWire>,
    /// Whoever does not say that it is all has not listed all.
    complete: bool,
}

#[derive(Deserialize)]
struct Started {
    machine: String,
}

fn read<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, ProviderError> {
    serde_json::from_slice(answer)
        .map_err(|e| ProviderError::new(format!("the answer cannot be read: {e}")))
}

fn named(machine: String) -> Result<String, ProviderError> {
    let plain =
        !machine.is_empty() && machine.len() <= NAME_MAX && !machine.chars().any(char::is_control);
    if plain {
        return Ok(machine);
    }
    Err(ProviderError::new(format!(
        "the name of a machine is 1–{NAME_MAX} characters"
    )))
}

pub(super) fn listing(answer: &[u8]) -> Result<Listing, ProviderError> {
    let wire: ListingWire = read(answer)?;
    if wire.machines.len() > LISTED_MAX {
        return Err(ProviderError::new(format!(
            "a listing has at most {LISTED_MAX} machines"
        )));
    }
    let machines = wire.machines.into_iter().map(|m| {
        Ok(Listed {
            agent: m.agent_id.parse().ok(),
            machine: named(m.machine)?,
            running: m.running,
        })
    });
    Ok(Listing {
        machines: machines.collect::<Result<_, ProviderError>>()?,
        complete: wire.complete,
    })
}

pub(super) fn started(answer: &[u8]) -> Result<String, ProviderError> {
    named(read::<Started>(answer)?.machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_strictly_and_never_as_complete_by_chance() {
        let good = br#"{"machines": [{"machine": "i-1", "agent_id": "nobody"}], "complete": true}"#;
        let read = listing(good).unwrap();
        assert!(read.complete && read.machines[0].running);
        assert_eq!(read.machines[0].agent, None);
        for bad in [
            &b""[..],
            b"[]",
            br#"{"machines": []}"#,
            br#"{"machines": [{"machine": ""}], "complete": true}"#,
            br#"{"machines": [{"machine": "a\nb"}], "complete": true}"#,
            b"{\"machines\": [",
        ] {
            assert!(listing(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(started(b"{}").is_err());
        assert_eq!(started(br#"{"machine": "i-1"}"#).unwrap(), "i-1");
    }
}
