//! The control conversation: the deploy coordinator's side door, on a unix socket that only its user
//! can open, and over mutual TLS (`remote`).

use std::sync::Arc;
use std::time::Duration;

use slipway_proto::v1;
use slipway_proto::v1::router_server::Router;
use tonic::{Code, Request, Response, Status};

use crate::services::{Refused, Services};
use crate::{ask, convert};

/// Answers the coordinator.
#[derive(Clone)]
pub(crate) struct Control {
    services: Arc<Services>,
}

impl Control {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }
}

/// The only place where a refusal becomes a status.
fn status(refused: &Refused) -> Status {
    let (code, reason) = match refused {
        Refused::StaleToken { .. } => (Code::FailedPrecondition, "stale_token"),
        Refused::StaleGeneration { .. } => (Code::FailedPrecondition, "stale_generation"),
        Refused::Conflict => (Code::Aborted, "conflict"),
        Refused::Table(_) => (Code::InvalidArgument, "bad_table"),
        Refused::Tripped(..) => (Code::FailedPrecondition, "tripped"),
        Refused::NotPrepared => (Code::FailedPrecondition, "not_prepared"),
        Refused::NoService(_) => (Code::NotFound, "no_service"),
        Refused::HasWeight(_) => (Code::FailedPrecondition, "has_weight"),
        Refused::TooMany => (Code::ResourceExhausted, "too_many_services"),
        Refused::Listen { .. } => (Code::Unavailable, "cannot_listen"),
        Refused::HandedOver => (Code::Unavailable, "handed_over"),
        Refused::NotDurable(_) => (Code::Unavailable, "not_durable"),
    };
    let text = match refused {
        Refused::Table(why) => format!("{refused}: {why}"),
        _ => refused.to_string(),
    };
    let mut status = Status::new(code, text);
    status.metadata_mut().insert(
        "slipway-reason",
        tonic::metadata::MetadataValue::from_static(reason),
    );
    if let Refused::StaleToken { seen, .. } = refused {
        status
            .metadata_mut()
            .insert("slipway-seen", tonic::metadata::MetadataValue::from(*seen));
    }
    status
}

#[tonic::async_trait]
impl Router for Control {
    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::TableState>, Status> {
        let request = request.into_inner();
        let fence = convert::fence(request.fence)?;
        let table = convert::table(request.table)?;
        let reading = self
            .services
            .prepare(fence, table)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(convert::state(&reading)))
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::TableState>, Status> {
        let request = request.into_inner();
        let fence = convert::fence(request.fence)?;
        let hash = request
            .table_hash
            .parse()
            .map_err(|_| Status::invalid_argument("field `table_hash` is not a digest"))?;
        let done = self.services.commit(&request.service, fence, hash).await;
        let reading = done.map_err(|e| status(&e))?;
        tracing::info!(
            service = request.service,
            token = fence.token,
            generation = fence.generation,
            "table in use"
        );
        Ok(Response::new(convert::state(&reading)))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let request = request.into_inner();
        let deadline = Duration::from_millis(request.deadline_ms);
        let cut = self
            .services
            .drain(&request.service, &request.version, deadline)
            .await;
        let cut = cut.map_err(|e| status(&e))?;
        Ok(Response::new(v1::DrainResponse {
            cut: u32::try_from(cut).unwrap_or(u32::MAX),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::TableState>, Status> {
        let request = request.into_inner();
        let fence = convert::fence(request.fence)?;
        let done = self.services.renew(&request.service, fence).await;
        let reading = done.map_err(|e| status(&e))?;
        Ok(Response::new(convert::state(&reading)))
    }

    async fn read(
        &self,
        request: Request<v1::ReadRequest>,
    ) -> Result<Response<v1::ReadResponse>, Status> {
        let readings = self.services.read(&request.into_inner().service).await;
        Ok(Response::new(v1::ReadResponse {
            boot_id: self.services.boot_id.clone(),
            services: readings.iter().map(convert::service_state).collect(),
        }))
    }

    async fn ask(
        &self,
        request: Request<v1::AskRequest>,
    ) -> Result<Response<v1::AskResponse>, Status> {
        ask::ask(request.into_inner()).await.map(Response::new)
    }
}
