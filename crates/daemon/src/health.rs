//! The health and metrics port of a process: `/healthz` (alive), `/readyz` (may take work, with the
//! reasons when not), `/metrics` (OpenMetrics text). Loopback only unless configured otherwise; and
//! however configured, metrics are told to this host alone: nobody else could show who they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;

use crate::listen::Peer;

/// What this process says about itself. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    troubles: Arc<Mutex<BTreeMap<&'static str, String>>>,
    registry: Arc<Mutex<Registry>>,
}

impl Health {
    /// Healthy, with no metrics yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that `part` cannot work now, and why.
    pub fn degraded(&self, part: &'static str, reason: impl Into<String>) {
        self.troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part, reason.into());
    }

    /// Says that `part` works again.
    pub fn recovered(&self, part: &'static str) {
        self.troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(part);
    }

    /// The present troubles, by part.
    #[must_use]
    pub fn troubles(&self) -> BTreeMap<&'static str, String> {
        self.troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Registers metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The routes of the health port.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let troubles = health.troubles();
    if troubles.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let lines = troubles
        .iter()
        .map(|(part, why)| format!("{part}: {why}\n"))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines)
}

async fn metrics(State(health): State<Health>, peer: Option<Extension<Peer>>) -> impl IntoResponse {
    let here = |Extension(Peer(address)): Extension<Peer>| address.to_canonical().is_loopback();
    if !peer.is_some_and(here) {
        let text = "metrics_are_local: metrics are told to this host alone, because this port knows no \
                    tokens; scrape them from a collector on the same host\n";
        return (StatusCode::UNAUTHORIZED, text).into_response();
    }
    let mut text = String::new();
    let registry = health
        .registry
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => (
            StatusCode::OK,
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn asked(path: &str, from: Option<&str>) -> StatusCode {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        if let Some(address) = from {
            let address: IpAddr = address.parse().unwrap();
            request.extensions_mut().insert(Peer(address));
        }
        let answer = Health::new().routes().oneshot(request).await;
        answer.unwrap().status()
    }

    #[tokio::test]
    async fn hostile_h084_metrics_are_told_to_this_host_alone() {
        for here in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(
                asked("/metrics", Some(here)).await,
                StatusCode::OK,
                "{here}"
            );
        }
        for other in [Some("10.0.0.1"), Some("2606:50c0::1"), None] {
            let refused = StatusCode::UNAUTHORIZED;
            assert_eq!(asked("/metrics", other).await, refused, "{other:?}");
            // Whether it is alive is no secret: a load balancer asks.
            assert_eq!(asked("/healthz", other).await, StatusCode::OK);
        }
    }
}
