//! The composition root of the agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use slipway_cache_client::LocalCache;
use slipway_daemon::{Clock, Health, Rng, Shutdown};
use slipway_docker::Engine;
use slipway_proto::v1::AgentMessage;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::attempt::Shared;
use crate::cache_watch;
use crate::capacity;
use crate::config::Config;
use crate::held::Held;
use crate::identity::Identity;
use crate::inventory;
use crate::link::Link;
use crate::log_stream::Destination;
use crate::logins;
use crate::sandbox::Sandbox;
use crate::sandbox::deny_list::DenyList;
use crate::sandbox::docker::{DockerSandbox, Logins};

/// Messages of attempts that wait for the stream.
const OUTBOX: usize = 1_024;
/// Between two tries to join.
const JOIN_RETRY: Duration = Duration::from_secs(1);

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

fn channel(address: &str) -> anyhow::Result<Channel> {
    // A half-open connection is noticed within half a minute.
    Ok(Endpoint::from_shared(address.to_owned())
        .with_context(|| format!("`{address}` is no address"))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .connect_lazy())
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
    let control = channel(&config.dispatcher)?;
    let Some(identity) = join(&config, &control, &shutdown).await? else {
        return Ok(());
    };
    let sandbox = match parts.sandbox {
        Some(sandbox) => sandbox,
        None => {
            deny(&config).await?;
            let logins = logins::configured(&config, &parts.clock, parts.logins).await;
            docker(&config, &identity.agent_id, &parts.rng, logins)?
        }
    };
    let (outbox, messages) = mpsc::channel::<AgentMessage>(OUTBOX);
    let held = Held::open(&held_dir)?;
    let cache = if parts.content {
        Some(LocalCache::new(&config.cache)?)
    } else {
        None
    };
    watch_cache(&config, cache.clone(), &parts.health, &shutdown);
    let shared = Arc::new(Shared {
        sandbox,
        cache,
        held: held.clone(),
        log_limit: config.log_limit()?,
        disk_limit: config.disk(),
        work_dir,
        spool_dir,
        allowed: config.allowed_sources.clone(),
        logs: Destination {
            // A connection of its own: a full window of output never delays a renewal.
            channel: channel(&config.dispatcher)?,
            bearer: identity.bearer()?,
        },
        clock: parts.clock.clone(),
        shutdown: shutdown.child(),
        outbox,
    });
    let kept = held.all()?;
    let adopted = inventory::take(&shared, &kept).await;
    let token = &config.metrics_token;
    let health = parts.health.serve(&config.health_address, token, &shutdown);
    health.await?;
    let slots = match config.slots {
        0 => capacity::cpus(),
        slots => slots,
    };
    // Not counted by what a drained agent waits for: it ends with the process.
    shutdown.spawn("inventory", inventory::watch(Arc::clone(&shared)));
    let link = Link {
        shared: Arc::clone(&shared),
        channel: control,
        slots,
        boot_id: hex::encode(parts.rng.bytes::<16>()),
        data_dir: config.data_dir.clone(),
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

fn watch_cache(config: &Config, cache: Option<LocalCache>, health: &Health, shutdown: &Shutdown) {
    let Some(cache) = cache else { return };
    let watching = cache_watch::watch(cache, config.cache.clone(), health.clone());
    let stopping = shutdown.clone();
    // Not while stopping: there the daemon may rightly be gone first.
    shutdown.spawn("watch cache", async move {
        tokio::select! {
            () = watching => {}
            () = stopping.cancelled() => {}
        }
    });
}

/// Joins, waiting for a dispatcher that is not there yet. `None` when the agent is to stop before.
async fn join(
    config: &Config,
    channel: &Channel,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Identity>> {
    let name = if config.name.is_empty() {
        capacity::host_name()
    } else {
        config.name.clone()
    };
    loop {
        let joined = Identity::load_or_join(&config.data_dir, channel, &config.join_token, &name);
        match joined.await {
            Ok(identity) => return Ok(Some(identity)),
            Err(error) if error.to_string().contains("join_token") => return Err(error),
            Err(error) if config.join_token.is_empty() => return Err(error),
            Err(error) => tracing::info!("cannot join yet: {error:#}"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(JOIN_RETRY) => {}
        }
    }
}

/// Denies stages what is not theirs to reach, where this host can.
async fn deny(config: &Config) -> anyhow::Result<()> {
    let list = DenyList::new(&config.allowed_addresses, Path::new("/etc/resolv.conf"))?;
    if let Err(error) = list.enforce().await {
        tracing::warn!(
            "stages can reach this host, private addresses and cloud metadata: {error:#}"
        );
    }
    Ok(())
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
    Ok(Arc::new(sandbox.with_memory(config.memory())))
}
