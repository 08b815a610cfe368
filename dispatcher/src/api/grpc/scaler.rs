//! KEDA asks how many agents a pool wants (triggers `external` and `external-push`). The trigger names the
//! pool, and brings the token of a reader: KEDA sends no other credential.
//!
//! The metric is the number of agents that are wanted, with a target of 1 each: a `ScaledJob` subtracts
//! those that it has started already.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use slipway_core::access::Deed;
use slipway_core::fleet::PoolReport;
use slipway_identity::Connection;
use slipway_proto::DECODE_MAX;
use slipway_proto::keda::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use slipway_proto::keda::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec,
    MetricValue, ScaledObjectRef,
};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::api::auth;
use crate::state::App;

/// The one metric there is.
const METRIC: &str = "slipway-agents";

/// The service.
pub(super) struct Scaler {
    app: Arc<App>,
}

/// Over the shared parts.
pub(super) fn server(app: Arc<App>) -> ExternalScalerServer<Scaler> {
    ExternalScalerServer::new(Scaler { app }).max_decoding_message_size(DECODE_MAX)
}

type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Scaler {
    /// The pool of a trigger whose token may read it.
    async fn pool(&self, of: &ScaledObjectRef, from: Option<IpAddr>) -> Result<String, Status> {
        let refused = || Status::unauthenticated("the trigger's `token` is no token of a reader");
        let token = of.scaler_metadata.get("token").ok_or_else(refused)?;
        let mut headers = http::HeaderMap::new();
        let bearer = format!("Bearer {token}").parse().map_err(|_| refused())?;
        headers.insert(http::header::AUTHORIZATION, bearer);
        let address = from.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let person = auth::person(&self.app, &headers, address).await;
        let person = person.map_err(|problem| match problem.status {
            503 => Status::unavailable(problem.detail.clone()),
            _ => refused(),
        })?;
        person
            .must(Deed::Read)
            .map_err(|problem| Status::permission_denied(problem.detail.clone()))?;
        let pool = of.scaler_metadata.get("pool").cloned().unwrap_or_default();
        let pools = self.app.db.pools().await;
        let pools = pools.map_err(|e| auth::unavailable(&e))?;
        if pools.iter().any(|row| row.pool == pool) {
            return Ok(pool);
        }
        Err(Status::not_found("the trigger's `pool` names no pool"))
    }

    fn desired(&self, pool: &str) -> u32 {
        let reports = self.app.fleet.reports.borrow();
        reports.get(pool).map_or(0, |report| report.desired)
    }
}

fn active(report: Option<&PoolReport>) -> IsActiveResponse {
    IsActiveResponse {
        result: report.is_some_and(|report| report.desired > 0),
    }
}

fn spec() -> GetMetricSpecResponse {
    GetMetricSpecResponse {
        metric_specs: vec![MetricSpec {
            metric_name: METRIC.to_owned(),
            target_size: 1,
            target_size_float: 1.0,
        }],
    }
}

fn from<T>(request: &Request<T>) -> Option<IpAddr> {
    request
        .extensions()
        .get::<Connection>()
        .map(|connection| connection.address.ip())
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        let pool = self.pool(request.get_ref(), from(&request)).await?;
        let reports = self.app.fleet.reports.borrow();
        Ok(Response::new(active(reports.get(&pool))))
    }

    type StreamIsActiveStream = Told<IsActiveResponse>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let pool = self.pool(request.get_ref(), from(&request)).await?;
        let reports = WatchStream::new(self.app.fleet.reports.subscribe());
        let mut last = None;
        let told = reports.filter_map(move |reports| {
            let now = active(reports.get(&pool));
            let changed = last != Some(now.result);
            last = Some(now.result);
            futures::future::ready(changed.then_some(Ok(now)))
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.pool(request.get_ref(), from(&request)).await?;
        Ok(Response::new(spec()))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let address = from(&request);
        let of = request.into_inner().scaled_object_ref.unwrap_or_default();
        let pool = self.pool(&of, address).await?;
        let desired = self.desired(&pool);
        Ok(Response::new(GetMetricsResponse {
            metric_values: vec![MetricValue {
                metric_name: METRIC.to_owned(),
                metric_value: i64::from(desired),
                metric_value_float: f64::from(desired),
            }],
        }))
    }

    type StreamMetricSpecStream = Told<GetMetricSpecResponse>;

    async fn stream_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        self.pool(request.get_ref(), from(&request)).await?;
        // Open for as long as the client wants: it takes the end of the stream for an error.
        let told = futures::stream::iter([Ok(spec())]).chain(futures::stream::pending());
        Ok(Response::new(Box::pin(told)))
    }
}
