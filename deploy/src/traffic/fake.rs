//! A router in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::traffic::{Fence, FenceAnswer, Seen, TrafficTable, judge};

use super::{Reading, Traffic, TrafficError};

#[derive(Default)]
struct Inner {
    services: BTreeMap<String, (Option<Seen>, Reading)>,
    lose_replies: u32,
    unreadable: bool,
    commits_lost: bool,
}

/// Tables that are in use by being written down.
#[derive(Default)]
pub struct FakeTraffic {
    inner: Mutex<Inner>,
}

impl FakeTraffic {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The next replies are lost: it happened, and the caller hears of a time-out.
    pub fn lose_replies(&self, count: u32) {
        self.with(|inner| inner.lose_replies = count);
    }

    /// Whether it can be read. What it carries goes on either way.
    pub fn set_readable(&self, readable: bool) {
        self.with(|inner| inner.unreadable = !readable);
    }

    /// Cut off: changes do not reach it, and it cannot be read.
    pub fn set_reachable(&self, reachable: bool) {
        self.with(|inner| {
            inner.unreadable = !reachable;
            inner.commits_lost = !reachable;
        });
    }

    /// Counts requests of a version.
    pub fn count(&self, service: &str, version: &str, completed: u64, bad: u64) {
        self.with(|inner| {
            let (_, reading) = inner.services.entry(service.to_owned()).or_default();
            let counters = reading.counters.entry(version.to_owned()).or_default();
            counters.total += completed;
            counters.bad += bad;
        });
    }
}

#[async_trait]
impl Traffic for FakeTraffic {
    async fn apply(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        table
            .check()
            .map_err(|e| TrafficError::Refused(e.to_string()))?;
        self.with(|inner| {
            if inner.commits_lost {
                return Err(TrafficError::Unknown("cut off".to_owned()));
            }
            let (seen, reading) = inner.services.entry(table.service.clone()).or_default();
            match judge(*seen, fence, table.hash()) {
                FenceAnswer::Apply => {
                    *seen = Some(Seen {
                        fence,
                        hash: table.hash(),
                    });
                    reading.fence = fence;
                    reading.table = Some(table.clone());
                    for share in &table.versions {
                        reading.counters.entry(share.version.clone()).or_default();
                    }
                }
                FenceAnswer::Already => {}
                FenceAnswer::StaleToken { seen } => {
                    return Err(TrafficError::StaleToken { seen });
                }
                FenceAnswer::StaleGeneration { .. } | FenceAnswer::Conflict => {
                    return Err(TrafficError::Refused(
                        "stale generation or conflict".to_owned(),
                    ));
                }
            }
            if inner.lose_replies > 0 {
                inner.lose_replies -= 1;
                return Err(TrafficError::Unknown("the reply was lost".to_owned()));
            }
            Ok(())
        })
    }

    async fn read(&self, service: &str) -> Result<Reading, TrafficError> {
        self.with(|inner| {
            if inner.unreadable {
                return Err(TrafficError::Unknown("not readable".to_owned()));
            }
            let known = inner.services.get(service).map(|(_, r)| r.clone());
            Ok(known.unwrap_or_default())
        })
    }

    async fn tables(&self) -> Result<Vec<TrafficTable>, TrafficError> {
        self.with(|inner| {
            if inner.unreadable {
                return Err(TrafficError::Unknown("not readable".to_owned()));
            }
            let services = inner.services.values();
            Ok(services
                .filter_map(|(_, reading)| reading.table.clone())
                .collect())
        })
    }

    async fn renew(&self, fence: Fence, service: &str) -> Result<(), TrafficError> {
        self.with(|inner| match inner.services.get(service) {
            Some((Some(seen), _)) if seen.fence.token > fence.token => {
                let seen = seen.fence.token;
                Err(TrafficError::StaleToken { seen })
            }
            _ => Ok(()),
        })
    }

    async fn drain(
        &self,
        service: &str,
        version: &str,
        _deadline: Duration,
    ) -> Result<u32, TrafficError> {
        let reading = self.read(service).await?;
        match reading.table {
            Some(table) if table.weight_of(version) > 0 => Err(TrafficError::Refused(format!(
                "version `{version}` still has weight"
            ))),
            _ => Ok(0),
        }
    }
}
