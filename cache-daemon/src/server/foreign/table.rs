//! The doors that are open, and those that wait for their attempt's outcome.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slipway_core::time::Timestamp;
use slipway_daemon::listen::{self, Limits as Listening};
use slipway_daemon::{Clock, Shutdown};
use slipway_proto::v1::CacheScope;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::own::Own;
use super::{Door, Limits, router};
use crate::Store;
use crate::store::locked;

/// Doors at once: an agent executes a few attempts, and their outcomes come within seconds.
const DOORS_MAX: usize = 256;
/// Bodies coming in at once, of all doors: each holds a thread.
const BODIES_MAX: usize = 96;
/// A door that its agent does not renew for so long is nobody's.
const LEFT_ALONE: Duration = Duration::from_secs(600);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(20);
/// Connections of one door.
const CONNECTIONS: usize = 128;
/// Characters of a token, at least and at most.
const TOKEN: std::ops::RangeInclusive<usize> = 32..=256;
/// Characters of an attempt's name.
const NAME_MAX: usize = 128;

/// What an agent asks for.
pub(crate) struct Wanted {
    /// For which attempt.
    pub(crate) attempt: String,
    /// Where the stage reaches this host.
    pub(crate) address: IpAddr,
    /// What the stage's tools show.
    pub(crate) token: String,
    /// Whose entries are read and written.
    pub(crate) scope: CacheScope,
    /// Nothing is written.
    pub(crate) read_only: bool,
}

/// What went on at a door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) refused: u64,
    /// What waits for the outcome.
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// Why no door is opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The request makes no sense.
    #[error("{0}")]
    Nonsense(&'static str),
    /// There are enough.
    #[error("{DOORS_MAX} doors are open; the next opens when an attempt ends")]
    TooMany,
    /// This host has no such address.
    #[error("cannot listen on {0}: {1}")]
    Address(IpAddr, std::io::Error),
}

struct Opened {
    door: Arc<Door>,
    until: Timestamp,
}

/// All doors of this daemon.
pub(crate) struct Doors {
    store: Arc<Store>,
    clock: Clock,
    limits: Limits,
    bodies: Arc<Semaphore>,
    open: Mutex<BTreeMap<String, Opened>>,
    shutdown: Shutdown,
}

impl Doors {
    pub(crate) fn new(store: Arc<Store>, limits: Limits, shutdown: Shutdown) -> Self {
        Self {
            clock: store.clock().clone(),
            store,
            limits,
            bodies: Arc::new(Semaphore::new(BODIES_MAX)),
            open: Mutex::default(),
            shutdown,
        }
    }

    /// Opens the door of an attempt, and says where it is.
    pub(crate) async fn open(&self, wanted: Wanted) -> Result<SocketAddr, OpenError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let name = &wanted.attempt;
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
            return Err(OpenError::Nonsense("attempt: no name of one"));
        }
        if !TOKEN.contains(&wanted.token.len()) {
            return Err(OpenError::Nonsense("token: too short or too long"));
        }
        if wanted.address.is_unspecified() || wanted.address.is_multicast() {
            return Err(OpenError::Nonsense("address: not one of this host's"));
        }
        // One that an earlier try left.
        self.settle(name, false).await;
        if locked(&self.open).len() >= DOORS_MAX {
            return Err(OpenError::TooMany);
        }
        let refused = |error| OpenError::Address(wanted.address, error);
        let listener = TcpListener::bind((wanted.address, 0))
            .await
            .map_err(refused)?;
        let at = listener.local_addr().map_err(refused)?;
        let quota = self.store.stats().quota;
        let door = Arc::new(Door {
            store: Arc::clone(&self.store),
            clock: self.clock.clone(),
            own: Own::new(wanted.scope, wanted.read_only, quota),
            token: blake3::hash(wanted.token.as_bytes()),
            limits: self.limits,
            requests: Arc::new(Semaphore::new(self.limits.requests)),
            bodies: Arc::new(Semaphore::new(self.limits.bodies)),
            all_bodies: Arc::clone(&self.bodies),
            shutdown: self.shutdown.child(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let listening = Listening {
            connections: CONNECTIONS,
            drain: Duration::from_secs(1),
            ..Listening::default()
        };
        let serving = listen::serve(
            listener,
            router(Arc::clone(&door)),
            listening,
            door.shutdown.clone(),
        );
        self.shutdown.spawn("door of an attempt", serving);
        let until = self.clock.now().after(LEFT_ALONE);
        locked(&self.open).insert(wanted.attempt, Opened { door, until });
        Ok(at)
    }

    /// Nothing comes or goes any more. `None` = there was no door.
    pub(crate) fn close(&self, attempt: &str) -> Option<Closed> {
        let door = locked(&self.open)
            .get(attempt)
            .map(|o| Arc::clone(&o.door))?;
        door.own.close();
        door.shutdown.begin();
        let (entries, bytes) = door.own.totals();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Some(Closed {
            hits: count(&door.hits),
            misses: count(&door.misses),
            refused: count(&door.refused),
            entries,
            bytes,
        })
    }

    /// Keeps what came, or throws it away. Answers how many entries are new in the scope.
    pub(crate) async fn settle(&self, attempt: &str, keep: bool) -> u64 {
        let Some(opened) = locked(&self.open).remove(attempt) else {
            return 0;
        };
        opened.door.own.close();
        opened.door.shutdown.begin();
        if !keep {
            return 0;
        }
        let store = Arc::clone(&self.store);
        let keeping = tokio::task::spawn_blocking(move || opened.door.own.promote(&store));
        keeping.await.unwrap_or(0)
    }

    /// These attempts are still somebody's.
    pub(crate) fn renew(&self, attempts: &[String]) {
        let until = self.clock.now().after(LEFT_ALONE);
        let mut open = locked(&self.open);
        for attempt in attempts {
            if let Some(opened) = open.get_mut(attempt) {
                opened.until = until;
            }
        }
    }

    fn left_alone(&self) -> Vec<String> {
        let (open, now) = (locked(&self.open), self.clock.now());
        let old = open.iter().filter(|(_, opened)| opened.until < now);
        old.map(|(name, _)| name.clone()).collect()
    }

    /// Closes those that nobody renews, until shutdown.
    pub(crate) async fn watch(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.close_left_alone().await;
        }
    }

    /// One look.
    pub(super) async fn close_left_alone(&self) {
        for attempt in self.left_alone() {
            tracing::warn!(attempt, "closing a door that nobody renews");
            self.settle(&attempt, false).await;
        }
    }
}
