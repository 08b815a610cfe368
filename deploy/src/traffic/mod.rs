//! What moves traffic. One port, one file per kind; the contract suite in `tests/contract` holds for
//! all of them.

pub mod fake;
mod kubernetes;
mod router;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::gate::Counts;
use slipway_core::rollout::HostView;
use slipway_core::traffic::{Fence, TrafficTable};

pub use kubernetes::KubernetesTraffic;
pub use router::RouterTraffic;

/// Why traffic was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// A newer owner has been here.
    #[error("stale_token: the router has seen token {seen}")]
    StaleToken {
        /// That token.
        seen: u64,
    },
    /// The table or the fence is wrong.
    #[error("the router refused: {0}")]
    Refused(String),
    /// Somebody else changed what carries the traffic, and it is theirs now.
    #[error("somebody else has the route: {0}")]
    Foreign(String),
    /// Some of several routers use the new table, and others do not.
    #[error("{0}")]
    Partial(String),
    /// Whether it happened is not known.
    #[error("the router did not answer as expected: {0}")]
    Unknown(String),
}

/// What a router says about a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The fence of the table in use.
    pub fence: Fence,
    /// The table in use.
    pub table: Option<TrafficTable>,
    /// Which life of the router counted.
    pub boot_id: String,
    /// What it counted, by version.
    pub counters: BTreeMap<String, Counts>,
    /// A version that the router took out by itself, and why.
    pub tripped: Option<(String, String)>,
    /// Where there are several routers: what each of them counted, by its host.
    pub parts: BTreeMap<String, Part>,
    /// Hosts whose routers answer, and use another table than the others.
    pub apart: Vec<String>,
}

/// What one of several routers counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Which life of it.
    pub boot_id: String,
    /// By version.
    pub counters: BTreeMap<String, Counts>,
}

/// A router. Every change is absolute and may be repeated.
#[async_trait]
pub trait Traffic: Send + Sync {
    /// Uses `table` from now on; answers when every new request does.
    async fn apply(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError>;

    /// Stores `table` without using it. What knows no such step does nothing.
    async fn prepare(&self, _fence: Fence, _table: &TrafficTable) -> Result<(), TrafficError> {
        Ok(())
    }

    /// Uses a prepared table; answers when every new request does.
    async fn commit(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        self.apply(fence, table).await
    }

    /// Every table in use, whichever service it is of.
    async fn tables(&self) -> Result<Vec<TrafficTable>, TrafficError> {
        Ok(Vec::new())
    }

    /// Asks an instance that this process does not reach by itself: status and body, or what was wrong. `None` =
    /// whoever wants to know asks directly.
    async fn ask(
        &self,
        _id: &str,
        _address: &str,
        _path: &str,
        _limit: Duration,
    ) -> Option<Result<(u16, Vec<u8>), String>> {
        None
    }

    /// The hosts, where there are several.
    fn hosts(&self) -> Vec<HostView> {
        Vec::new()
    }

    /// The same on the way back to a known good version: what somebody else changed meanwhile is taken
    /// from them, because the way back must not wait for a person.
    async fn take_back(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        self.apply(fence, table).await
    }

    /// What is in use; a service that the router does not know reads as nothing.
    async fn read(&self, service: &str) -> Result<Reading, TrafficError>;

    /// Somebody looks after the new version: it keeps its weight for another lease.
    async fn renew(&self, fence: Fence, service: &str) -> Result<(), TrafficError>;

    /// Waits until nothing is in flight at a version without weight; answers how many requests were
    /// cut at the deadline.
    async fn drain(
        &self,
        service: &str,
        version: &str,
        deadline: Duration,
    ) -> Result<u32, TrafficError>;
}
