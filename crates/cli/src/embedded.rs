//! The whole system in one process, over one SQLite store and local folders: what `slipway up`,
//! `slipway run` and the tests start. The router stays a process of its own.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use slipway_agent::sandbox::Sandbox;
use slipway_core::access::PeerRole;
use slipway_core::id::TokenId;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_dispatcher::config::FleetConfig;
use slipway_dispatcher::source::Source;
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::{Authority, JoinToken};
use slipway_store::{Db, Settings};
use tokio::net::TcpListener;

use crate::client::TOKEN_FILE;

/// How long the first token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);
/// How long agents may take to join.
const JOIN_LIFE: Duration = Duration::from_secs(3_600);
/// The pool of `--max-agents`.
const LOCAL_POOL: &str = "local";
/// How long the router may take to come up.
const ROUTER_PATIENCE: Duration = Duration::from_secs(10);

/// Which ports; 0 = any free one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ports {
    /// REST.
    pub rest: u16,
    /// Webhooks.
    pub intake: u16,
    /// gRPC.
    pub grpc: u16,
    /// Coordinator.
    pub coordinator: u16,
    /// Health and metrics of the dispatcher.
    pub health: u16,
}

impl Ports {
    /// The usual ones.
    pub const USUAL: Self = Self {
        rest: 7700,
        intake: 7701,
        grpc: 7702,
        coordinator: 7705,
        health: 7710,
    };
}

/// One environment that is registered at the start.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Where its services are served.
    pub listen: SocketAddr,
}

/// What to start.
pub struct Options {
    /// Everything lives below it.
    pub data_dir: PathBuf,
    /// Ports.
    pub ports: Ports,
    /// Listens on this address.
    pub host: std::net::IpAddr,
    /// Agents in this process.
    pub agents: u32,
    /// Agents that are started as processes when there is work for them; 0 = none.
    pub max_agents: u32,
    /// Slots of each; 0 = one per processor.
    pub slots: u32,
    /// Repository addresses allowed besides https and ssh.
    pub allowed_sources: Vec<String>,
    /// Environments; none = nothing is deployed and no router is started.
    pub environments: Vec<Environment>,
    /// The binary that is started as the router (`<binary> router …`).
    pub router_binary: PathBuf,
    /// How often refs are compared, seconds.
    pub reconcile_seconds: u64,
    /// Where stages are executed; `None` = Docker.
    pub sandbox: Option<Arc<dyn Sandbox>>,
    /// Where commits come from; `None` = git.
    pub source: Option<Arc<dyn Source>>,
    /// Store; `None` = SQLite below `data_dir`.
    pub db: Option<Db>,
    /// Shorter waits of rollouts, for the demo and tests.
    pub quick_rollouts: bool,
}

impl Options {
    /// Everything below a folder, on free ports, with one agent.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            data_dir: dir.to_owned(),
            ports: Ports::default(),
            host: [127, 0, 0, 1].into(),
            agents: 1,
            max_agents: 0,
            slots: 2,
            allowed_sources: Vec::new(),
            environments: Vec::new(),
            router_binary: PathBuf::new(),
            reconcile_seconds: 0,
            sandbox: None,
            source: None,
            db: None,
            quick_rollouts: false,
        }
    }
}

/// What was started.
pub struct Embedded {
    /// The store.
    pub db: Db,
    /// REST.
    pub rest: SocketAddr,
    /// Webhooks.
    pub intake: SocketAddr,
    /// gRPC.
    pub grpc: SocketAddr,
    /// Coordinator.
    pub coordinator: SocketAddr,
    /// Writes certificates; its fingerprint is what callers know it by.
    pub authority: Arc<Authority>,
    /// The administrator's token.
    pub token: String,
    /// Whether the token was made at this start.
    pub first_start: bool,
    /// The router's control socket.
    pub router_socket: PathBuf,
    /// What the roles run under.
    pub shutdown: Shutdown,
    /// How process agents are started, to end them.
    fleet: FleetConfig,
}

