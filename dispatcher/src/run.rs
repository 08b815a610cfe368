//! The composition root: adapters are built, loops are spawned, nothing is decided.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use slipway_core::address::AddressPolicy;
use slipway_core::id::TokenId;
use slipway_daemon::listen::{self, Limits};
use slipway_daemon::{Clock, Health, Resolver, Rng, Shutdown};
use slipway_objects::{Folder, ObjectStore, S3, S3Settings};
use slipway_store::{Db, Settings as DbSettings};
use tokio::net::TcpListener;

use crate::api;
use crate::config::Config;
use crate::intake;
use crate::loops;
use crate::seal::Seal;
use crate::source::GitSource;
use crate::state::{App, Parts};
use crate::token::{self, Kind};

/// How long this process's own credential is good; made anew at every start.
const OWN_TOKEN_LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);

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
    let db = Db::open(&database)
        .await
        .context("cannot open the database")?;
    let parts = parts(&config, db).await?;
    serve(parts, listeners, shutdown).await
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
        Arc::new(Folder::open(config.data_dir.join("objects")).await?)
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
    Ok(Parts {
        settings: config.settings()?,
        db,
        objects,
        source: Arc::new(GitSource::new(
            config.data_dir.join("mirrors"),
            policy,
            Resolver::system(),
        )),
        seal: Seal::open_or_create(&key_file, &rng)?,
        clock: Clock::system(),
        rng,
        health,
    })
}

/// Serves until shutdown. The caller owns the meaning of shutdown and the store.
///
/// # Errors
/// When the store cannot be used at start.
pub async fn serve(parts: Parts, listeners: Listeners, shutdown: Shutdown) -> anyhow::Result<()> {
    let (app, inboxes) = App::new(parts);
    own_credential(&app).await?;
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
    shutdown.spawn(
        "inbox",
        loops::inbox::run(Arc::clone(&app), inboxes.deliveries, stop()),
    );
    let scheduling = loops::scheduling::run(Arc::clone(&app), inboxes.nudges, stop());
    shutdown.spawn("scheduling", scheduling);
    shutdown.spawn("handover", loops::handover::run(Arc::clone(&app), stop()));
    shutdown.spawn(
        "reconcile refs",
        loops::reconcile_refs::run(Arc::clone(&app), stop()),
    );
    shutdown.spawn("scaling", loops::scaling::run(Arc::clone(&app), stop()));
    shutdown.spawn("schedules", loops::schedules::run(Arc::clone(&app), stop()));
    tracing::info!(database = app.db.engine(), "the dispatcher is ready");
    shutdown.cancelled().await;
    app.link.restart(5_000);
    if !shutdown.drained(STOP_LIMIT).await {
        tracing::warn!("some calls were cut at the stop limit");
    }
    app.logs.sweep().await;
    Ok(())
}

/// The dispatcher's own name towards the coordinator; earlier ones are revoked.
async fn own_credential(app: &App) -> anyhow::Result<()> {
    let now = app.clock.now();
    for old in app.db.tokens().await? {
        if old.subject == "system"
            && old.revoked_ms.is_none()
            && let Ok(id) = old.token_id.parse::<TokenId>()
        {
            app.db.revoke_token(&id, now).await?;
        }
    }
    let id: TokenId = app.rng.id(now);
    let hash = token::hash(Kind::Api, &app.own_token).context("a fresh token is a token")?;
    let expires = now.after(OWN_TOKEN_LIFE);
    let roles = r#"["deployer"]"#;
    app.db
        .insert_token(&id, "system", &hash, roles, now, expires)
        .await?;
    Ok(())
}
