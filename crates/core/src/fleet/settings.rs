//! What an administrator says about a pool, and what of it cannot be.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;
use crate::trigger::cron;

/// Agents of one pool: what one dispatcher is measured with.
const AGENTS_MAX: u32 = 100;
/// Slots of one agent.
const SLOTS_MAX: u32 = 256;
/// Labels of a pool; a join token carries no more.
const LABELS_MAX: usize = 100;
/// Lines of a schedule: one for each hour of a week is plenty.
const SCHEDULE_MAX: usize = 168;
/// The longest of the waits, a day: longer is a pool that does not scale.
const SECONDS_MAX: u64 = 86_400;

/// Where a pool's machines come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Provider {
    /// Child processes on the dispatcher's host.
    Process {},
    /// Containers on a Docker host.
    Docker {
        /// The agent's image.
        image: String,
        /// Network of the container.
        #[serde(default = "host")]
        network: String,
    },
    /// Pods of one namespace.
    Kubernetes {
        /// Which.
        namespace: String,
        /// The agent's image.
        image: String,
        /// A container engine beside the agent (privileged); empty = the node's own.
        #[serde(default)]
        engine_image: String,
        /// Whose rights the pods have; empty = the namespace's default.
        #[serde(default)]
        service_account: String,
        /// Longest stage: a pod that is stopped has so long to end it, seconds.
        #[serde(default = "hour")]
        grace_seconds: u64,
    },
    /// A command of the dispatcher's host.
    Exec {
        /// One of the programs that the dispatcher's settings allow.
        program: String,
    },
    /// A signed HTTP call.
    Webhook {
        /// Below one of the addresses that the dispatcher's settings allow.
        url: String,
    },
    /// Somebody else starts agents (KEDA); they are only drained here.
    External {},
}

fn host() -> String {
    "host".to_owned()
}

fn hour() -> u64 {
    3_600
}

impl Provider {
    /// Its name in settings.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Process {} => "process",
            Self::Docker { .. } => "docker",
            Self::Kubernetes { .. } => "kubernetes",
            Self::Exec { .. } => "exec",
            Self::Webhook { .. } => "webhook",
            Self::External {} => "external",
        }
    }
}

/// From an instant on, another minimum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduledMin {
    /// When, as five cron fields in UTC.
    pub cron: String,
    /// The minimum from then on.
    pub min: u32,
}

/// The settings of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSettings {
    /// Where machines come from.
    pub provider: Provider,
    /// Labels of its agents, beside `pool=<name>`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Stages at once on one agent.
    #[serde(default = "one")]
    pub slots: u32,
    /// Agents that are always there.
    #[serde(default)]
    pub min: u32,
    /// Agents that there may be.
    pub max: u32,
    /// Free slots kept beyond what is needed.
    #[serde(default)]
    pub reserve: u32,
    /// Of two pools that fit, the one with the lower number is filled first.
    #[serde(default)]
    pub order: u32,
    /// An agent that was idle for so long may go.
    #[serde(default = "ten_minutes")]
    pub idle_seconds: u64,
    /// A machine whose agent has not connected after so long is given up.
    #[serde(default = "ten_minutes")]
    pub boot_seconds: u64,
    /// At most half of the pool goes within this.
    #[serde(default = "minute")]
    pub down_period_seconds: u64,
    /// Hours of agents per day (UTC); reached, nothing new is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_agent_hours: Option<u32>,
    /// The minimum by the clock; whichever line was due last holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduledMin>,
}

fn one() -> u32 {
    1
}

fn minute() -> u64 {
    60
}

fn ten_minutes() -> u64 {
    600
}

/// What cannot be: the field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {why}")]
pub struct Invalid {
    /// Its name.
    pub field: &'static str,
    /// In words.
    pub why: String,
}

fn invalid(field: &'static str, why: impl Into<String>) -> Result<(), Invalid> {
    Err(Invalid {
        field,
        why: why.into(),
    })
}

/// A pool's name stands in labels, file names and addresses.
#[must_use]
pub fn is_pool_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=40).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

