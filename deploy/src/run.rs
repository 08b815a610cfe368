//! The composition root of the coordinator.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use slipway_core::access::PeerRole;
use slipway_daemon::health::Health;
use slipway_daemon::{Clock, Rng, Shutdown, border};
use slipway_identity::{Connections, Establish, Guard, Incoming, Own};
use slipway_proto::v1::rollouts_server::RolloutsServer;
use slipway_store::{Db, RolloutRow};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::api::RolloutsApi;
use crate::config::{Config, Defaults};
use crate::loops;
use crate::places::{Connect, RealAdapters};
use crate::probes::Prober;

/// How long a coordinator owns a rollout without saying so again.
pub(crate) const OWNER_LEASE: Duration = Duration::from_secs(15);
/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Key and certificate, below the state folder.
pub const IDENTITY_FILE: &str = "identity.pem";
/// How long open work may take when the coordinator stops.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What the process shares with its parts; `slipway up` and tests bring their own.
#[derive(Clone)]
pub struct Parts {
    /// The store.
    pub db: Db,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// What the process says about itself.
    pub health: Health,
    /// Opens targets and routers; `None` = the real ones.
    pub connect: Option<Arc<dyn Connect>>,
    /// Who this coordinator is; `None` = what is kept in `Config::state_dir`, or a join token.
    pub identity: Option<Own>,
    /// The API's listener; `None` = bind `Config::listen`.
    pub listener: Option<Arc<std::net::TcpListener>>,
}

impl Parts {
    /// The real ones over an open store.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self {
            db,
            clock: Clock::system(),
            rng: Rng::system(),
            health: Health::new(),
            connect: None,
            identity: None,
            listener: None,
        }
    }
}

/// What every part of the coordinator uses.
pub(crate) struct Coordinator {
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) health: Health,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) prober: Prober,
    pub(crate) defaults: Defaults,
    /// This node's name as an owner of rollouts.
    pub(crate) owner: String,
    pub(crate) shutdown: Shutdown,
    pub(crate) new_work: Notify,
    /// Ticks of the last good heartbeat of the locks.
    pub(crate) last_heartbeat_ms: AtomicI64,
    /// Held from looking at a question until its answer is recorded, so that of answers that come at
    /// once each one sees those before it.
    pub(crate) answering: tokio::sync::Mutex<()>,
    /// What stable versions were like lately.
    pub(crate) baselines: loops::Baselines,
    nudges: Mutex<BTreeMap<String, Arc<Notify>>>,
}

impl Coordinator {
    /// The bell of a rollout's driver.
    pub(crate) fn nudge_of(&self, id: &str) -> Arc<Notify> {
        let mut nudges = self.nudges.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(nudges.entry(id.to_owned()).or_default())
    }

    pub(crate) fn forget_nudge(&self, id: &str) {
        self.nudges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// Something about a rollout changed: its driver looks now. A lost nudge costs a tick.
    pub(crate) fn nudge(&self, id: &str) {
        if let Some(bell) = self
            .nudges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
        {
            bell.notify_one();
        }
        self.new_work.notify_one();
    }

    /// A place became free: whoever waits looks now.
    pub(crate) fn nudge_all(&self) {
        let nudges = self.nudges.lock().unwrap_or_else(PoisonError::into_inner);
        nudges.values().for_each(|bell| bell.notify_one());
        self.new_work.notify_one();
    }

    /// Takes a rollout over under a token above `floor`; false when somebody else owns it.
    pub(crate) async fn claim(&self, row: &RolloutRow, floor: u64) -> anyhow::Result<bool> {
        let now = self.clock.now();
        border::reach("before claim", "");
        let claimed = self
            .db
            .claim_rollout(row, &self.owner, OWNER_LEASE, floor, now)
            .await?;
        border::reach("after claim", "");
        Ok(claimed.is_some())
    }
}

/// Runs the coordinator until `shutdown`.
///
/// # Errors
/// When the store, the state folder or an address cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let db = Db::open(&config.settings())
        .await
        .context("cannot open the database")?;
    let parts = Parts::new(db.clone());
    let served = serve(config, parts, shutdown).await;
    db.close().await;
    served
}

