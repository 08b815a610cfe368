//! Pools of agents grow and shrink: the driver of `core::fleet`.
//!
//! Load (pools, machines, the scheduler's numbers) → plan → persist → act, and then sleep until the
//! plan says, something changes (at most once a second), or a slow tick. A machine is written down
//! before its provider is asked; every call to a provider is made beside the loop and answers to it.

mod act;
mod snapshot;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use slipway_core::fleet::{self, Listing, PoolSettings, Provider};
use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;
use slipway_daemon::Shutdown;
use slipway_store::{PoolRow, StoreError};
use tokio::sync::{Semaphore, mpsc};

use crate::fleet::{FleetProvider, Making, ProviderError};
use crate::state::App;

/// Events are coalesced for so long.
const COALESCE: Duration = Duration::from_secs(1);
/// The slow tick: a bell that was missed, time that passed.
const TICK: Duration = Duration::from_secs(5);
/// How often providers are asked what there is.
const SWEEP: Duration = Duration::from_secs(60);
/// How often the time of agents is counted.
const COUNT: Duration = Duration::from_secs(60);
/// Calls to one provider at once: a hundred machines start within a few rounds of it.
const AT_ONCE: usize = 16;
/// Answers that wait for the loop; calls wait when it is full.
const ANSWERS: usize = 256;

/// What a call to a provider came to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It was asked to start a machine.
    Started(AgentId, Result<(), ProviderError>),
    /// It was asked to take one away.
    Stopped(Option<AgentId>, Result<(), ProviderError>),
    /// It was asked what there is.
    Listed(Result<Listing, ProviderError>),
}

/// Makes the provider of a pool.
pub type Maker = Box<
    dyn Fn(&PoolRow, &PoolSettings) -> Result<Arc<dyn FleetProvider>, ProviderError> + Send + Sync,
>;

/// What is known of a pool between two rounds.
struct Known {
    /// What the provider was made of.
    made_of: (Provider, Option<Vec<u8>>),
    provider: Result<Arc<dyn FleetProvider>, ProviderError>,
    calls: Arc<Semaphore>,
    /// What fails now, by verb.
    failures: BTreeMap<&'static str, Failure>,
    suspects: BTreeSet<String>,
    swept_at: Option<Timestamp>,
    sweeping: bool,
}

/// The loop's state.
pub struct Scaling {
    app: Arc<App>,
    make: Maker,
    pools: BTreeMap<String, Known>,
    /// Machines with a call under way.
    in_hand: BTreeSet<AgentId>,
    /// When an agent was last seen to hold something.
    last_busy: BTreeMap<AgentId, Timestamp>,
    /// Since when an agent has had no stream.
    away: BTreeMap<AgentId, Timestamp>,
    /// Expected times of a repository's stages, and when they were read.
    expected: BTreeMap<String, (Timestamp, BTreeMap<String, Duration>)>,
    counted_at: Option<Timestamp>,
    answers: mpsc::Sender<(String, Answer)>,
    shutdown: Shutdown,
}

