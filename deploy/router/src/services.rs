//! The services of this router: their tables, fences and listeners, and every change of them.
//!
//! Changes are taken one at a time and are durable before they are used. Readers (requests) never
//! wait for a change: they load a snapshot.

mod settling;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use slipway_core::digest::Digest;
use slipway_core::traffic::{Fence, FenceAnswer, Seen, TableError, TrafficTable, judge};
use slipway_daemon::Clock;

use crate::hand_over::Predecessor;
pub(crate) use crate::service::Service;
use crate::state_file::{Kept, State, StateFile, Tripped};

/// Services of one router.
const SERVICES_MAX: usize = 1_000;

/// Why a change was refused. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("stale_token: token {asked} is older than {seen}, which another owner used here")]
    StaleToken { asked: u64, seen: u64 },
    #[error("stale_generation: generation {asked} is older than {seen} of the same owner")]
    StaleGeneration { asked: u64, seen: u64 },
    #[error("conflict: the same fence came with another table before")]
    Conflict,
    #[error("the table may not carry traffic")]
    Table(#[from] TableError),
    #[error("version `{0}` was taken out by this router ({1}); make a new version")]
    Tripped(String, String),
    #[error("no table with this hash is prepared; prepare it first")]
    NotPrepared,
    #[error("this router serves no service `{0}`")]
    NoService(String),
    #[error("version `{0}` still has weight; commit a table without it first")]
    HasWeight(String),
    #[error("too many services; this router serves at most {SERVICES_MAX}")]
    TooMany,
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: String,
        source: std::io::Error,
    },
    #[error("handed_over: a newer process of this router has its sockets; ask again")]
    HandedOver,
    #[error("cannot make the table durable: {0}")]
    NotDurable(String),
}

/// A service with what is kept of it.
pub(crate) struct Reading {
    pub(crate) service: Arc<Service>,
    pub(crate) kept: Kept,
}

/// Opens and closes listeners.
pub(crate) trait Listeners: Send {
    /// Makes sure that `address` is listened on.
    fn ensure(&mut self, address: &str) -> std::io::Result<()>;
    /// Closes every listener that is not in `wanted`.
    fn keep_only(&mut self, wanted: &[String]);
    /// Every listening socket, shared, by its address.
    fn sockets(&self) -> std::io::Result<Vec<(String, TcpListener)>>;
    /// Lets the sockets go: somebody else accepts, or nobody does. Accepted connections go on.
    fn forget(&mut self);
}

struct Inner {
    /// A newer process has the sockets and the state file: nothing is changed here any more.
    handed_over: bool,
    state: State,
    listeners: Box<dyn Listeners>,
}

/// All services.
pub(crate) struct Services {
    pub(crate) clock: Clock,
    pub(crate) boot_id: String,
    file: Arc<Mutex<StateFile>>,
    inner: tokio::sync::Mutex<Inner>,
    by_name: ArcSwap<BTreeMap<String, Arc<Service>>>,
    /// The process that had the sockets before.
    predecessor: OnceLock<Predecessor>,
}

impl Services {
    pub(crate) fn new(clock: Clock, boot_id: String, file: StateFile) -> Self {
        let inner = Inner {
            handed_over: false,
            state: State::new(),
            listeners: Box::new(NoListeners),
        };
        Self {
            clock,
            boot_id,
            file: Arc::new(Mutex::new(file)),
            inner: tokio::sync::Mutex::new(inner),
            by_name: ArcSwap::default(),
            predecessor: OnceLock::new(),
        }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.ticks().as_millis()
    }

    /// Starts from the last good copy. Answers with what was wrong on the way.
    pub(crate) async fn restore(&self, mut listeners: Box<dyn Listeners>) -> Vec<String> {
        let (state, trouble) = locked(&self.file).load();
        let mut troubles: Vec<String> = trouble.into_iter().collect();
        let mut services = BTreeMap::new();
        for (name, kept) in &state {
            let service = Arc::new(Service::new(name));
            if let Some(table) = &kept.active {
                if let Err(error) = listeners.ensure(&table.listen) {
                    troubles.push(format!(
                        "service {name}: cannot listen on {}: {error}",
                        table.listen
                    ));
                }
                service.install(table.clone(), self.now_ms());
            }
            services.insert(name.clone(), service);
        }
        self.by_name.store(Arc::new(services));
        listeners.keep_only(&addresses(&state));
        *self.inner.lock().await = Inner {
            handed_over: false,
            state,
            listeners,
        };
        troubles
    }

