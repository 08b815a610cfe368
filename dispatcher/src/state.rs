//! What every part of the dispatcher shares: adapters, the clock, and the bells that wake loops.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use slipway_core::access::PeerRole;
use slipway_core::id::{AgentId, BuildId, DeliveryId};
use slipway_core::queue::AgentState;
use slipway_daemon::{Clock, Health, Rng};
use slipway_identity::{Authority, Connections, Own};
use slipway_objects::ObjectStore;
use slipway_store::Db;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tonic::transport::Channel;

use crate::config::Settings;
use crate::fleet::Fleet;
use crate::link::Link;
use crate::logs::Logs;
use crate::loops::scheduling::Nudge;
use crate::seal::Seal;
use crate::source::Source;
use crate::tracker::Tracker;
use crate::usecases::expected::Expected;

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
    /// Which cache daemon holds which layer.
    pub tracker: Tracker,
    /// Output of stages.
    pub logs: Logs,
    /// Pools of agents: their reports, and the bell of the scaling loop.
    pub fleet: Fleet,
    /// Wakes the hand-over loop.
    pub handover: Notify,
    /// Who leads.
    pub lead: watch::Sender<Lead>,
    /// How long stages take.
    pub expected: Expected,
    /// Builds that changed, for whoever watches.
    pub changes: broadcast::Sender<BuildId>,
    /// Writes certificates.
    pub authority: Arc<Authority>,
    /// This dispatcher's own certificate.
    pub own: Own,
    /// gRPC connections of processes that showed a certificate.
    pub connections: Connections,
    /// To the coordinator, opened when it is first used; `None` = nothing is deployed.
    pub coordinator: Option<Channel>,
}

/// A receiving end that passes from the loops of a leader to those of a follower and back.
pub type Shared<T> = Arc<tokio::sync::Mutex<mpsc::Receiver<T>>>;

/// The receiving ends.
#[derive(Clone)]
pub struct Inboxes {
    /// Announced deliveries.
    pub deliveries: Shared<DeliveryId>,
    /// The scheduler's nudges.
    pub nudges: Shared<Nudge>,
}

/// Who leads, as far as this dispatcher knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Nobody, or nobody that is known.
    Nobody,
    /// Another one, and where agents reach it.
    Other(String),
    /// This one, under this epoch.
    Own(i64),
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
    /// Writes certificates.
    pub authority: Arc<Authority>,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Health and metrics.
    pub health: Health,
}

impl App {
    /// Puts the parts together.
    ///
    /// # Errors
    /// When the coordinator's address is none.
    pub fn new(parts: Parts, own: Own) -> anyhow::Result<(Arc<Self>, Inboxes)> {
        let (announce, deliveries) = mpsc::channel(ANNOUNCED);
        let (nudge, nudges) = mpsc::channel(NUDGES);
        let (changes, _) = broadcast::channel(CHANGES);
        let logs = Logs::new(Arc::clone(&parts.objects), parts.clock.clone());
        let address = &parts.settings.coordinator;
        let coordinator = match address.as_str() {
            "" => None,
            address => Some(own.channel(address, PeerRole::Deployer)?),
        };
        let app = Self {
            authority: parts.authority,
            own,
            connections: Connections::new(),
            coordinator,
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
            tracker: Tracker::default(),
            logs,
            fleet: Fleet::default(),
            handover: Notify::new(),
            expected: Expected::default(),
            changes,
            lead: watch::Sender::new(Lead::Nobody),
        };
        let inboxes = Inboxes {
            deliveries: Arc::new(tokio::sync::Mutex::new(deliveries)),
            nudges: Arc::new(tokio::sync::Mutex::new(nudges)),
        };
        Ok((Arc::new(app), inboxes))
    }

    /// Tells everybody who cares that a build changed.
    pub async fn build_changed(&self, change: &slipway_store::BuildChange) {
        self.show_change(change);
        if let Ok(id) = change.build_id.parse::<BuildId>() {
            let _stopping = self.nudge.send(Nudge::BuildChanged(id)).await;
        }
    }

    /// Tells the scheduler whether an agent takes work from now on.
    pub async fn agent_state(&self, agent: AgentId, state: AgentState) {
        let _stopping = self.nudge.send(Nudge::State(agent, state)).await;
    }

    /// Tells everybody but the scheduler, which calls this itself, that a build changed.
    pub fn show_change(&self, change: &slipway_store::BuildChange) {
        if let Ok(id) = change.build_id.parse::<BuildId>() {
            // No receiver is fine: nobody watches.
            let _nobody_watches = self.changes.send(id.clone());
            self.fleet.bell.notify_one();
        }
        if change.status == slipway_core::build::BuildStatus::Passed {
            self.handover.notify_one();
        }
    }
}
