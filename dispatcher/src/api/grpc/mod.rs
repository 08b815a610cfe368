//! gRPC: the agents' conversation, logs, and the operators' view.

pub mod admin;
pub mod agents;
mod artifacts;
mod hello;
mod identities;
mod leader;
pub mod logs;
mod scaler;

use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::Shutdown;
use slipway_identity::{Guard, Incoming};
use slipway_proto::v1::admin_server::AdminServer;
use slipway_proto::v1::agents_server::AgentsServer;
use slipway_proto::v1::identities_server::IdentitiesServer;
use slipway_proto::v1::logs_server::LogsServer;
use slipway_proto::{CONTROL_MESSAGE_MAX, DECODE_MAX, DESCRIPTORS, STREAMS_MAX};
use tokio::net::TcpListener;

use crate::state::App;

/// A half-open connection is noticed after this much silence and an unanswered ping.
const PING: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest header list of a call.
const HEADERS_MAX: u32 = 16 * 1024;

/// Serves until shutdown.
///
/// # Errors
/// When the listener fails.
pub async fn serve(app: Arc<App>, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<AgentsServer<agents::AgentsService>>()
        .await;
    health
        .set_serving::<AdminServer<admin::AdminService>>()
        .await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
    let (tls, connections) = (app.own.server()?, app.connections.clone());
    let incoming = Incoming::start(listener, tls, connections, &shutdown);
    let guard = Guard::new(app.clock.clone());
    let identities = IdentitiesServer::new(identities::IdentitiesService::new(Arc::clone(&app)))
        .max_decoding_message_size(CONTROL_MESSAGE_MAX);
    let agents = AgentsServer::new(agents::AgentsService::new(Arc::clone(&app)))
        .max_decoding_message_size(DECODE_MAX);
    let logs = LogsServer::new(logs::LogsService::new(Arc::clone(&app)))
        .max_decoding_message_size(DECODE_MAX);
    let scaler = scaler::server(Arc::clone(&app));
    let admin =
        AdminServer::new(admin::AdminService::new(app)).max_decoding_message_size(DECODE_MAX);
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(STREAMS_MAX as usize)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .http2_max_header_list_size(HEADERS_MAX)
        .layer(guard)
        .add_service(health_service)
        .add_service(identities)
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(agents)
        .add_service(logs)
        .add_service(admin)
        .add_service(scaler)
        .serve_with_incoming_shutdown(incoming, async move {
            shutdown.cancelled().await;
        })
        .await?;
    Ok(())
}
