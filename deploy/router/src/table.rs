//! The table in use: an immutable snapshot. A request pins the one it started with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use slipway_core::traffic::{TrafficTable, Turn, point};

use crate::counters::{Ticket, VersionState};
use crate::proxy::Backend;

/// How often a request looks again when the version that it chose began to drain meanwhile. Each
/// look sees a newer table; more than a few in a row do not happen.
const LOOKS: usize = 16;

/// The table of one service, live.
pub(crate) struct Live {
    pub(crate) table: TrafficTable,
    turn: Mutex<Turn>,
    versions: Vec<LiveVersion>,
}

struct LiveVersion {
    state: Arc<VersionState>,
    backends: Vec<Arc<Backend>>,
    next: AtomicUsize,
}

/// Who asks, as far as choosing a version goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    /// In which half of all clients.
    pub(crate) second_half: bool,
    /// What it is known by, when it is to stay where it is.
    pub(crate) sticky: Option<Vec<u8>>,
}

/// Where a request goes.
pub(crate) struct Target {
    pub(crate) ticket: Ticket,
    pub(crate) backend: Arc<Backend>,
}

impl Live {
    /// Builds the live table; states and backends that are known already are kept, with their
    /// counters and open connections.
    pub(crate) fn new(
        table: TrafficTable,
        states: &mut BTreeMap<String, Arc<VersionState>>,
        before: Option<&Self>,
    ) -> Self {
        let known = |address: &str| {
            let mut all = before.into_iter().flat_map(|live| &live.versions);
            all.find_map(|v| v.backends.iter().find(|b| b.address == address).cloned())
        };
        let versions: Vec<LiveVersion> = table
            .versions
            .iter()
            .map(|share| LiveVersion {
                state: Arc::clone(
                    states
                        .entry(share.version.clone())
                        .or_insert_with(|| Arc::new(VersionState::new(&share.version))),
                ),
                backends: share
                    .instances
                    .iter()
                    .map(|instance| {
                        known(&instance.address)
                            .unwrap_or_else(|| Arc::new(Backend::new(&instance.address)))
                    })
                    .collect(),
                next: AtomicUsize::new(0),
            })
            .collect();
        let weights = table.versions.iter().map(|share| share.weight_bp).collect();
        Self {
            turn: Mutex::new(Turn::new(weights)),
            versions,
            table,
        }
    }

    /// Clears or sets `draining` as this table's weights say.
    pub(crate) fn mark(&self, with_weight: bool, now_ms: i64) {
        for (share, version) in self.table.versions.iter().zip(&self.versions) {
            if (share.weight_bp > 0) == with_weight {
                version.state.set_draining(!with_weight, now_ms);
            }
        }
    }

    /// The backends of one version.
    pub(crate) fn backends(&self, version: &str) -> Vec<Arc<Backend>> {
        self.table
            .versions
            .iter()
            .zip(&self.versions)
            .filter(|(share, _)| share.version == version)
            .flat_map(|(_, live)| live.backends.iter().cloned())
            .collect()
    }

    /// Closes idle connections that ended or are too old.
    pub(crate) fn sweep(&self, now_ms: i64) {
        let backends = self.versions.iter().flat_map(|one| &one.backends);
        backends.for_each(|backend| backend.sweep(now_ms));
    }

    /// Whether two versions share traffic, so that clients are kept where they are.
    pub(crate) fn is_shared(&self) -> bool {
        let weighty = self.table.versions.iter().filter(|one| one.weight_bp > 0);
        weighty.count() > 1
    }

    /// The version of a client that stays where it is; `None` = it takes turns.
    fn stays(&self, client: &Client) -> Option<usize> {
        let id = client.sticky.as_ref()?;
        let canary = &self.table.canary;
        let index = self
            .table
            .versions
            .iter()
            .position(|one| one.version == *canary)?;
        let weight = self.table.versions.get(index)?.weight_bp;
        if point(canary, id) < weight {
            return Some(index);
        }
        // Stable: the other one with weight.
        let mut others = self.table.versions.iter().enumerate();
        others
            .find(|(other, share)| *other != index && share.weight_bp > 0)
            .map(|(other, _)| other)
    }

    /// Chooses a version by its turn and one of its instances, and enters it. `avoid` are addresses
    /// that were tried already. `None` = this table is being replaced: look again.
    fn choose(&self, client: &Client, avoid: &[String], now_ms: i64) -> Option<Target> {
        let index = match self.stays(client) {
            Some(index) => index,
            None => {
                let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                turn.take()?
            }
        };
        let version = self.versions.get(index)?;
        let ticket = version.state.enter(client.second_half)?;
        let count = version.backends.len();
        let start = version.next.fetch_add(1, Ordering::Relaxed);
        let fresh = |backend: &&Arc<Backend>| !avoid.contains(&backend.address);
        let ring =
            || (0..count).filter_map(|i| version.backends.get((start.wrapping_add(i)) % count));
        // Ejected instances are left out, but never more than half of them.
        let ejected = version
            .backends
            .iter()
            .filter(|b| b.is_ejected(now_ms))
            .count();
        let respect = ejected * 2 <= count;
        let backend = ring()
            .filter(fresh)
            .find(|backend| !respect || !backend.is_ejected(now_ms))
            .or_else(|| ring().find(fresh))
            .or_else(|| ring().next())?;
        Some(Target {
            ticket,
            backend: Arc::clone(backend),
        })
    }
}

/// Chooses from whatever table is in use now.
pub(crate) fn choose(
    live: &arc_swap::ArcSwapOption<Live>,
    client: &Client,
    avoid: &[String],
    now_ms: i64,
) -> Option<Target> {
    (0..LOOKS).find_map(|_| {
        live.load()
            .as_ref()
            .and_then(|live| live.choose(client, avoid, now_ms))
    })
}
