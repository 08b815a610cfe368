//! The composition root of the agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use slipway_cache_client::LocalCache;
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Health, Rng, Shutdown};
use slipway_docker::Engine;
use slipway_identity::{Establish, Own};
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1::{AgentMessage, HoldingsResponse};
use tokio::sync::{mpsc, watch};

use crate::attempt::Shared;
use crate::cache_watch;
use crate::capacity;
use crate::config::Config;
use crate::dispatchers::Dispatchers;
use crate::engine_watch;
use crate::held::{Held, Kept};
use crate::inventory;
use crate::link::Link;
use crate::log_stream;
use crate::logins;
use crate::sandbox::Sandbox;
use crate::sandbox::deny_list::DenyList;
use crate::sandbox::docker::{DockerSandbox, Logins};

/// Messages of attempts that wait for the stream.
const OUTBOX: usize = 1_024;
/// Key and certificate, below the data folder.
pub const IDENTITY_FILE: &str = "identity.pem";

/// How long removing containers, and the last bytes of logs, may take when the agent stops.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

/// What the caller provides; fakes in tests and benches.
pub struct Parts {
    /// Where stages are executed; `None` = Docker, as the settings say.
    pub sandbox: Option<Arc<dyn Sandbox>>,
    /// Whether workspaces are content; without it stages begin in an empty folder.
    pub content: bool,
    /// Logins of image registries.
    pub logins: Logins,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Health and metrics.
    pub health: Health,
}

impl Parts {
    /// The real ones. Logins are those of the settings alone.
    #[must_use]
    pub fn real() -> Self {
        Self {
            sandbox: None,
            content: true,
            logins: Arc::new(|_| futures::future::ready(None).boxed()),
            clock: Clock::system(),
            rng: Rng::system(),
            health: Health::new(),
        }
    }
}

/// Builds the real adapters and serves until shutdown.
///
/// # Errors
/// When the agent cannot join, or its folder cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    serve(config, Parts::real(), shutdown).await
}

