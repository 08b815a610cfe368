//! The composition root of the router.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use slipway_daemon::health::Health;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_proto::v1::router_server::RouterServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::control::Control;
use crate::metrics::Traffic;
use crate::proxy::{Proxy, TcpListeners};
use crate::services::Services;
use crate::state_file::StateFile;
use crate::tls::Tls;

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
    let traffic = shutdown.child();
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
    let listeners = TcpListeners::new(proxy, tls.clone(), traffic.clone());
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
    let token = &config.metrics_token;
    parts
        .health
        .serve(&config.health_address, token, &shutdown)
        .await?;

    let socket = config.socket();
    let listener = control_socket(&socket)
        .await
        .with_context(|| format!("cannot open the control socket {}", socket.display()))?;
    let guarded = crate::guard::guard(Arc::clone(&services), shutdown.clone());
    shutdown.spawn("guard", guarded);
    let renewing = tls.renew(parts.health.clone(), shutdown.clone());
    shutdown.spawn("certificates", renewing);
    let control = RouterServer::new(Control::new(services))
        .max_decoding_message_size(slipway_proto::DECODE_MAX);
    tracing::info!(socket = %socket.display(), "router ready");
    let stop = shutdown.clone();
    let served = tonic::transport::Server::builder()
        .max_concurrent_streams(Some(slipway_proto::STREAMS_MAX))
        .add_service(control)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
            stop.cancelled().await;
        })
        .await;
    traffic.begin();
    if !traffic.drained(config.limits.stop()).await {
        tracing::warn!("requests were cut when the router stopped");
    }
    let _gone = std::fs::remove_file(&socket);
    served.context("the control socket failed")
}

/// A socket that only this user can open. A socket that nobody answers on is a left-over; one that
/// answers is another router's, and two must not share a state file.
async fn control_socket(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        anyhow::bail!("another router answers there; stop it first");
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // Bound under a name that nobody knows, closed to others, and only then given its own name.
    let staging = path.with_extension("new");
    let _left_over = std::fs::remove_file(&staging);
    let listener = UnixListener::bind(&staging)?;
    std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&staging, path)?;
    Ok(listener)
}
