//! Machines for agents: the port to whoever starts them, one adapter per kind, and what an agent that
//! is started is told. Decides nothing: `core::fleet` says how many, the store says which may go,
//! `loops::scaling` drives.
//!
//! Everything started carries the installation, the pool and the agent; what does not is never touched.
//! Every call may be repeated: `start` is idempotent by agent, `stop` of what is gone is success.

pub mod contract;
pub mod docker;
pub mod exec;
pub mod fake;
pub mod kubernetes;
pub mod process;
mod settings;
mod signed;
pub mod webhook;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use slipway_core::fleet::{Listed, Listing, PoolReport, PoolSettings, Provider};
use slipway_core::id::AgentId;
use slipway_daemon::Clock;
use tokio::sync::{Notify, watch};

use crate::config::FleetConfig;

pub use settings::AgentSettings;

/// Longest text of a provider's error that is kept.
const ERROR_MAX: usize = 500;

/// A provider did not do what it was asked, in its own words.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProviderError(String);

impl ProviderError {
    /// Words for people; cut, and without control characters.
    #[must_use]
    pub fn new(words: impl std::fmt::Display) -> Self {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        Self(
            words
                .to_string()
                .chars()
                .map(plain)
                .take(ERROR_MAX)
                .collect(),
        )
    }
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its agent: the idempotency key.
    pub agent: AgentId,
    /// Its pool.
    pub pool: String,
    /// What the agent is told, with its join token.
    pub settings: AgentSettings,
}

/// Who starts and stops machines of one pool.
#[async_trait]
pub trait FleetProvider: Send + Sync {
    /// Every machine of this installation and pool.
    async fn list(&self) -> Result<Listing, ProviderError>;
    /// Starts a machine, or finds the one that was started for this agent; its name.
    async fn start(&self, order: &Order) -> Result<String, ProviderError>;
    /// Takes a machine away. Its agent holds nothing. Gone is success.
    async fn stop(&self, machine: &Target) -> Result<(), ProviderError>;
}

/// A machine to be taken away: by its agent, its name, or both.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Its agent.
    pub agent: Option<AgentId>,
    /// The provider's name of it.
    pub machine: Option<String>,
}

impl From<&Listed> for Target {
    fn from(listed: &Listed) -> Self {
        Self {
            agent: listed.agent.clone(),
            machine: Some(listed.machine.clone()),
        }
    }
}

/// What the rest of the dispatcher knows of pools.
pub struct Fleet {
    /// Wakes the scaling loop.
    pub bell: Notify,
    /// The last report of each pool.
    pub reports: watch::Sender<Arc<BTreeMap<String, PoolReport>>>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            bell: Notify::new(),
            reports: watch::Sender::new(Arc::default()),
        }
    }
}

/// What adapters are made of.
#[derive(Clone)]
pub struct Making {
    /// The administrator's settings.
    pub config: FleetConfig,
    /// Whose machines they are.
    pub installation: String,
    /// Time, for signatures.
    pub clock: Clock,
}

impl Making {
    /// The adapter of a pool.
    ///
    /// # Errors
    /// When this host's settings do not allow it.
    pub fn provider(
        &self,
        pool: &str,
        settings: &PoolSettings,
        signing_key: Option<Vec<u8>>,
    ) -> Result<Arc<dyn FleetProvider>, ProviderError> {
        Ok(match &settings.provider {
            Provider::Process {} => Arc::new(process::Processes::new(&self.config, pool)?),
            Provider::Docker { image, network } => Arc::new(docker::Containers::new(
                &self.config,
                &self.installation,
                pool,
                image,
                network,
            )?),
            Provider::Exec { program } => {
                allowed_program(&self.config, program)?;
                Arc::new(exec::Program::new(program, &self.installation, pool))
            }
            Provider::Webhook { url } => {
                allowed_webhook(&self.config, url)?;
                let key = signing_key.ok_or_else(|| {
                    ProviderError::new("the pool has no signing key; set it again")
                })?;
                let clock = self.clock.clone();
                Arc::new(webhook::Webhook::new(
                    url,
                    key,
                    &self.installation,
                    pool,
                    clock,
                )?)
            }
            Provider::Kubernetes {
                namespace,
                image,
                engine_image,
                service_account,
                grace_seconds,
            } => {
                let template = kubernetes::Template {
                    image: image.clone(),
                    engine_image: engine_image.clone(),
                    service_account: service_account.clone(),
                    grace_seconds: *grace_seconds,
                };
                let here = &self.installation;
                Arc::new(kubernetes::Pods::new(namespace, here, pool, template))
            }
            Provider::External {} => Arc::new(Elsewhere),
        })
    }
}

/// Refuses a program that this host's settings do not name.
///
/// # Errors
/// How to allow it.
pub fn allowed_program(config: &FleetConfig, program: &str) -> Result<(), ProviderError> {
    if config.programs.iter().any(|known| known == program) && Path::new(program).is_absolute() {
        return Ok(());
    }
    Err(ProviderError::new(format!(
        "`{program}` is not among `fleet.programs` of the dispatcher's settings"
    )))
}

/// Refuses an address that this host's settings do not allow.
///
/// # Errors
/// How to allow it.
pub fn allowed_webhook(config: &FleetConfig, url: &str) -> Result<(), ProviderError> {
    let begins = |known: &&String| !known.is_empty() && url.starts_with(known.as_str());
    if config.webhooks.iter().any(|known| begins(&known)) {
        return Ok(());
    }
    Err(ProviderError::new(format!(
        "`{url}` begins with none of `fleet.webhooks` of the dispatcher's settings"
    )))
}

/// Somebody else starts agents (KEDA), and they end by themselves once they are drained.
struct Elsewhere;

#[async_trait]
impl FleetProvider for Elsewhere {
    async fn list(&self) -> Result<Listing, ProviderError> {
        Ok(Listing {
            machines: Vec::new(),
            complete: false,
        })
    }

    async fn start(&self, _: &Order) -> Result<String, ProviderError> {
        Err(ProviderError::new(
            "agents of this pool are started by somebody else",
        ))
    }

    async fn stop(&self, _: &Target) -> Result<(), ProviderError> {
        Ok(())
    }
}