/// Runs the coordinator with these parts until `shutdown`.
///
/// # Errors
/// When the state folder or an address cannot be used.
pub async fn serve(config: Config, parts: Parts, shutdown: Shutdown) -> anyhow::Result<()> {
    slipway_daemon::start::install_crypto();
    let (owner, _only_one_here) = node(&config.state_dir, &parts)
        .with_context(|| format!("cannot use the state folder {}", config.state_dir.display()))?;
    let work = shutdown.child();
    // A kept identity is good at once: a restart in the middle of a rollout needs no dispatcher.
    let identity: Arc<OnceLock<Own>> = Arc::default();
    if let Some(own) = &parts.identity {
        let _first = identity.set(own.clone());
    }
    let (clock, known) = (parts.clock.clone(), Arc::clone(&identity));
    let coordinator = Arc::new(Coordinator {
        last_heartbeat_ms: AtomicI64::new(parts.clock.ticks().as_millis()),
        db: parts.db,
        clock: parts.clock,
        rng: parts.rng,
        health: parts.health.clone(),
        connect: parts
            .connect
            .unwrap_or_else(|| Arc::new(RealAdapters::new(clock, known))),
        prober: Prober::new().context("cannot make an HTTP client")?,
        defaults: config.defaults,
        owner,
        shutdown: work.clone(),
        new_work: Notify::new(),
        answering: tokio::sync::Mutex::default(),
        baselines: loops::Baselines::default(),
        nudges: Mutex::default(),
    });
    let listener = listen(&config, parts.listener.as_deref()).await?;
    let token = &config.metrics_token;
    parts
        .health
        .serve(&config.health_address, token, &shutdown)
        .await?;
    work.spawn("reconcile", loops::reconcile(Arc::clone(&coordinator)));
    work.spawn("keep", loops::keep(Arc::clone(&coordinator)));
    work.spawn("follow", loops::follow(Arc::clone(&coordinator)));
    work.spawn("sweep", loops::sweep(Arc::clone(&coordinator)));
    work.spawn("retire", loops::retire(Arc::clone(&coordinator)));
    tracing::info!(address = ?listener.local_addr().ok(), owner = coordinator.owner, "coordinator ready");
    // Rollouts go on without it; only callers have to wait for it.
    let found = match parts.identity {
        Some(own) => Ok(Some(own)),
        None => who(&config, &coordinator, &shutdown).await,
    };
    if let Ok(Some(own)) = &found {
        let _known = identity.set(own.clone());
    }
    let served = match found {
        Ok(Some(own)) => answer(coordinator, own, listener, &shutdown).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    work.begin();
    if !work.drained(STOP_LIMIT).await {
        tracing::warn!(
            "rollouts were left in the middle of an effect; the next owner resumes them"
        );
    }
    served
}

/// Who this coordinator is. `None` when it is to stop before it knows.
async fn who(
    config: &Config,
    coordinator: &Coordinator,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Own>> {
    let establish = Establish {
        role: PeerRole::Deployer,
        file: config.state_dir.join(IDENTITY_FILE),
        dispatchers: config
            .dispatcher
            .split(',')
            .map(|address| address.trim().to_owned())
            .collect(),
        join_token: &config.join_token,
        name: &coordinator.owner,
    };
    let found = establish.run(&coordinator.clock, &coordinator.rng, shutdown);
    found.await.context("the coordinator cannot be called")
}

/// Serves the API until shutdown.
async fn answer(
    coordinator: Arc<Coordinator>,
    own: Own,
    listener: TcpListener,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let guard = Guard::new(coordinator.clock.clone());
    let api = RolloutsServer::new(RolloutsApi::new(coordinator))
        .max_decoding_message_size(slipway_proto::DECODE_MAX);
    let incoming = Incoming::start(listener, own.server()?, Connections::new(), shutdown);
    let stop = shutdown.clone();
    tonic::transport::Server::builder()
        .max_concurrent_streams(Some(slipway_proto::STREAMS_MAX))
        .timeout(CALL_LIMIT)
        .layer(guard)
        .add_service(api)
        .serve_with_incoming_shutdown(incoming, async move {
            stop.cancelled().await;
        })
        .await
        .context("the API failed")
}

/// Who this node is, and the proof that it is alone: a restart on the same node claims its rollouts
/// at once instead of waiting for its own lease.
fn node(dir: &Path, parts: &Parts) -> anyhow::Result<(String, File)> {
    std::fs::create_dir_all(dir)?;
    let lock = File::options()
        .create(true)
        .append(true)
        .open(dir.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            anyhow::bail!("another coordinator uses it; stop it first")
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    let path = dir.join("node-id");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let known = known.trim();
    if known.len() == 26 {
        return Ok((known.to_owned(), lock));
    }
    let fresh = parts.rng.ulid(parts.clock.now());
    std::fs::write(&path, &fresh)?;
    Ok((fresh, lock))
}

async fn listen(
    config: &Config,
    given: Option<&std::net::TcpListener>,
) -> anyhow::Result<TcpListener> {
    if let Some(given) = given {
        let listener = given.try_clone()?;
        listener.set_nonblocking(true)?;
        return Ok(TcpListener::from_std(listener)?);
    }
    TcpListener::bind(&config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))
}
