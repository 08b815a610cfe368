//! Control over mutual TLS: who this router is, and that nobody but a coordinator of its installation is answered.
//!
//! The same authority as the rest of the installation: the router joins with a token, is given a certificate of its
//! role, and renews it. So a user copies one token and no certificate, and a coordinator that is revoked or
//! replaced needs nothing here. Whose call it is says the table (role, method) in core, before every call.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_identity::{Connections, Establish, Guard, Incoming};
use slipway_proto::v1::router_server::RouterServer;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::control::Control;
use crate::services::Services;

/// Key and certificate, below the state folder.
pub const IDENTITY_FILE: &str = "identity.pem";

/// Answers coordinators until `leaving`. Traffic does not wait for it: without a certificate yet, or with an address
/// that is still the process's before this one, it is tried on.
///
/// # Errors
/// When joining was refused, or the kept identity cannot be used.
pub(crate) async fn serve(
    config: Config,
    services: Arc<Services>,
    clock: Clock,
    rng: Rng,
    leaving: Shutdown,
) -> anyhow::Result<()> {
    let establish = Establish {
        role: PeerRole::Router,
        file: config.state_dir.join(IDENTITY_FILE),
        dispatchers: config
            .dispatcher
            .split(',')
            .map(|at| at.trim().to_owned())
            .collect(),
        join_token: &config.join_token,
        name: &name(&config.state_dir),
    };
    let Some(own) = establish.run(&clock, &rng, &leaving).await? else {
        return Ok(());
    };
    let Some(listener) = listener(&config.control_address, &leaving).await else {
        return Ok(());
    };
    tracing::info!(address = config.control_address, "control over TLS");
    let control = RouterServer::new(Control::new(services))
        .max_decoding_message_size(slipway_proto::DECODE_MAX);
    let incoming = Incoming::start(listener, own.server()?, Connections::new(), &leaving);
    tonic::transport::Server::builder()
        .max_concurrent_streams(Some(slipway_proto::STREAMS_MAX))
        .layer(Guard::new(clock))
        .add_service(control)
        .serve_with_incoming_shutdown(incoming, async move {
            leaving.cancelled().await;
        })
        .await
        .context("control over TLS failed")
}

/// A display name: routers are told apart by their hosts.
fn name(state: &Path) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() {
        state.display().to_string()
    } else {
        host.to_owned()
    }
}

/// Opens the address. At a hand-over the process before this one lets it go a moment later.
async fn listener(address: &str, leaving: &Shutdown) -> Option<TcpListener> {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(error) => tracing::warn!(address, %error, "cannot listen for control yet"),
        }
        tokio::select! {
            () = leaving.cancelled() => return None,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Between two tries to open the address.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(200);
