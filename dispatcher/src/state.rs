//! What every part of the dispatcher shares: adapters, the clock, and the bells that wake loops.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use slipway_core::id::{BuildId, DeliveryId};
use slipway_daemon::{Clock, Health, Rng};
use slipway_objects::ObjectStore;
use slipway_store::Db;
use tokio::sync::{Notify, broadcast, mpsc};

use crate::config::Settings;
use crate::fleet::Fleet;
use crate::link::Link;
use crate::logs::Logs;
use crate::loops::scheduling::Nudge;
use crate::seal::Seal;
use crate::source::Source;

/// Build changes that a slow reader may lag behind before it has to look again.
const CHANGES: usize = 1_024;
/// Deliveries announced at once; what does not fit is found by the inbox's slow tick.
const ANNOUNCED: usize = 1_024;
/// Nudges to the scheduler; senders wait when it is full.
const NUDGES: usize = 4_096;

/// The bell of the inbox loop.
#[derive(Clone)]
pub struct InboxBell(mpsc::Sender<DeliveryId>);

impl InboxBell {
    /// Announces a stored delivery. A lost announcement is only slower.
    pub fn announce(&self, id: DeliveryId) {
        let _slow_tick_finds_it = self.0.try_send(id);
    }
}

/// The shared parts.
pub struct App {
    /// Settings.
    pub settings: Settings,
    /// The store.
    pub db: Db,
    /// Logs and artifacts.
    pub objects: Arc<dyn ObjectStore>,
    /// Commits.
    pub source: Arc<dyn Source>,
    /// The installation's key.
    pub seal: Seal,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Health and metrics.
    pub health: Health,
    /// Announces deliveries.
    pub inbox: InboxBell,
    /// Ticks of the last delivery that could not be stored, for health.
    pub refused_ms: AtomicI64,
    /// Wakes the scheduler.
    pub nudge: mpsc::Sender<Nudge>,
    /// The agents' streams.
    pub link: Link,
    /// Output of stages.
    pub logs: Logs,
    /// Pools of agents: their reports, and the bell of the scaling loop.
    pub fleet: Fleet,
    /// Wakes the hand-over loop.
    pub handover: Notify,
    /// Builds that changed, for whoever watches.
    pub changes: broadcast::Sender<BuildId>,
    /// Bearer value of this dispatcher's own calls to the coordinator.
    pub own_token: String,
}

/// The receiving ends, each for one loop.
pub struct Inboxes {
    /// Announced deliveries.
    pub deliveries: mpsc::Receiver<DeliveryId>,
    /// The scheduler's nudges.
    pub nudges: mpsc::Receiver<Nudge>,
}

/// What the caller provides; fakes in tests.
pub struct Parts {
    /// Settings.
    pub settings: Settings,
    /// The store.
    pub db: Db,
    /// Logs and artifacts.
    pub objects: Arc<dyn ObjectStore>,
    /// Commits.
    pub source: Arc<dyn Source>,
    /// The installation's key.
    pub seal: Seal,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Health and metrics.
    pub health: Health,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> (Arc<Self>, Inboxes) {
        let (announce, deliveries) = mpsc::channel(ANNOUNCED);
        let (nudge, nudges) = mpsc::channel(NUDGES);
        let (changes, _) = broadcast::channel(CHANGES);
        let logs = Logs::new(Arc::clone(&parts.objects), parts.clock.clone());
        let own_token = crate::token::mint(crate::token::Kind::Api, &parts.rng);
        let app = Self {
            own_token,
            settings: parts.settings,
            db: parts.db,
            objects: parts.objects,
            source: parts.source,
            seal: parts.seal,
            clock: parts.clock,
            rng: parts.rng,
            health: parts.health,
            inbox: InboxBell(announce),
            refused_ms: AtomicI64::new(0),
            nudge,
            link: Link::default(),
            logs,
            fleet: Fleet::default(),
            handover: Notify::new(),
            changes,
        };
        (Arc::new(app), Inboxes { deliveries, nudges })
    }

    /// Puts this dispatcher's own credential on a call to the coordinator.
    pub fn coordinator_token(&self, metadata: &mut tonic::metadata::MetadataMap) {
        if let Ok(value) = format!("Bearer {}", self.own_token).parse() {
            metadata.insert("authorization", value);
        }
    }

    /// Tells everybody who cares that a build changed.
    pub async fn build_changed(&self, change: &slipway_store::BuildChange) {
        if let Ok(id) = change.build_id.parse::<BuildId>() {
            // No receiver is fine: nobody watches.
            let _nobody_watches = self.changes.send(id.clone());
            let _stopping = self.nudge.send(Nudge::BuildChanged(id)).await;
            self.fleet.bell.notify_one();
        }
        if change.status == slipway_core::build::BuildStatus::Passed {
            self.handover.notify_one();
        }
    }
}