impl Embedded {
    /// Starts every role.
    ///
    /// # Errors
    /// When a port is taken or a folder cannot be used.
    pub async fn start(options: Options, shutdown: Shutdown) -> anyhow::Result<Self> {
        slipway_daemon::start::install_crypto();
        std::fs::create_dir_all(&options.data_dir)
            .with_context(|| format!("cannot make {}", options.data_dir.display()))?;
        let dir = options.data_dir.canonicalize()?;
        let db = match &options.db {
            Some(db) => db.clone(),
            None => Db::open(&Settings::Sqlite(dir.join("slipway.db")))
                .await
                .context("cannot open the database")?,
        };
        let (clock, rng) = (Clock::system(), Rng::system());
        let (token, first_start) = admin_token(&db, &dir, &clock, &rng).await?;
        let listener = listen(SocketAddr::new(options.host, options.ports.coordinator))?;
        let coordinator_at = listener.local_addr()?;
        pool(&options, &db, &clock).await?;
        let (dispatcher, listeners, fleet) =
            dispatcher(&options, &dir, &db, coordinator_at).await?;
        let authority = Arc::clone(&dispatcher.authority);
        let (rest, intake, grpc) = (
            listeners.rest.local_addr()?,
            listeners.intake.local_addr()?,
            listeners.grpc.local_addr()?,
        );
        coordinator(&options, &dir, &db, &authority, listener, &shutdown)?;
        let stop = shutdown.child();
        shutdown.spawn("dispatcher", async move {
            if let Err(error) = slipway_dispatcher::serve(dispatcher, listeners, stop).await {
                tracing::error!("the dispatcher stopped: {error:#}");
            }
        });
        let cache_socket = dir.join("cache/cache.sock");
        cache(&dir, &cache_socket, &shutdown)?;
        for number in 0..options.agents {
            agent(
                &options,
                &dir,
                number,
                &db,
                &authority,
                grpc,
                &cache_socket,
                &clock,
                &rng,
                &shutdown,
            )
            .await?;
        }
        let router_socket = dir.join("router/router.sock");
        if !options.environments.is_empty() {
            router(&options.router_binary, &dir.join("router"), &router_socket).await?;
            for environment in &options.environments {
                register(&db, environment, &router_socket, &clock, &rng).await?;
            }
        }
        Ok(Self {
            db,
            rest,
            intake,
            grpc,
            coordinator: coordinator_at,
            authority,
            token,
            first_start,
            router_socket,
            shutdown,
            fleet,
        })
    }

    /// Stops every role and closes the store. The router goes on.
    pub async fn stop(self) {
        self.shutdown.begin();
        if !self.shutdown.drained(Duration::from_secs(20)).await {
            tracing::warn!("not everything stopped in time");
        }
        slipway_dispatcher::fleet::process::end_all(&self.fleet, Duration::from_secs(20)).await;
        self.db.close().await;
    }
}

async fn admin_token(
    db: &Db,
    dir: &Path,
    clock: &Clock,
    rng: &Rng,
) -> anyhow::Result<(String, bool)> {
    let path = dir.join(TOKEN_FILE);
    if let Ok(known) = std::fs::read_to_string(&path) {
        let known = known.trim().to_owned();
        let hash = token::hash(Kind::Api, &known).unwrap_or_default();
        if db.token_by_hash(&hash).await?.is_some() {
            return Ok((known, false));
        }
    }
    let fresh = token::mint(Kind::Api, rng);
    let hash = token::hash(Kind::Api, &fresh).context("a fresh token is a token")?;
    let now = clock.now();
    let id: TokenId = rng.id(now);
    let roles = r#"["admin"]"#;
    db.insert_token(&id, "admin", &hash, roles, now, now.after(TOKEN_LIFE))
        .await?;
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    writeln!(file, "{fresh}")?;
    Ok((fresh, true))
}

fn coordinator(
    options: &Options,
    dir: &Path,
    db: &Db,
    authority: &Arc<Authority>,
    listener: std::net::TcpListener,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let mut config = slipway_deploy::config::Config::in_dir(dir);
    if options.quick_rollouts {
        config.defaults.min_ready_ms = 1_000;
        config.defaults.warm_deadline_ms = 10_000;
    }
    let mut parts = slipway_deploy::Parts::new(db.clone());
    parts.listener = Some(Arc::new(listener));
    let (role, clock, rng) = (PeerRole::Deployer, &parts.clock, &parts.rng);
    let own = slipway_dispatcher::identity::at_hand(authority, role, clock, rng, shutdown)?;
    parts.identity = Some(own);
    let stop = shutdown.child();
    shutdown.spawn("coordinator", async move {
        if let Err(error) = slipway_deploy::serve(config, parts, stop).await {
            tracing::error!("the coordinator stopped: {error:#}");
        }
    });
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}; is another one running?"))
}

async fn dispatcher(
    options: &Options,
    dir: &Path,
    db: &Db,
    coordinator: SocketAddr,
) -> anyhow::Result<(
    slipway_dispatcher::state::Parts,
    slipway_dispatcher::Listeners,
    FleetConfig,
)> {
    use slipway_dispatcher::config::{Config, DEFAULTS};
    let mut config: Config = slipway_daemon::config::load(DEFAULTS, None, "DISPATCHER")?;
    let at = |port| SocketAddr::new(options.host, port);
    config.data_dir = dir.to_owned();
    config.rest_address = at(options.ports.rest);
    config.intake_address = at(options.ports.intake);
    config.grpc_address = at(options.ports.grpc);
    config.health_address = at(options.ports.health);
    config.allowed_sources.clone_from(&options.allowed_sources);
    config.reconcile_seconds = options.reconcile_seconds;
    config.coordinator = format!("https://{coordinator}");
    let listeners = slipway_dispatcher::Listeners::bind(&config).await?;
    config.public_url = format!("http://{}", listeners.rest.local_addr()?);
    config.fleet.dispatcher = format!("https://{}", listeners.grpc.local_addr()?);
    config.fleet.directory = dir.join("fleet");
    config.fleet.command = vec![
        options.router_binary.display().to_string(),
        "agent".to_owned(),
    ];
    let sources = options.allowed_sources.iter().map(|s| s.as_str().into());
    let agent = &mut config.fleet.agent;
    agent.insert(
        "allowed_sources".to_owned(),
        toml::Value::Array(sources.collect()),
    );
    let socket = dir.join("cache/cache.sock").display().to_string();
    agent.insert("cache".to_owned(), socket.into());
    let mut parts = slipway_dispatcher::parts(&config, db.clone()).await?;
    let fleet = parts.settings.fleet.clone();
    if let Some(source) = &options.source {
        parts.source = Arc::clone(source);
    }
    Ok((parts, listeners, fleet))
}

