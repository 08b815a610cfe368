//! One service as requests see it: its table in use, what is counted for its versions, and how long a new
//! version keeps its weight.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use slipway_core::traffic::TrafficTable;

use crate::counters::VersionState;
use crate::table::Live;

/// Versions of one service whose counters are remembered after they left the table.
const REMEMBERED: usize = 32;

/// One service as requests see it.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) live: ArcSwapOption<Live>,
    pub(crate) in_flight: AtomicU64,
    /// Until when the new version keeps its weight, monotonic milliseconds; 0 = for good.
    lease_until_ms: AtomicI64,
    states: Mutex<BTreeMap<String, Arc<VersionState>>>,
}

impl Service {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            live: ArcSwapOption::empty(),
            in_flight: AtomicU64::new(0),
            lease_until_ms: AtomicI64::new(0),
            states: Mutex::default(),
        }
    }

    /// Every version that is known, with its counters.
    pub(crate) fn versions(&self) -> BTreeMap<String, Arc<VersionState>> {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The new version keeps its weight for another lease.
    pub(crate) fn renew(&self, now_ms: i64) {
        let lease = self.live.load().as_ref().and_then(|live| live.table.lease);
        let ms = lease.map_or(0, |lease| i64::try_from(lease.ms).unwrap_or(i64::MAX));
        let until = if ms == 0 {
            0
        } else {
            now_ms.saturating_add(ms)
        };
        self.lease_until_ms.store(until, Ordering::SeqCst);
    }

    /// Whether nobody looked after the new version for too long.
    pub(crate) fn lease_is_over(&self, now_ms: i64) -> bool {
        let until = self.lease_until_ms.load(Ordering::SeqCst);
        until != 0 && now_ms > until
    }

    /// Swaps the table in. From the return on, every new request uses it.
    pub(crate) fn install(&self, table: TrafficTable, now_ms: i64) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.live.load_full();
        let live = Arc::new(Live::new(table, &mut states, before.as_deref()));
        live.mark(true, now_ms);
        self.live.store(Some(Arc::clone(&live)));
        live.mark(false, now_ms);
        self.renew(now_ms);
        for (version, state) in states.iter() {
            if !live
                .table
                .versions
                .iter()
                .any(|share| share.version == *version)
            {
                state.set_draining(true, now_ms);
            }
        }
        let gone: Vec<String> = states
            .iter()
            .filter(|(version, state)| {
                state.in_flight.count() == 0
                    && !live
                        .table
                        .versions
                        .iter()
                        .any(|share| share.version == **version)
            })
            .map(|(version, _)| version.clone())
            .collect();
        // Version names sort by time of making: the oldest go first.
        let excess = states.len().saturating_sub(REMEMBERED);
        for version in gone.iter().take(excess) {
            states.remove(version);
        }
    }
}