    /// The service that answers for `host` on `listen`: the one that names the host, or else one
    /// that answers to every name.
    pub(crate) fn find(&self, listen: &str, host: &str) -> Option<Arc<Service>> {
        let host = host_name(host);
        let services = self.by_name.load();
        let mut any = None;
        for service in services.values() {
            let live = service.live.load();
            let Some(live) = live.as_ref().filter(|live| live.table.listen == listen) else {
                continue;
            };
            if live
                .table
                .hosts
                .iter()
                .any(|name| name.eq_ignore_ascii_case(host))
            {
                return Some(Arc::clone(service));
            }
            if live.table.hosts.is_empty() && any.is_none() {
                any = Some(Arc::clone(service));
            }
        }
        any
    }

    pub(crate) fn all(&self) -> Arc<BTreeMap<String, Arc<Service>>> {
        self.by_name.load_full()
    }

    /// Stores a table without using it.
    pub(crate) async fn prepare(
        &self,
        fence: Fence,
        table: TrafficTable,
    ) -> Result<Reading, Refused> {
        table.check()?;
        let name = table.service.clone();
        let mut inner = self.change().await?;
        let kept = inner.state.get(&name).cloned();
        if kept.is_none() && inner.state.len() >= SERVICES_MAX {
            return Err(Refused::TooMany);
        }
        let mut kept = kept.unwrap_or_default();
        if let Some(tripped) = &kept.tripped
            && table.weight_of(&tripped.version) > 0
        {
            let tripped = tripped.clone();
            return Err(Refused::Tripped(tripped.version, tripped.reason));
        }
        match fenced(&kept, fence, table.hash())? {
            Standing::Already => {}
            Standing::New => {
                kept.token_floor = kept.token_floor.max(fence.token);
                kept.prepared = Some((fence, table));
                self.store(&mut inner, &name, kept).await?;
            }
        }
        drop(inner);
        self.ensure_service(&name);
        self.read_one(&name).await
    }

    /// Uses a prepared table. Answers when every new request uses it.
    pub(crate) async fn commit(
        &self,
        name: &str,
        fence: Fence,
        hash: Digest,
    ) -> Result<Reading, Refused> {
        let mut inner = self.change().await?;
        let mut kept = inner
            .state
            .get(name)
            .cloned()
            .ok_or_else(|| Refused::NoService(name.to_owned()))?;
        if fenced(&kept, fence, hash)? == Standing::Already {
            drop(inner);
            return self.read_one(name).await;
        }
        let table = match &kept.prepared {
            Some((_, table)) if table.hash() == hash => table.clone(),
            _ => return Err(Refused::NotPrepared),
        };
        inner
            .listeners
            .ensure(&table.listen)
            .map_err(|source| Refused::Listen {
                address: table.listen.clone(),
                source,
            })?;
        kept.token_floor = kept.token_floor.max(fence.token);
        kept.seen = Some(Seen { fence, hash });
        kept.active = Some(table.clone());
        kept.prepared = None;
        // Remembered for as long as somebody might give it weight again.
        kept.tripped = kept.tripped.filter(|one| {
            table
                .versions
                .iter()
                .any(|share| share.version == one.version)
        });
        self.store(&mut inner, name, kept).await?;
        let service = self.ensure_service(name);
        service.install(table, self.now_ms());
        let wanted = addresses(&inner.state);
        inner.listeners.keep_only(&wanted);
        drop(inner);
        self.quiesce(&service).await;
        self.read_one(name).await
    }

    /// The coordinator is there: the new version keeps its weight.
    pub(crate) async fn renew(&self, name: &str, fence: Fence) -> Result<Reading, Refused> {
        let reading = self.read_one(name).await?;
        if fence.token < reading.kept.token_floor {
            return Err(Refused::StaleToken {
                asked: fence.token,
                seen: reading.kept.token_floor,
            });
        }
        reading.service.renew(self.now_ms());
        Ok(reading)
    }

    /// Gives stable all traffic, by this router's own decision. Used before it is durable: a router
    /// that dies in between finds the same again. `tripped` says why, when the version is to get no
    /// weight again.
    pub(crate) async fn take_out(
        &self,
        name: &str,
        tripped: Option<String>,
    ) -> Result<bool, Refused> {
        let mut inner = self.change().await?;
        let Some(mut kept) = inner.state.get(name).cloned() else {
            return Ok(false);
        };
        let active = kept.active.as_ref();
        let Some(table) = active.and_then(TrafficTable::without_canary) else {
            return Ok(false);
        };
        let version = table.canary.clone();
        self.ensure_service(name)
            .install(table.clone(), self.now_ms());
        kept.active = Some(table);
        kept.prepared = None;
        if let Some(reason) = tripped {
            kept.tripped = Some(Tripped { version, reason });
        }
        self.store(&mut inner, name, kept).await?;
        Ok(true)
    }

