//! The composition root of the router.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use slipway_daemon::health::Health;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_proto::v1::router_server::RouterServer;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::control::Control;
use crate::hand_over::{self, Offer};
use crate::metrics::Traffic;
use crate::proxy::{Proxy, TcpListeners, Threads};
use crate::services::Services;
use crate::state_file::StateFile;
use crate::tls::Tls;

/// How long the address of health may be another's at a hand-over.
const HEALTH_AGAIN: Duration = Duration::from_millis(100);
const HEALTH_TRIES: u32 = 50;

/// What the process shares with its parts; tests bring their own.
#[derive(Clone)]
pub struct Parts {
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// What the process says about itself.
    pub health: Health,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            rng: Rng::system(),
            health: Health::new(),
        }
    }
}

/// Runs the router until `shutdown`.
///
/// # Errors
/// When the state folder, the control socket or the health address cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    serve(config, Parts::default(), shutdown).await
}

/// Runs the router with these parts until `shutdown`.
///
/// # Errors
/// When the state folder, a certificate, the control socket or the health address cannot be used.
pub async fn serve(config: Config, parts: Parts, shutdown: Shutdown) -> anyhow::Result<()> {
    let file = StateFile::open(&config.state_dir)
        .with_context(|| format!("cannot use the state folder {}", config.state_dir.display()))?;
    let tls = Tls::load(&config.tls)?;
    let boot_id = parts.rng.ulid(parts.clock.now());
    let services = Arc::new(Services::new(parts.clock.clone(), boot_id, file));
    let (traffic, leaving) = (shutdown.child(), shutdown.child());
    let (handed, predecessor) = hand_over::take_over(&config.state_dir).await?.unzip();
    if let Some(predecessor) = predecessor {
        services.follows(predecessor);
    }
    let log = AccessLog::open(&config.access_log, &traffic).with_context(|| {
        format!(
            "cannot write the access log {}",
            config.access_log.display()
        )
    })?;
    let proxy = Proxy {
        services: Arc::clone(&services),
        limits: config.limits,
        rng: parts.rng.clone(),
        log: log.clone(),
    };
    let handed = handed.unwrap_or_default();
    let threads = Threads::start(config.threads).context("cannot start the threads of traffic")?;
    let listeners = {
        let (traffic, leaving) = (traffic.clone(), leaving.clone());
        TcpListeners::new(proxy, tls.clone(), handed, threads, traffic, leaving)
    };
    for trouble in services.restore(Box::new(listeners)).await {
        tracing::error!(trouble, "state was not whole");
        parts.health.degraded("state", trouble);
    }
    parts.health.register(|registry| {
        registry.register_collector(Box::new(Traffic {
            services: Arc::clone(&services),
            log,
        }));
    });
    let (listener, offering) = take_place(&config, &parts, &services, &leaving, &shutdown).await?;
    let guarded = crate::guard::guard(Arc::clone(&services), shutdown.clone());
    shutdown.spawn("guard", guarded);
    let renewing = tls.renew(parts.health.clone(), shutdown.clone());
    shutdown.spawn("certificates", renewing);
    if !config.control_address.is_empty() {
        remote_control(&config, &parts, &services, &leaving);
    }
    let served = answer(Arc::clone(&services), listener, leaving.clone()).await;
    if leaving.has_begun() && !shutdown.has_begun() {
        leave(&traffic, config.limits.long_lived_grace(), &shutdown).await;
    } else {
        // Nobody is to come for sockets that are being closed.
        let _ended = offering.await;
        services.freeze().await.leave();
        let _gone = std::fs::remove_file(config.socket());
    }
    traffic.begin();
    if !traffic.drained(config.limits.stop()).await {
        tracing::warn!("requests were cut when the router stopped");
    }
    served.context("the control socket failed")
}

