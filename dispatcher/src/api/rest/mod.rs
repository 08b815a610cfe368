//! REST: the required endpoints, and what a client needs around them. Every route has its row in the
//! OpenAPI document, because the routes are made out of the same declarations.
//!
//! Base `/api/v1`; the bare paths are aliases of the same handlers. Errors are RFC 9457. POSTs take
//! an `Idempotency-Key`.

pub mod agents;
pub mod artifacts;
pub mod body;
pub mod builds;
pub mod coordinator;
pub mod deployments;
pub mod flags;
pub mod idempotency;
pub mod logs;
pub mod page;
pub mod pools;
pub mod repositories;
pub mod time;
pub mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::authenticate;
use super::problem::Problem;
use crate::state::App;

/// Requests at once on this listener.
const AT_ONCE: usize = 512;

fn authenticated() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(builds::create, builds::list))
        .routes(routes!(builds::show))
        .routes(routes!(builds::stages))
        .routes(routes!(builds::tests))
        .routes(routes!(builds::cancel))
        .routes(routes!(builds::retry))
        .routes(routes!(logs::show))
        .routes(routes!(artifacts::list))
        .routes(routes!(artifacts::download))
        .routes(routes!(deployments::create, deployments::list))
        .routes(routes!(deployments::show))
        .routes(routes!(deployments::actions::approve))
        .routes(routes!(deployments::actions::reject))
        .routes(routes!(deployments::actions::rollback))
        .routes(routes!(deployments::actions::abort))
        .routes(routes!(deployments::actions::pause))
        .routes(routes!(deployments::actions::resume))
        .routes(routes!(deployments::actions::promote))
        .routes(routes!(deployments::actions::retry))
        .routes(routes!(deployments::told::replay))
        .routes(routes!(deployments::events))
        .routes(routes!(deployments::health))
        .routes(routes!(deployments::environments))
        .routes(routes!(flags::create, flags::list))
        .routes(routes!(flags::status))
        .routes(routes!(flags::change, flags::remove))
        .routes(routes!(repositories::create, repositories::list))
        .routes(routes!(repositories::create_hook))
        .routes(routes!(repositories::deliveries))
        .routes(routes!(repositories::replay))
        // Two paths, two declarations: one declaration would put both on the path of the first.
        .routes(routes!(repositories::secret_names))
        .routes(routes!(repositories::put_secret))
        .routes(routes!(agents::list))
        .routes(routes!(agents::drain))
        .routes(routes!(agents::resume))
        .routes(routes!(pools::list))
        .routes(routes!(pools::show, pools::put, pools::remove))
        .routes(routes!(pools::explain))
        .routes(routes!(pools::metric))
        .routes(routes!(agents::create_join_token))
        .routes(routes!(agents::remove))
        .routes(routes!(agents::queue))
        .routes(routes!(agents::queue_explain))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::audit))
}

/// The OpenAPI document.
#[must_use]
pub fn openapi() -> OpenApi {
    let (_, api) = documented();
    api
}

fn documented() -> (Router<Arc<App>>, OpenApi) {
    let base = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Slipway")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("Builds software and launches it."))
                .build(),
        )
        .build();
    let (router, mut api) = OpenApiRouter::with_openapi(base)
        .nest("/api/v1", authenticated())
        .split_for_parts();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    api.components
        .get_or_insert_default()
        .add_security_scheme("token", scheme);
    (router, api)
}

/// All routes of the REST listener.
pub fn routes(app: Arc<App>) -> Router {
    let (versioned, _) = documented();
    let (bare, _) = authenticated().split_for_parts();
    let guarded = versioned
        .merge(bare)
        .layer(from_fn_with_state(Arc::clone(&app), idempotency::once))
        .layer(from_fn_with_state(Arc::clone(&app), authenticate));
    Router::new()
        .merge(guarded)
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/api/openapi.json", get(|| async { axum::Json(openapi()) }))
        .route("/schema/pipeline.v1.json", get(schema))
        .fallback(|| async { Problem::not_found("page") })
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        .layer(from_fn(headers))
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(AT_ONCE))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> impl IntoResponse {
    let troubles = app.health.troubles();
    let status = if troubles.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        axum::Json(serde_json::json!({"troubles": troubles})),
    )
}

async fn schema() -> impl IntoResponse {
    axum::Json(slipway_core::pipeline::json_schema())
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    tracing::error!("a handler panicked");
    let detail = "something is wrong on the server; its log says what";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
}

/// Answers are data: nothing in them may be executed by a browser.
async fn headers(
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    use axum::http::{HeaderValue, header};
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
