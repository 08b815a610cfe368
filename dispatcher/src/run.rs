//! The composition root: adapters are built, loops are spawned, nothing is decided.

use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use slipway_core::access::PeerRole;
use slipway_core::address::AddressPolicy;
use slipway_daemon::listen::{self, Limits};
use slipway_daemon::{Clock, Health, Resolver, Rng, Shutdown};
use slipway_objects::{Folder, ObjectStore, S3, S3Settings};
use slipway_store::{Db, Settings as DbSettings};
use tokio::net::TcpListener;

use crate::api;
use crate::config::{Config, Durability};
use crate::identity;
use crate::intake;
use crate::loops;
use crate::seal::Seal;
use crate::source::GitSource;
use crate::state::{App, Parts};

/// How long open calls may take once stopping was asked for.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The bound ports of a dispatcher.
pub struct Listeners {
    /// REST.
    pub rest: TcpListener,
    /// Webhooks.
    pub intake: TcpListener,
    /// gRPC.
    pub grpc: TcpListener,
    /// Health and metrics.
    pub health: TcpListener,
}

impl Listeners {
    /// Binds what the settings say.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = |address| async move {
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}; is another one running?"))
        };
        Ok(Self {
            rest: bind(config.rest_address).await?,
            intake: bind(config.intake_address).await?,
            grpc: bind(config.grpc_address).await?,
            health: bind(config.health_address).await?,
        })
    }
}

/// Builds the real adapters and serves until shutdown.
///
/// # Errors
/// When an adapter cannot be built.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let listeners = Listeners::bind(&config).await?;
    let database = if config.database.is_empty() {
        tokio::fs::create_dir_all(&config.data_dir).await?;
        DbSettings::Sqlite(config.data_dir.join("slipway.db"))
    } else {
        DbSettings::Postgres(config.database.clone())
    };
    let _only_one = only_one(&database)?;
    let db = Db::open(&database)
        .await
        .context("cannot open the database")?;
    let parts = parts(&config, db).await?;
    serve(parts, listeners, shutdown).await
}

/// SQLite has one dispatcher: a second one on the same file would schedule everything twice.
fn only_one(database: &DbSettings) -> anyhow::Result<Option<File>> {
    let DbSettings::Sqlite(path) = database else {
        return Ok(None);
    };
    let lock = path.with_extension("lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&lock)
        .with_context(|| lock.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another dispatcher uses {}; several of them need PostgreSQL",
            path.display()
        ),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// The real adapters over an open store.
///
/// # Errors
/// When an adapter cannot be built.
pub async fn parts(config: &Config, db: Db) -> anyhow::Result<Parts> {
    let rng = Rng::system();
    let key_file = if config.key_file.as_os_str().is_empty() {
        config.data_dir.join("keys/seal.key")
    } else {
        config.key_file.clone()
    };
    let objects: Arc<dyn ObjectStore> = if config.objects.bucket.is_empty() {
        let folder = match config.objects.folder.as_os_str() {
            none if none.is_empty() => config.data_dir.join("objects"),
            _ => config.objects.folder.clone(),
        };
        Arc::new(Folder::open(folder).await?)
    } else {
        Arc::new(
            S3::open(&S3Settings {
                bucket: config.objects.bucket.clone(),
                region: config.objects.region.clone(),
                endpoint: config.objects.endpoint.clone(),
                key_pair: None,
            })
            .await,
        )
    };
    let policy = AddressPolicy {
        allowed_prefixes: config.allowed_sources.clone(),
    };
    let health = Health::new();
    health.tell_metrics_to(&config.metrics_token);
    let (seal, clock) = (Seal::open_or_create(&key_file, &rng)?, Clock::system());
    let authority = identity::authority(&db, &seal, &clock).await?;
    Ok(Parts {
        settings: config.settings()?,
        authority,
        db,
        objects,
        source: Arc::new(GitSource::new(
            config.data_dir.join("mirrors"),
            policy,
            Resolver::system(),
        )),
        seal,
        clock,
        rng,
        health,
    })
}

/// Serves until shutdown. The caller owns the meaning of shutdown and the store.
///
/// # Errors
/// When the store cannot be used at start.
pub async fn serve(parts: Parts, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    let own = identity::at_hand(
        &parts.authority,
        PeerRole::Dispatcher,
        &parts.clock,
        &parts.rng,
        &shutdown,
    )?;
    durable(&parts).await?;
    let (app, inboxes) = App::new(parts, own)?;
    let limits = Limits::default();
    let stop = || shutdown.clone();
    let rest = listen::serve(
        listeners.rest,
        api::rest::routes(Arc::clone(&app)),
        limits,
        stop(),
    );
    shutdown.spawn("rest", rest);
    let hooks = listen::serve(
        listeners.intake,
        intake::routes(Arc::clone(&app)),
        limits,
        stop(),
    );
    shutdown.spawn("intake", hooks);
    let health = listen::serve(listeners.health, app.health.routes(), limits, stop());
    shutdown.spawn("health", health);
    let (grpc_app, grpc_stop) = (Arc::clone(&app), stop());
    shutdown.spawn("grpc", async move {
        if let Err(error) = api::grpc::serve(grpc_app, listeners.grpc, grpc_stop).await {
            tracing::error!("gRPC stopped: {error:#}");
        }
    });
    let revocation = loops::revocation::run(Arc::clone(&app), stop());
    shutdown.spawn("revocation", revocation);
    let leadership = loops::leadership::run(Arc::clone(&app), inboxes, stop());
    shutdown.spawn("leadership", leadership);
    tracing::info!(database = app.db.engine(), "the dispatcher is ready");
    shutdown.cancelled().await;
    app.link.restart(5_000);
    if !shutdown.drained(STOP_LIMIT).await {
        tracing::warn!("some calls were cut at the stop limit");
    }
    app.logs.sweep().await;
    Ok(())
}

/// Whoever calls an installation highly available must not lose acknowledged work with one machine.
async fn durable(parts: &Parts) -> anyhow::Result<()> {
    if parts.settings.durability == Durability::NotAsked {
        return Ok(());
    }
    let missing = parts.db.not_durable().await?;
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "E_HA_NOT_DURABLE: the loss of the database's machine can lose acknowledged deliveries and \
         results: {}",
        missing.join("; ")
    );
    if parts.settings.durability == Durability::Demanded {
        anyhow::bail!("{why}; or set `accept_loss` (`--i-accept-loss`) to start all the same");
    }
    tracing::warn!("{why}; started all the same, as `accept_loss` says");
    Ok(())
}