    /// The one place at which something is changed.
    async fn change(&self) -> Result<tokio::sync::MutexGuard<'_, Inner>, Refused> {
        let inner = self.inner.lock().await;
        if inner.handed_over {
            return Err(Refused::HandedOver);
        }
        Ok(inner)
    }

    /// Nothing is changed until the value is gone, or for ever once it has left.
    pub(crate) async fn freeze(&self) -> Frozen<'_> {
        Frozen(self.inner.lock().await)
    }

    /// The process that had the sockets before, and may have requests in flight.
    pub(crate) fn follows(&self, predecessor: Predecessor) {
        let _only_one = self.predecessor.set(predecessor);
    }

    pub(crate) fn predecessor(&self) -> Option<&Predecessor> {
        self.predecessor.get()
    }

    /// What is known of one service, or of all of them.
    pub(crate) async fn read(&self, name: &str) -> Vec<Reading> {
        let inner = self.inner.lock().await;
        let services = self.by_name.load();
        services
            .iter()
            .filter(|(known, _)| name.is_empty() || *known == name)
            .map(|(known, service)| Reading {
                service: Arc::clone(service),
                kept: inner.state.get(known).cloned().unwrap_or_default(),
            })
            .collect()
    }

    async fn read_one(&self, name: &str) -> Result<Reading, Refused> {
        let mut all = self.read(name).await;
        all.pop().ok_or_else(|| Refused::NoService(name.to_owned()))
    }

    async fn store(&self, inner: &mut Inner, name: &str, kept: Kept) -> Result<(), Refused> {
        let mut state = inner.state.clone();
        state.insert(name.to_owned(), kept);
        let (file, name) = (Arc::clone(&self.file), name.to_owned());
        let save = move || locked(&file).save(&name, &state).map(|()| state);
        let saved = tokio::task::spawn_blocking(save).await;
        match saved {
            Ok(Ok(state)) => {
                inner.state = state;
                Ok(())
            }
            Ok(Err(error)) => Err(Refused::NotDurable(error.to_string())),
            Err(error) => Err(Refused::NotDurable(error.to_string())),
        }
    }

    fn ensure_service(&self, name: &str) -> Arc<Service> {
        if let Some(service) = self.by_name.load().get(name) {
            return Arc::clone(service);
        }
        self.by_name.rcu(|services| {
            let mut services = BTreeMap::clone(services);
            services
                .entry(name.to_owned())
                .or_insert_with(|| Arc::new(Service::new(name)));
            services
        });
        let services = self.by_name.load();
        services
            .get(name)
            .cloned()
            .unwrap_or_else(|| Arc::new(Service::new(name)))
    }
}

/// All services while nothing is changed.
pub(crate) struct Frozen<'a>(tokio::sync::MutexGuard<'a, Inner>);

impl Frozen<'_> {
    /// Every listening socket, shared, in the order of their addresses.
    pub(crate) fn sockets(&self) -> std::io::Result<Vec<(String, TcpListener)>> {
        self.0.listeners.sockets()
    }

    /// Somebody else changes them from now on.
    pub(crate) fn leave(mut self) {
        self.0.handed_over = true;
        self.0.listeners.forget();
    }
}

#[derive(PartialEq, Eq)]
enum Standing {
    New,
    Already,
}

fn fenced(kept: &Kept, fence: Fence, hash: Digest) -> Result<Standing, Refused> {
    if fence.token < kept.token_floor {
        return Err(Refused::StaleToken {
            asked: fence.token,
            seen: kept.token_floor,
        });
    }
    match judge(kept.seen, fence, hash) {
        FenceAnswer::Apply => Ok(Standing::New),
        FenceAnswer::Already => Ok(Standing::Already),
        FenceAnswer::StaleToken { seen } => Err(Refused::StaleToken {
            asked: fence.token,
            seen,
        }),
        FenceAnswer::StaleGeneration { seen } => Err(Refused::StaleGeneration {
            asked: fence.generation,
            seen,
        }),
        FenceAnswer::Conflict => Err(Refused::Conflict),
    }
}

/// Addresses that tables name.
fn addresses(state: &State) -> Vec<String> {
    let active = state.values().filter_map(|kept| kept.active.as_ref());
    active.map(|table| table.listen.clone()).collect()
}

fn locked(file: &Mutex<StateFile>) -> MutexGuard<'_, StateFile> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A host name without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

struct NoListeners;

impl Listeners for NoListeners {
    fn ensure(&mut self, _address: &str) -> std::io::Result<()> {
        Ok(())
    }
    fn keep_only(&mut self, _wanted: &[String]) {}
    fn sockets(&self) -> std::io::Result<Vec<(String, TcpListener)>> {
        Ok(Vec::new())
    }
    fn forget(&mut self) {}
}
