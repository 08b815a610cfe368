//! Environments as they are registered on the server: which target and router serve them, at which
//! address, and what the server asks for whatever the pipeline file says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use slipway_core::rollout::{Freeze, check_freezes};
use slipway_core::time::Timestamp;
use slipway_store::{Db, EnvironmentRow, StoreError};

use crate::targets::{DockerHost, Target};
use crate::traffic::{RouterTraffic, Traffic};

/// Adapters kept open at once.
const OPEN_MAX: usize = 256;

/// Where an environment's instances and traffic are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentTarget {
    /// `docker`.
    pub kind: String,
    /// The engine: `unix:///var/run/docker.sock`; empty = the usual place.
    #[serde(default)]
    pub docker: String,
    /// The router's control socket: `unix:///…/router.sock`.
    pub router: String,
    /// Address that services of this environment are served on.
    pub listen: String,
    /// Host names; empty = every name.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// By service name, where several share an environment.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceAddress>,
}

/// Where one service is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAddress {
    /// Address.
    pub listen: String,
    /// Host names; empty = every name.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// What the server asks for, whatever the pipeline file says. The stricter of both holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Somebody must approve.
    #[serde(default)]
    pub approval: bool,
    /// How many different people.
    #[serde(default)]
    pub min_approvals: u32,
    /// Whoever started it may not approve it.
    #[serde(default)]
    pub approver_not_initiator: bool,
    /// Groups whose members may approve; empty = as the file says.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Failed share above which a version is taken back, parts per million; 0 = 1 %.
    #[serde(default)]
    pub max_error_ppm: u64,
    /// When nothing starts here.
    #[serde(default)]
    pub freeze: Vec<Freeze>,
}

impl EnvironmentTarget {
    /// Where `service` is served.
    #[must_use]
    pub fn address_of(&self, service: &str) -> ServiceAddress {
        self.services
            .get(service)
            .cloned()
            .unwrap_or_else(|| ServiceAddress {
                listen: self.listen.clone(),
                hosts: self.hosts.clone(),
            })
    }
}

/// Registers an environment, or changes the one with this name. `id` is used only when it is new.
///
/// # Errors
/// When the store cannot make it durable.
pub async fn ensure_environment(
    db: &Db,
    id: &str,
    name: &str,
    target: &EnvironmentTarget,
    policy: &Policy,
    now: Timestamp,
) -> Result<EnvironmentRow, StoreError> {
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| StoreError::Corrupt(error.to_string()))
    };
    check_freezes(&policy.freeze).map_err(StoreError::Conflict)?;
    let target = json(serde_json::to_string(target))?;
    let policy = json(serde_json::to_string(policy))?;
    db.ensure_environment(id, name, &target, &policy, now).await
}

/// A target and a router, as a place uses them.
#[derive(Clone)]
pub struct Adapters {
    /// Where instances live.
    pub target: Arc<dyn Target>,
    /// What moves traffic.
    pub traffic: Arc<dyn Traffic>,
}

/// Opens the adapters of an environment; tests bring fakes.
pub trait Connect: Send + Sync {
    /// The adapters for this target.
    ///
    /// # Errors
    /// A text for people.
    fn connect(&self, target: &EnvironmentTarget) -> Result<Adapters, String>;
}

/// The real ones, kept open by address.
#[derive(Default)]
pub(crate) struct RealAdapters {
    open: Mutex<BTreeMap<(String, String), Adapters>>,
}

impl Connect for RealAdapters {
    fn connect(&self, target: &EnvironmentTarget) -> Result<Adapters, String> {
        if target.kind != "docker" {
            return Err(format!(
                "target kind `{}` is not known; use `docker`",
                target.kind
            ));
        }
        let key = (target.docker.clone(), target.router.clone());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&key) {
            return Ok(known.clone());
        }
        if open.len() >= OPEN_MAX {
            open.clear();
        }
        let adapters = Adapters {
            target: Arc::new(DockerHost::new(&target.docker).map_err(|e| e.to_string())?),
            traffic: Arc::new(RouterTraffic::new(&target.router).map_err(|e| e.to_string())?),
        };
        open.insert(key, adapters.clone());
        Ok(adapters)
    }
}
