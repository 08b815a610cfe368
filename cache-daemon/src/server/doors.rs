//! The agent's questions about doors for other build tools, over the same unix socket.

use std::sync::Arc;

use slipway_proto::v1::cache_doors_server::CacheDoors;
use slipway_proto::v1::{
    CloseDoorRequest, CloseDoorResponse, OpenDoorRequest, OpenDoorResponse, SettleDoorRequest,
    SettleDoorResponse,
};
use tonic::{Request, Response, Status};

use super::foreign::{Doors, OpenError, Wanted};
use super::keyed;

/// The service.
pub(super) struct Asked(pub(super) Arc<Doors>);

fn status(error: &OpenError) -> Status {
    let text = error.to_string();
    match error {
        OpenError::Nonsense(_) => Status::invalid_argument(text),
        OpenError::TooMany => Status::resource_exhausted(text),
        OpenError::Address(..) => Status::failed_precondition(text),
    }
}

#[tonic::async_trait]
impl CacheDoors for Asked {
    async fn open(
        &self,
        request: Request<OpenDoorRequest>,
    ) -> Result<Response<OpenDoorResponse>, Status> {
        let request = request.into_inner();
        let address = request.address.parse();
        let address = address.map_err(|_| Status::invalid_argument("address: it is none"))?;
        let wanted = Wanted {
            attempt: request.attempt,
            address,
            token: request.token,
            scope: keyed::scope(request.scope)?,
            read_only: request.read_only,
        };
        let at = self.0.open(wanted).await.map_err(|error| status(&error))?;
        Ok(Response::new(OpenDoorResponse {
            address: at.to_string(),
        }))
    }

    async fn close(
        &self,
        request: Request<CloseDoorRequest>,
    ) -> Result<Response<CloseDoorResponse>, Status> {
        let closed = self.0.close(&request.into_inner().attempt);
        let counted = closed.unwrap_or_default();
        Ok(Response::new(CloseDoorResponse {
            closed: closed.is_some(),
            hits: counted.hits,
            misses: counted.misses,
            entries: counted.entries,
            bytes: counted.bytes,
            refused: counted.refused,
        }))
    }

    async fn settle(
        &self,
        request: Request<SettleDoorRequest>,
    ) -> Result<Response<SettleDoorResponse>, Status> {
        let request = request.into_inner();
        let kept = self.0.settle(&request.attempt, request.keep).await;
        Ok(Response::new(SettleDoorResponse { kept }))
    }
}