/// Control from other hosts. What keeps it from being answered is said in health; traffic goes on.
fn remote_control(config: &Config, parts: &Parts, services: &Arc<Services>, leaving: &Shutdown) {
    let (clock, rng) = (parts.clock.clone(), parts.rng.clone());
    let (services, health) = (Arc::clone(services), parts.health.clone());
    let served = crate::remote::serve(config.clone(), services, clock, rng, leaving.clone());
    leaving.spawn("control over TLS", async move {
        if let Err(error) = served.await {
            tracing::error!("no control from other hosts: {error:#}");
            health.degraded("control", format!("{error:#}"));
        }
    });
}

/// Opens what others find this router by, and lets the process before this one leave.
async fn take_place(
    config: &Config,
    parts: &Parts,
    services: &Arc<Services>,
    leaving: &Shutdown,
    shutdown: &Shutdown,
) -> anyhow::Result<(UnixListener, JoinHandle<Option<()>>)> {
    let follows = services.predecessor().is_some();
    let (address, token) = (&config.health_address, &config.metrics_token);
    if !follows {
        parts.health.serve(address, token, leaving).await?;
    }
    let socket = config.socket();
    let listener = control_socket(&socket, follows)
        .await
        .with_context(|| format!("cannot open the control socket {}", socket.display()))?;
    let (services, leaves) = (Arc::clone(services), leaving.clone());
    let offered = Offer::new(&config.state_dir, private_socket, services, leaves);
    let offered = offered.context("cannot open the socket of hand-overs")?;
    if let Some(predecessor) = offered.services().predecessor() {
        predecessor.ready().await?;
        watched(config, parts, leaving).await?;
    }
    let offering = hand_over::offer(offered, shutdown.clone());
    let offering = shutdown.spawn("hand-over", offering);
    tracing::info!(socket = %socket.display(), follows, "router ready");
    Ok((listener, offering))
}

/// Health and metrics after a hand-over: the process before this one may need a moment to let the address
/// go. Without one, an address that is taken is an error at once.
async fn watched(config: &Config, parts: &Parts, leaving: &Shutdown) -> anyhow::Result<()> {
    let (address, token) = (&config.health_address, &config.metrics_token);
    let mut tries = 0;
    loop {
        match parts.health.serve(address, token, leaving).await {
            Err(error) if tries >= HEALTH_TRIES => return Err(error),
            Err(_) => tries += 1,
            Ok(()) => return Ok(()),
        }
        tokio::time::sleep(HEALTH_AGAIN).await;
    }
}

/// Answers the coordinator until `leaving`.
async fn answer(
    services: Arc<Services>,
    listener: UnixListener,
    leaving: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let control = RouterServer::new(Control::new(services))
        .max_decoding_message_size(slipway_proto::DECODE_MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(Some(slipway_proto::STREAMS_MAX))
        .add_service(control)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            leaving.cancelled().await;
        })
        .await
}

/// Answers what this process still has, for as long as long-lived connections are granted.
async fn leave(traffic: &Shutdown, grace: Duration, shutdown: &Shutdown) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        all = traffic.drained(grace) => tracing::info!(all, "the newer process has all traffic"),
    }
}

/// The control socket. One that nobody answers on is a left-over; one that answers is another router's,
/// and two must not share a state file unless the newer one takes over.
async fn control_socket(path: &Path, follows: bool) -> anyhow::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if !follows && tokio::net::UnixStream::connect(path).await.is_ok() {
        anyhow::bail!("another router answers there; stop it first");
    }
    Ok(private_socket(path)?)
}

/// A socket that only this user can open, instead of whatever has this name.
fn private_socket(path: &Path) -> std::io::Result<UnixListener> {
    // Bound under a name that nobody knows, closed to others, and only then given its own name.
    let staging = path.with_extension("new");
    let _left_over = std::fs::remove_file(&staging);
    let listener = UnixListener::bind(&staging)?;
    std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&staging, path)?;
    Ok(listener)
}
