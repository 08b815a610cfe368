//! Joining and renewing.

use std::sync::Arc;

use slipway_identity::guard::peer_of;
use slipway_proto::v1::identities_server::Identities;
use slipway_proto::v1::{CertificateResponse, JoinRequest, RenewRequest};
use tonic::{Request, Response, Status};

use crate::api::auth;
use crate::state::App;
use crate::usecases::join_peer::{JoinError, join_peer, renew_peer};

/// The service.
pub(super) struct IdentitiesService {
    app: Arc<App>,
}

impl IdentitiesService {
    /// Over the shared parts.
    #[must_use]
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    fn answer(
        &self,
        issued: Result<Vec<u8>, JoinError>,
    ) -> Result<Response<CertificateResponse>, Status> {
        Ok(Response::new(CertificateResponse {
            certificate: issued.map_err(|e| refused(&e))?,
            authority: self.app.authority.certificate().to_vec(),
        }))
    }
}

fn refused(error: &JoinError) -> Status {
    match error {
        JoinError::Token(_) | JoinError::Revoked(_) => Status::unauthenticated(error.to_string()),
        JoinError::Request(_) => Status::invalid_argument(error.to_string()),
        JoinError::Store(error) => auth::unavailable(error),
    }
}

#[tonic::async_trait]
impl Identities for IdentitiesService {
    async fn join(
        &self,
        request: Request<JoinRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let asked = request.into_inner();
        let (token, name, csr) = (&asked.join_token, &asked.name, &asked.certificate_request);
        let issued = join_peer(&self.app, token, name, csr).await;
        if let Err(JoinError::Token(word)) = &issued {
            // Somebody tries tokens, or an administrator copied half of one.
            tracing::warn!(reason = word, "a join token was refused");
        }
        self.answer(issued)
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let peer = peer_of(&request)
            .cloned()
            .ok_or_else(|| Status::unauthenticated("connect with a certificate"))?;
        let csr = request.into_inner().certificate_request;
        let issued = renew_peer(&self.app, &peer, &csr).await;
        self.answer(issued)
    }
}