/// Serves until shutdown, and until everything held has been answered for.
///
/// # Errors
/// When the agent cannot join, or its folder cannot be used.
pub async fn serve(config: Config, parts: Parts, shutdown: Shutdown) -> anyhow::Result<()> {
    let dirs = ["held", "work", "spool"].map(|name| config.data_dir.join(name));
    for dir in &dirs {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let [held_dir, work_dir, spool_dir] = dirs;
    let work_dir = work_dir.canonicalize()?;
    let Some(own) = identity(&config, &parts, &shutdown).await? else {
        return Ok(());
    };
    // A sandbox of the caller's has no engine to prove anything of.
    let given = parts.sandbox.is_some();
    let sandbox = match parts.sandbox {
        Some(sandbox) => sandbox,
        None => {
            deny(&config).await?;
            let logins = logins::configured(&config, &parts.clock, parts.logins).await;
            docker(&config, &own.id(), &parts.rng, logins)?
        }
    };
    let (outbox, messages) = mpsc::channel::<AgentMessage>(OUTBOX);
    let held = Held::open(&held_dir)?;
    let cache = if parts.content {
        Some(LocalCache::new(&config.cache)?)
    } else {
        None
    };
    let holdings = watch_cache(&config, cache.as_ref(), &held, &parts.health, &shutdown);
    let shared = Arc::new(Shared {
        sandbox,
        cache,
        holdings,
        held: held.clone(),
        log_limit: config.log_limit()?,
        disk_limit: config.disk(),
        work_dir,
        spool_dir,
        allowed: config.allowed_sources.clone(),
        dispatchers: Arc::new(Dispatchers::new(own, config.dispatchers())?),
        clock: parts.clock.clone(),
        shutdown: shutdown.child(),
        engine: watch::Sender::default(),
        outbox,
    });
    let kept = held.all()?;
    let adopted = take_up(&shared, &kept).await?;
    let token = &config.metrics_token;
    let watching = engine_watch::watch(Arc::clone(&shared), parts.health.clone());
    let health = parts.health.serve(&config.health_address, token, &shutdown);
    health.await?;
    // Not counted by what a drained agent waits for: it ends with the process.
    shutdown.spawn("inventory", inventory::watch(Arc::clone(&shared)));
    shutdown.spawn("watch engine", watching);
    let link = Link {
        shared: Arc::clone(&shared),
        slots: capacity::slots(&config),
        boot_id: hex::encode(parts.rng.bytes::<16>()),
        data_dir: config.data_dir.clone(),
        trusts_sandbox: given,
        rng: parts.rng,
        outbox: messages,
        shutdown,
    };
    link.run(kept, adopted).await;
    // A stopped agent leaves no container behind: nobody may ever start it again here.
    if !shared.shutdown.drained(CLEAN_UP_LIMIT).await {
        tracing::warn!("not everything could be cleaned up; the next start does it");
    }
    Ok(())
}

/// What an earlier process left: its containers, and logs that were not sent whole.
async fn take_up(shared: &Arc<Shared>, kept: &[Kept]) -> anyhow::Result<Vec<AttemptKey>> {
    let adopted = inventory::take(shared, kept).await;
    let spool = &shared.spool_dir;
    log_stream::resume(spool, &adopted, &shared.dispatchers, &shared.shutdown)
        .with_context(|| spool.display().to_string())?;
    Ok(adopted)
}

/// Looks after the cache daemon. Answers what it has for others, as it says it.
fn watch_cache(
    config: &Config,
    cache: Option<&LocalCache>,
    held: &Held,
    health: &Health,
    shutdown: &Shutdown,
) -> watch::Sender<Arc<HoldingsResponse>> {
    let holdings = watch::Sender::default();
    let Some(cache) = cache else { return holdings };
    let watching = cache_watch::watch(cache_watch::Watched {
        cache: cache.clone(),
        held: held.clone(),
        holdings: holdings.clone(),
        socket: config.cache.clone(),
        health: health.clone(),
    });
    let stopping = shutdown.clone();
    // Not while stopping: there the daemon may rightly be gone first.
    shutdown.spawn("watch cache", async move {
        tokio::select! {
            () = watching => {}
            () = stopping.cancelled() => {}
        }
    });
    holdings
}

/// Who this agent is. `None` when it is to stop before it knows.
async fn identity(
    config: &Config,
    parts: &Parts,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Own>> {
    let name = if config.name.is_empty() {
        capacity::host_name()
    } else {
        config.name.clone()
    };
    let establish = Establish {
        role: PeerRole::Agent,
        file: config.data_dir.join(IDENTITY_FILE),
        dispatchers: config.dispatchers(),
        join_token: &config.join_token,
        name: &name,
    };
    establish.run(&parts.clock, &parts.rng, shutdown).await
}

/// Denies stages what is not theirs to reach, where this host can.
async fn deny(config: &Config) -> anyhow::Result<()> {
    let list = deny_list(config)?;
    if let Err(error) = list.enforce().await {
        tracing::warn!(
            "stages can reach this host, private addresses and cloud metadata: {error:#}"
        );
    }
    Ok(())
}

pub(crate) fn deny_list(config: &Config) -> anyhow::Result<DenyList> {
    DenyList::new(&config.allowed_addresses, Path::new("/etc/resolv.conf"))
}

/// Docker with this agent's settings, for trials of the sandbox itself.
pub(crate) async fn sandbox(
    config: &Config,
    install: &str,
    clock: &Clock,
    rng: &Rng,
) -> anyhow::Result<Arc<dyn Sandbox>> {
    let none: Logins = Arc::new(|_| futures::future::ready(None).boxed());
    let logins = logins::configured(config, clock, none).await;
    docker(config, install, rng, logins)
}

fn docker(
    config: &Config,
    agent_id: &str,
    rng: &Rng,
    logins: Logins,
) -> anyhow::Result<Arc<dyn Sandbox>> {
    let socket = (!config.docker.is_empty()).then_some(config.docker.as_str());
    let engine = Engine::connect(socket)?;
    let sandbox = DockerSandbox::new(engine, agent_id.to_owned(), rng.clone(), logins);
    let opening = deny_list(config)?.opening();
    Ok(Arc::new(
        sandbox.with_memory(config.memory()).with_opening(opening),
    ))
}