/// The pool of process agents that `--max-agents` asks for.
async fn pool(options: &Options, db: &Db, clock: &Clock) -> anyhow::Result<()> {
    let now = clock.now();
    if options.max_agents == 0 {
        db.remove_pool(LOCAL_POOL, now).await?;
        return Ok(());
    }
    let settings: slipway_core::fleet::PoolSettings = serde_json::from_value(serde_json::json!({
        "provider": {"kind": "process"},
        "max": options.max_agents,
        "slots": options.slots.max(1),
    }))?;
    settings.check()?;
    let text = serde_json::to_string(&settings)?;
    Ok(db.put_pool(LOCAL_POOL, &text, None, now).await?)
}

fn cache(dir: &Path, socket: &Path, shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut config: slipway_cache::Config =
        slipway_daemon::config::load(slipway_cache::DEFAULT_CONFIG, None, "CACHE")?;
    config.directory = dir.join("cache");
    config.socket = socket.to_owned();
    config.health_address = String::new();
    std::fs::create_dir_all(&config.directory)?;
    let stop = shutdown.child();
    shutdown.spawn("cache", async move {
        if let Err(error) = slipway_cache::run(config, stop).await {
            tracing::error!("the cache daemon stopped: {error:#}");
        }
    });
    Ok(())
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one agent, used once"
)]
async fn agent(
    options: &Options,
    dir: &Path,
    number: u32,
    db: &Db,
    authority: &Authority,
    grpc: SocketAddr,
    cache: &Path,
    clock: &Clock,
    rng: &Rng,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let own = dir.join(format!("agent-{number}"));
    std::fs::create_dir_all(&own)?;
    let mut config = slipway_agent::config::Config::in_dir(&own);
    config.dispatcher = format!("https://{grpc}");
    config.cache = cache.to_owned();
    config.slots = options.slots;
    config.name = format!("agent-{number}");
    config.allowed_sources.clone_from(&options.allowed_sources);
    if !own.join(slipway_agent::IDENTITY_FILE).exists() {
        let join = token::mint(Kind::Join, rng);
        let hash = token::hash(Kind::Join, &join).context("a fresh token is a token")?;
        let now = clock.now();
        db.insert_join_token(&hash, "{}", 1, now.after(JOIN_LIFE), now)
            .await?;
        config.join_token = JoinToken::new(&join, &authority.fingerprint()).text();
    }
    let mut parts = slipway_agent::Parts::real();
    if let Some(sandbox) = &options.sandbox {
        parts.sandbox = Some(Arc::clone(sandbox));
        parts.content = false;
    }
    let stop = shutdown.child();
    shutdown.spawn("agent", async move {
        if let Err(error) = slipway_agent::serve(config, parts, stop).await {
            tracing::error!("the agent stopped: {error:#}");
        }
    });
    Ok(())
}

/// Starts the router as a process of its own, or adopts the one that is alive.
async fn router(binary: &Path, dir: &Path, socket: &Path) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    if tokio::net::UnixStream::connect(socket).await.is_ok() {
        tracing::info!("the router is alive already");
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("router.log"))?;
    let mut child = std::process::Command::new(binary)
        .arg("router")
        .arg("--state-dir")
        .arg(dir)
        .arg("--control-socket")
        .arg(socket)
        .args(["--health-address", ""])
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: what stops us must not touch traffic.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {} router", binary.display()))?;
    let up = tokio::time::timeout(ROUTER_PATIENCE, async {
        while tokio::net::UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if up.await.is_err() {
        let ended = child.try_wait()?;
        anyhow::bail!(
            "the router did not come up ({ended:?}); see {}",
            dir.join("router.log").display()
        );
    }
    // Reaped by whoever outlives it; nobody waits for the router.
    std::mem::forget(child);
    Ok(())
}

async fn register(
    db: &Db,
    environment: &Environment,
    router: &Path,
    clock: &Clock,
    rng: &Rng,
) -> anyhow::Result<()> {
    let target = serde_json::json!({
        "kind": "docker",
        "router": format!("unix://{}", router.display()),
        "listen": environment.listen.to_string(),
    });
    let now = clock.now();
    db.ensure_environment(
        &rng.ulid(now),
        &environment.name,
        &target.to_string(),
        "{}",
        now,
    )
    .await?;
    Ok(())
}

/// Binds a free port on loopback and lets it go: for addresses that others will listen on.
///
/// # Errors
/// When there is none.
pub async fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
