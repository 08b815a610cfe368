//! `slipway.v1.Rollouts`: commands to the coordinator.

use std::sync::Arc;

use slipway_core::rollout::Wish;
use slipway_proto::v1;
use slipway_proto::v1::rollouts_server::Rollouts;
use tonic::{Request, Response, Status};

use super::auth;
use super::status::status;
use crate::run::Coordinator;
use crate::usecases::{self, Start};

/// Answers commands.
pub(crate) struct RolloutsApi {
    coordinator: Arc<Coordinator>,
}

impl RolloutsApi {
    pub(crate) fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator }
    }

    async fn steer<T>(
        &self,
        request: &Request<T>,
        id: &str,
        wish: Wish,
    ) -> Result<Response<v1::RolloutAnswer>, Status> {
        let caller = auth::caller(&self.coordinator, request).await?;
        let done = usecases::steer(&self.coordinator, &caller, id, &wish).await;
        let row = done.map_err(|e| status(&e))?;
        Ok(Response::new(v1::RolloutAnswer { phase: row.phase }))
    }
}

#[tonic::async_trait]
impl Rollouts for RolloutsApi {
    async fn start(
        &self,
        request: Request<v1::StartRolloutRequest>,
    ) -> Result<Response<v1::StartRolloutResponse>, Status> {
        let caller = auth::caller(&self.coordinator, &request).await?;
        let asked = request.into_inner();
        let start = Start {
            idempotency_key: asked.idempotency_key,
            build_id: asked.build_id,
            repo_id: asked.repo_id,
            commit_sha: asked.commit_sha,
            environment: asked.environment,
            image: asked.image,
            deploy_json: asked.deploy_json,
            strategy: asked.strategy,
            initiator: asked.initiator,
            supersede: asked.supersede,
        };
        let started = usecases::start_rollout(&self.coordinator, &caller, start).await;
        let row = started.map_err(|e| status(&e))?;
        Ok(Response::new(v1::StartRolloutResponse {
            deployment_id: row.deployment_id,
            phase: row.phase,
            approval_status: row.approval_status,
        }))
    }

    async fn approve(
        &self,
        request: Request<v1::ApproveRequest>,
    ) -> Result<Response<v1::ApproveResponse>, Status> {
        let caller = auth::caller(&self.coordinator, &request).await?;
        let asked = request.into_inner();
        let (id, named, hash) = (&asked.deployment_id, &asked.approver_id, &asked.plan_hash);
        let done = usecases::approve(&self.coordinator, &caller, id, named, hash).await;
        let answered = done.map_err(|e| status(&e))?;
        let proceed_to_prod = answered.goes_on;
        Ok(Response::new(v1::ApproveResponse {
            approved: true,
            proceed_to_prod,
        }))
    }

    async fn reject(
        &self,
        request: Request<v1::RejectRequest>,
    ) -> Result<Response<v1::RolloutAnswer>, Status> {
        let caller = auth::caller(&self.coordinator, &request).await?;
        let asked = request.into_inner();
        let (id, reason) = (&asked.deployment_id, &asked.reason);
        let done = usecases::reject(&self.coordinator, &caller, id, reason).await;
        let row = done.map_err(|e| status(&e))?;
        Ok(Response::new(v1::RolloutAnswer { phase: row.phase }))
    }

    async fn abort(
        &self,
        request: Request<v1::AbortRequest>,
    ) -> Result<Response<v1::RolloutAnswer>, Status> {
        let asked = request.get_ref().clone();
        let wish = Wish::Abort {
            reason: asked.reason,
        };
        self.steer(&request, &asked.deployment_id, wish).await
    }

    async fn roll_back(
        &self,
        request: Request<v1::RollBackRequest>,
    ) -> Result<Response<v1::RollBackResponse>, Status> {
        let caller = auth::caller(&self.coordinator, &request).await?;
        let asked = request.into_inner();
        let (id, reason, to) = (&asked.deployment_id, &asked.reason, &asked.to);
        let done = usecases::roll_back(&self.coordinator, &caller, id, reason, to).await;
        let back = done.map_err(|e| status(&e))?;
        Ok(Response::new(v1::RollBackResponse {
            rolled_back_to_version: back.version,
            deployment_id: back.deployment,
        }))
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::RolloutAnswer>, Status> {
        let asked = request.get_ref().clone();
        let wish = Wish::Promote { full: asked.full };
        self.steer(&request, &asked.deployment_id, wish).await
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::RolloutAnswer>, Status> {
        let asked = request.get_ref().clone();
        let wish = Wish::Pause {
            reason: asked.reason,
        };
        self.steer(&request, &asked.deployment_id, wish).await
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeRequest>,
    ) -> Result<Response<v1::RolloutAnswer>, Status> {
        let asked = request.get_ref().clone();
        self.steer(&request, &asked.deployment_id, Wish::Resume)
            .await
    }
}
