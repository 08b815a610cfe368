//! The health and metrics port of a process: `/healthz` (alive), `/readyz` (may take work, with the
//! reasons when not), `/metrics` (OpenMetrics text). Loopback only unless configured otherwise. Metrics
//! are told to this host, and to whoever brings the token of the settings.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use slipway_core::digest::Digest;
use tokio::net::TcpListener;

use crate::listen::{self, Limits, Peer};
use crate::shutdown::Shutdown;

/// What this process says about itself. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    troubles: Arc<Mutex<BTreeMap<&'static str, String>>>,
    registry: Arc<Mutex<Registry>>,
    /// What a collector on another host brings.
    token: Arc<OnceLock<String>>,
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

    /// Serves until shutdown; an empty address serves nothing. `token` is what a collector on another
    /// host brings as its bearer value; empty = only this host is told metrics.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(
        &self,
        address: &str,
        token: &str,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        self.tell_metrics_to(token);
        if address.is_empty() {
            return Ok(());
        }
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on health_address {address}"))?;
        let stop = shutdown.clone();
        let serving = listen::serve(listener, self.routes(), Limits::default(), stop);
        shutdown.spawn("health", serving);
        Ok(())
    }

    /// The token of a collector on another host; empty = none, and a second one changes nothing.
    pub fn tell_metrics_to(&self, token: &str) {
        if !token.is_empty() {
            let _first_stays = self.token.set(token.to_owned());
        }
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let brought = headers.get(header::AUTHORIZATION);
        let brought = brought.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let known = self.token.get();
        brought.zip(known).is_some_and(|(brought, known)| {
            // Digests: how far they agree says nothing about how far the tokens do.
            Digest::of(brought) == Digest::of(known.as_bytes())
        })
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

async fn metrics(
    State(health): State<Health>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let here = |Extension(Peer(address)): Extension<Peer>| address.to_canonical().is_loopback();
    if !peer.is_some_and(here) && !health.knows(&headers) {
        let text = "metrics_token: a collector on another host brings `metrics_token` of this process's \
                    settings as its bearer token\n";
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
        asked_with(&Health::new(), path, from, "").await
    }

    async fn asked_with(
        health: &Health,
        path: &str,
        from: Option<&str>,
        token: &str,
    ) -> StatusCode {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        let mut request = request.body(Body::empty()).unwrap();
        if let Some(address) = from {
            let address: IpAddr = address.parse().unwrap();
            request.extensions_mut().insert(Peer(address));
        }
        let answer = health.routes().oneshot(request).await;
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

    #[tokio::test]
    async fn a_collector_elsewhere_brings_the_token_of_the_settings() {
        let health = Health::new();
        health.tell_metrics_to("");
        let from = Some("10.0.0.1");
        let refused = StatusCode::UNAUTHORIZED;
        assert_eq!(asked_with(&health, "/metrics", from, "").await, refused);
        health.tell_metrics_to("collector-secret");
        for (token, status) in [
            ("", refused),
            ("collector", refused),
            ("collector-secret-and-more", refused),
            ("collector-secret", StatusCode::OK),
        ] {
            assert_eq!(
                asked_with(&health, "/metrics", from, token).await,
                status,
                "{token}"
            );
        }
    }
}
