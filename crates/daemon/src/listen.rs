//! The one HTTP listener that every port uses.
//!
//! `axum::serve` installs no timer, so hyper's header time-out does nothing there and a slow sender
//! holds a connection for ever (H-010). This one sets the timer, bounds connections, and drains.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::shutdown::Shutdown;

/// What one listener bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a client may take to send its request head.
    pub header_timeout: Duration,
    /// Connections at once; further ones wait in the kernel's queue.
    pub connections: usize,
    /// How long open requests may take once stopping was asked for.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            connections: 10_000,
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves `router` on `listener` until shutdown, then drains.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = shutdown.child();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let service = router.clone().layer(axum::Extension(Peer(peer.ip())));
                let stop = shutdown.clone();
                connections.spawn("http connection", async move {
                    connection(stream, service, limits, &stop).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors: yield until some are back instead of spinning.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    if !connections.drained(limits.drain).await {
        tracing::warn!("requests were cut at the drain limit");
    }
}

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub std::net::IpAddr);

async fn connection(stream: TcpStream, router: Router, limits: Limits, shutdown: &Shutdown) {
    // Small answers matter more than full packets.
    let _best_effort = stream.set_nodelay(true);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64);
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn hostile_h010_a_slow_header_is_cut_and_shutdown_drains() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let limits = Limits {
            header_timeout: Duration::from_millis(100),
            ..Limits::default()
        };
        let router = Router::new().route("/", axum::routing::get(|| async { "ok" }));
        let served = crate::spawn(
            "test listener",
            serve(listener, router, limits, shutdown.clone()),
        );

        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ")
            .await
            .unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "the slow connection was never closed");
        assert!(!rest.starts_with(b"HTTP/1.1 200"));

        shutdown.begin();
        assert!(
            tokio::time::timeout(Duration::from_secs(5), served)
                .await
                .is_ok()
        );
    }
}
