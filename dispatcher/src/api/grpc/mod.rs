//! gRPC: the agents' conversation, logs, and the operators' view.

pub mod admin;
pub mod agents;
mod artifacts;
mod hello;
pub mod logs;
mod scaler;

use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::Shutdown;
use slipway_proto::v1::admin_server::AdminServer;
use slipway_proto::v1::agents_server::AgentsServer;
use slipway_proto::v1::logs_server::LogsServer;
use slipway_proto::{DECODE_MAX, DESCRIPTORS, STREAMS_MAX};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

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
    let reflection = |v1: bool| {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        (builder, v1)
    };
    let v1 = reflection(true).0.build_v1()?;
    let v1alpha = reflection(false).0.build_v1alpha()?;
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
        .add_service(health_service)
        .add_service(v1)
        .add_service(v1alpha)
        .add_service(agents)
        .add_service(logs)
        .add_service(admin)
        .add_service(scaler)
        .serve_with_incoming_shutdown(prompt(listener), async move {
            shutdown.cancelled().await;
        })
        .await?;
    Ok(())
}

/// Small messages leave at once. The builder's own `tcp_nodelay` does nothing for connections that
/// it did not accept itself: without this an assignment waits 40 ms for the agent's delayed ACK.
fn prompt(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}