impl PoolSettings {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.max > AGENTS_MAX {
            return invalid("max", format!("is {}; at most {AGENTS_MAX}", self.max));
        }
        if self.min > self.max {
            return invalid("min", format!("is {}, above `max` {}", self.min, self.max));
        }
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return invalid("slots", format!("must be 1 to {SLOTS_MAX}"));
        }
        if self.reserve > self.max.saturating_mul(self.slots) {
            return invalid("reserve", "is more than all slots of `max` agents");
        }
        for (field, value, low) in [
            ("idle_seconds", self.idle_seconds, 1),
            ("boot_seconds", self.boot_seconds, 5),
            ("down_period_seconds", self.down_period_seconds, 1),
        ] {
            if !(low..=SECONDS_MAX).contains(&value) {
                return invalid(field, format!("must be {low} to {SECONDS_MAX}"));
            }
        }
        let word = |text: &str| {
            (1..=100).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c == '!')
        };
        let good = |(name, value): (&String, &String)| word(name) && word(value);
        if self.labels.len() > LABELS_MAX || !self.labels.iter().all(good) {
            return invalid(
                "labels",
                "are at most 100 names and values of 1–100 characters",
            );
        }
        if self.labels.contains_key("pool") {
            return invalid("labels", "get `pool` from the pool's name");
        }
        self.check_schedule()?;
        self.check_provider()
    }

    fn check_schedule(&self) -> Result<(), Invalid> {
        if self.schedule.len() > SCHEDULE_MAX {
            return invalid("schedule", format!("has at most {SCHEDULE_MAX} lines"));
        }
        for line in &self.schedule {
            if let Err(why) = cron::parse(&line.cron) {
                return invalid("schedule", format!("`{}`: {why}", line.cron));
            }
            if line.min > self.max {
                return invalid(
                    "schedule",
                    format!("asks for {} agents, above `max`", line.min),
                );
            }
        }
        Ok(())
    }

    fn check_provider(&self) -> Result<(), Invalid> {
        let text = |field, text: &str| {
            let good =
                (1..=500).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
            if good {
                Ok(())
            } else {
                invalid(field, "is 1–500 visible ASCII characters")
            }
        };
        match &self.provider {
            Provider::Process {} | Provider::External {} => Ok(()),
            Provider::Docker { image, network } => {
                text("provider.image", image)?;
                text("provider.network", network)
            }
            Provider::Kubernetes {
                namespace,
                image,
                engine_image,
                service_account,
                grace_seconds,
            } => {
                text("provider.image", image)?;
                if !engine_image.is_empty() {
                    text("provider.engine_image", engine_image)?;
                }
                let dns =
                    |name: &str| is_pool_name(name) || (name.len() <= 63 && name.contains('-'));
                if !dns(namespace) || !(service_account.is_empty() || dns(service_account)) {
                    return invalid("provider.namespace", "and service account are DNS labels");
                }
                if *grace_seconds > SECONDS_MAX {
                    return invalid(
                        "provider.grace_seconds",
                        format!("is at most {SECONDS_MAX}"),
                    );
                }
                Ok(())
            }
            Provider::Exec { program } => text("provider.program", program),
            Provider::Webhook { url } => text("provider.url", url),
        }
    }

    /// Whether somebody else starts its agents.
    #[must_use]
    pub fn is_external(&self) -> bool {
        matches!(self.provider, Provider::External {})
    }

    /// What holds at `now`: the line of the schedule that was due last, or `min`.
    #[must_use]
    pub fn min_at(&self, now: Timestamp) -> u32 {
        let due = self
            .schedule
            .iter()
            .enumerate()
            .filter_map(|(place, line)| {
                let at = cron::previous(&line.cron, now)?;
                Some((at, place, line.min))
            });
        let min = due.max().map_or(self.min, |(_, _, min)| min);
        min.min(self.max)
    }

    /// When the schedule is to be looked at again.
    #[must_use]
    pub fn min_changes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let lines = self.schedule.iter();
        lines.filter_map(|line| cron::next(&line.cron, now)).min()
    }

    /// Idle for so long, an agent may go.
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }

    /// Until then a machine counts although its agent is not there.
    #[must_use]
    pub fn boot(&self) -> Duration {
        Duration::from_secs(self.boot_seconds)
    }

    /// At most half of the pool goes within this.
    #[must_use]
    pub fn down_period(&self) -> Duration {
        Duration::from_secs(self.down_period_seconds)
    }

    /// Whether its agents are of the kind that a stage asks for.
    #[must_use]
    pub fn fits(&self, pool: &str, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(name, value)| {
            let own = if name == "pool" {
                Some(pool)
            } else {
                self.labels.get(name).map(String::as_str)
            };
            match name.strip_prefix('!') {
                Some("pool") => false,
                Some(absent) => !self.labels.contains_key(absent),
                // The architecture is the agent's own word: a pool that names none may have it.
                None if name == "arch" && own.is_none() => true,
                None => own.is_some_and(|own| own == value || value == "*"),
            }
        })
    }
}