/// Runs until shutdown.
pub async fn run(app: Arc<App>, shutdown: Shutdown) {
    let name = loop {
        let fresh = app.rng.ulid(app.clock.now()).to_lowercase();
        match app.db.installation(&fresh).await {
            Ok(name) => break name,
            Err(error) => tracing::warn!(%error, "pools of agents are not looked at yet"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    };
    let making = Making {
        config: app.settings.fleet.clone(),
        installation: name,
        clock: app.clock.clone(),
    };
    let seals = Arc::clone(&app);
    let make: Maker = Box::new(move |row, settings| {
        let key = match &row.signing_key {
            Some(sealed) => {
                let place = signing_place(&row.pool);
                Some(
                    seals
                        .seal
                        .open(&place, sealed)
                        .map_err(ProviderError::new)?,
                )
            }
            None => None,
        };
        making.provider(&row.pool, settings, key)
    });
    let (scaling, answers) = Scaling::new(app, make, shutdown.clone());
    scaling.drive(answers).await;
}

/// Where a pool's signing key is sealed for.
#[must_use]
pub fn signing_place(pool: &str) -> String {
    format!("pool/{pool}")
}

impl Scaling {
    /// Over the shared parts and a maker of providers.
    #[must_use]
    pub(crate) fn new(
        app: Arc<App>,
        make: Maker,
        shutdown: Shutdown,
    ) -> (Self, mpsc::Receiver<(String, Answer)>) {
        let (answers, received) = mpsc::channel(ANSWERS);
        let scaling = Self {
            app,
            make,
            pools: BTreeMap::new(),
            in_hand: BTreeSet::new(),
            last_busy: BTreeMap::new(),
            away: BTreeMap::new(),
            expected: BTreeMap::new(),
            counted_at: None,
            answers,
            shutdown,
        };
        (scaling, received)
    }

    async fn drive(mut self, mut answers: mpsc::Receiver<(String, Answer)>) {
        let shutdown = self.shutdown.clone();
        let mut wake = Duration::ZERO;
        loop {
            let app = Arc::clone(&self.app);
            let mut heard = Vec::new();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = app.fleet.bell.notified() => {}
                _ = answers.recv_many(&mut heard, ANSWERS) => {}
                () = tokio::time::sleep(wake) => {}
            }
            let outcome = self.round(heard).await;
            wake = match outcome {
                Ok(wake) => wake,
                Err(error) => {
                    tracing::warn!(%error, "pools cannot be planned now");
                    TICK
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(COALESCE.min(wake)) => {}
            }
        }
    }

    /// One round; how long to sleep afterwards.
    pub(crate) async fn round(
        &mut self,
        heard: Vec<(String, Answer)>,
    ) -> Result<Duration, StoreError> {
        for (pool, answer) in heard {
            self.hear(&pool, answer).await?;
        }
        let rows = self.app.db.pools().await?;
        self.make_providers(&rows);
        if self.pools.is_empty() {
            self.publish(Vec::new());
            return Ok(TICK);
        }
        let Some(snapshot) = self.snapshot(&rows).await? else {
            return Ok(COALESCE);
        };
        let now = self.app.clock.now();
        let plan = fleet::plan(&snapshot, now);
        debug_assert_eq!(fleet::check(&snapshot, now, &plan), vec![]);
        for action in &plan.actions {
            self.act(&snapshot, action).await?;
        }
        self.remind(&snapshot);
        self.publish(plan.report);
        self.sweep(now);
        self.count(now).await?;
        for row in rows.iter().filter(|row| row.removed_ms.is_some()) {
            self.app.db.forget_pool(&row.pool).await?;
        }
        let wake = plan.wake_at.map_or(TICK, |at| at.since(now));
        Ok(wake.clamp(Duration::from_millis(10), TICK))
    }

    fn make_providers(&mut self, rows: &[PoolRow]) {
        self.pools
            .retain(|name, _| rows.iter().any(|row| row.pool == *name));
        for row in rows {
            let Ok(settings) = serde_json::from_str::<PoolSettings>(&row.settings) else {
                tracing::error!(pool = row.pool, "the settings of a pool cannot be read");
                continue;
            };
            let made_of = (settings.provider.clone(), row.signing_key.clone());
            if self.pools.get(&row.pool).map(|known| &known.made_of) == Some(&made_of) {
                continue;
            }
            let provider = (self.make)(row, &settings);
            let mut known = Known {
                made_of,
                calls: Arc::new(Semaphore::new(AT_ONCE)),
                failures: BTreeMap::new(),
                suspects: BTreeSet::new(),
                swept_at: None,
                sweeping: false,
                provider,
            };
            if let Err(error) = &known.provider {
                tracing::warn!(pool = row.pool, %error, "a pool cannot be served");
                let words = error.to_string();
                known.fail("make", words, self.app.clock.now());
            }
            self.pools.insert(row.pool.clone(), known);
        }
    }

    /// Counts the time of agents now and then.
    async fn count(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if self.counted_at.is_none_or(|at| now.since(at) >= COUNT) {
            self.counted_at = Some(now);
            let keep = now.before(snapshot::REMEMBERED);
            self.app.db.count_machines(now, keep).await?;
        }
        Ok(())
    }

    fn publish(&self, reports: Vec<fleet::PoolReport>) {
        crate::metrics::pools(&self.app.health, &reports);
        let reports: BTreeMap<_, _> = reports.into_iter().map(|r| (r.pool.clone(), r)).collect();
        self.app.fleet.reports.send_if_modified(|known| {
            let changed = **known != reports;
            if changed {
                *known = Arc::new(reports);
            }
            changed
        });
    }
}

/// Something that a provider does not do, so many times in a row.
#[derive(Clone, Debug)]
struct Failure {
    count: u32,
    at: Timestamp,
    words: String,
}

impl Known {
    /// Calls that were made together are one failure.
    fn fail(&mut self, verb: &'static str, words: String, now: Timestamp) {
        let before = self.failures.get(verb);
        if before.is_some_and(|known| now.since(known.at) < COALESCE) {
            return;
        }
        // Without listings orphans stay; that must be seen, but it is no reason to start nothing.
        let count = match verb {
            "list" => 1,
            _ => before.map_or(1, |known| known.count.saturating_add(1)),
        };
        let at = now;
        self.failures.insert(verb, Failure { count, at, words });
    }

    /// What failed before works now.
    fn works(&mut self, verb: &'static str) {
        self.failures.remove(verb);
    }

    /// The one that lasts longest.
    fn worst(&self) -> Option<&Failure> {
        self.failures.values().max_by_key(|f| (f.count, f.at))
    }
}

#[cfg(test)]
mod tests;
