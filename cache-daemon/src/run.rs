//! The composition root: store opened, door opened, eviction looping.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown, health::Health};
use slipway_identity::Establish;
use tokio::net::UnixListener;

use crate::blobs::Disk;
use crate::index::{BlobIndex, SledIndex};
use crate::{Config, Store, loops, peers, server};

/// How long open requests may take once stopping was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// What the daemon is made of; the caller chooses.
pub struct Parts {
    /// Time.
    pub clock: Clock,
    /// Which blobs there are.
    pub index: Arc<dyn BlobIndex>,
}

/// Runs the daemon on its real parts until `shutdown`.
///
/// # Errors
/// When the directory, the socket or the health address cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.directory)
        .with_context(|| format!("cannot make {}", config.directory.display()))?;
    let index = SledIndex::new(&config.directory.join("index.sled"));
    let parts = Parts {
        clock: Clock::system(),
        index: Arc::new(index),
    };
    serve(config, parts, shutdown).await
}

/// Runs the daemon on the given parts until `shutdown`.
///
/// # Errors
/// When the directory, the socket or the health address cannot be used.
pub async fn serve(config: Config, parts: Parts, shutdown: Shutdown) -> anyhow::Result<()> {
    let disk = Disk::open(&config.directory, parts.index, config.quota_bytes)
        .context("cannot open the blob directory")?;
    let store = Arc::new(Store::open(disk, parts.clock.clone()));
    let health = Health::new();
    health.register(|registry| store.counters().register(registry));
    let token = &config.metrics_token;
    let health = health.serve(&config.health_address, token, &shutdown);
    health.await?;
    let listener = open_socket(&config.socket)?;
    tracing::info!(socket = %config.socket.display(), "cache listens");
    loops::start(&store, &shutdown);
    let known = peers::Known::default();
    if !config.dispatcher.is_empty() {
        let (store, known) = (Arc::clone(&store), known.clone());
        let meeting = meet(config.clone(), parts.clock, store, known, shutdown.clone());
        shutdown.spawn("meet peers", async move {
            if let Err(error) = meeting.await {
                tracing::error!("no dealings with other cache daemons: {error:#}");
            }
        });
    }
    server::serve(listener, Arc::clone(&store), known, &shutdown).await?;
    let _removed = std::fs::remove_file(&config.socket);
    if !shutdown.drained(DRAIN).await {
        tracing::warn!("requests were cut at the drain limit");
    }
    // Off the runtime: the last sync may take a while on a slow disk.
    let _ended = tokio::task::spawn_blocking(move || store.close()).await;
    Ok(())
}

/// Learns who this daemon is, then answers others and asks them.
async fn meet(
    config: Config,
    clock: Clock,
    store: Arc<Store>,
    known: peers::Known,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let dispatchers = config.dispatcher.split(',');
    let establish = Establish {
        role: PeerRole::Cache,
        file: config.directory.join("identity.pem"),
        dispatchers: dispatchers.map(|at| at.trim().to_owned()).collect(),
        join_token: &config.join_token,
        name: &config.name,
    };
    let own = establish.run(&clock, &Rng::system(), &shutdown).await?;
    let Some(own) = own else { return Ok(()) };
    let (listen, advertise) = (config.peers_address, &config.peers_advertise);
    let peers = peers::start(&store, own, &clock, listen, advertise, &shutdown).await?;
    let _once = known.set(peers);
    Ok(())
}

fn open_socket(path: &std::path::Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // Left behind by a process that was killed; a living daemon holds the directory's lock instead.
    let _removed = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .context("cannot protect the socket")?;
    Ok(listener)
}
