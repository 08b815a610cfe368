//! The operators' service: what the dispatcher holds, with the planner's reasons.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use slipway_core::access::Deed;
use slipway_core::id::{AgentId, BuildId};
use slipway_core::queue::AgentState;
use slipway_identity::Connection;
use slipway_proto::v1::{self, admin_server::Admin};
use slipway_store::{BuildFilter, BuildRow, StageRow};
use tonic::{Request, Response, Status};

use crate::api::auth::{self, Person};
use crate::api::problem::Problem;
use crate::loops::scheduling::{Nudge, explain};
use crate::state::App;
use crate::usecases::cancel_build::cancel_build;

/// The service.
pub struct AdminService {
    app: Arc<App>,
}

impl AdminService {
    /// Over the shared parts.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    async fn caller<T>(&self, request: &Request<T>, deed: Deed) -> Result<Person, Status> {
        let headers = request.metadata().clone().into_headers();
        let connection = request.extensions().get::<Connection>();
        let address = connection.map_or(IpAddr::from([0, 0, 0, 0]), |c| c.address.ip());
        let person = auth::person(&self.app, &headers, address)
            .await
            .map_err(|p| refused(&p))?;
        person.must(deed).map_err(|p| refused(&p))?;
        Ok(person)
    }

    async fn view(&self, id: &BuildId) -> Result<v1::BuildView, Status> {
        let store = |e| auth::unavailable(&e);
        let build = self.app.db.build(id).await.map_err(store)?;
        let build = build.ok_or_else(|| Status::not_found("there is no such build"))?;
        let stages = self.app.db.stages(id).await.map_err(store)?;
        Ok(view(build, stages))
    }
}

fn refused(problem: &Problem) -> Status {
    match problem.status {
        401 => Status::unauthenticated(problem.detail.clone()),
        403 => Status::permission_denied(problem.detail.clone()),
        503 => Status::unavailable(problem.detail.clone()),
        _ => Status::internal(problem.detail.clone()),
    }
}

fn build_id(text: &str) -> Result<BuildId, Status> {
    text.parse()
        .map_err(|_| Status::not_found("there is no such build"))
}

fn view(build: BuildRow, stages: Vec<StageRow>) -> v1::BuildView {
    v1::BuildView {
        build_id: build.build_id,
        repo_id: build.repo_id,
        number: u64::try_from(build.number).unwrap_or(0),
        commit_sha: build.commit_sha,
        branch: build.branch,
        status: build.status,
        event: build.event,
        created_at_ms: build.created_at,
        started_at_ms: build.started_at.unwrap_or(0),
        ended_at_ms: build.ended_at.unwrap_or(0),
        stages: stages
            .into_iter()
            .map(|s| v1::StageView {
                stage_id: s.stage_id,
                name: s.stage_name,
                state: s.state,
                reason: s.reason.unwrap_or_default(),
                attempt: u32::try_from(s.attempt).unwrap_or(0),
                agent_id: s.agent_id.unwrap_or_default(),
                started_at_ms: s.started_at.unwrap_or(0),
                ended_at_ms: s.ended_at.unwrap_or(0),
            })
            .collect(),
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn list_builds(
        &self,
        request: Request<v1::ListBuildsRequest>,
    ) -> Result<Response<v1::ListBuildsResponse>, Status> {
        self.caller(&request, Deed::Read).await?;
        let request = request.into_inner();
        let filter = BuildFilter {
            repo_id: request.repo_id,
            status: request.status,
            limit: if request.limit == 0 {
                50
            } else {
                request.limit.min(200)
            },
            ..BuildFilter::default()
        };
        let rows = self.app.db.builds(&filter).await;
        let rows = rows.map_err(|e| auth::unavailable(&e))?;
        let builds = rows.into_iter().map(|b| view(b, Vec::new())).collect();
        Ok(Response::new(v1::ListBuildsResponse { builds }))
    }

    async fn get_build(
        &self,
        request: Request<v1::GetBuildRequest>,
    ) -> Result<Response<v1::BuildView>, Status> {
        self.caller(&request, Deed::Read).await?;
        let id = build_id(&request.into_inner().build_id)?;
        self.view(&id).await.map(Response::new)
    }

    async fn cancel_build(
        &self,
        request: Request<v1::CancelBuildRequest>,
    ) -> Result<Response<v1::BuildView>, Status> {
        let person = self.caller(&request, Deed::SteerBuild).await?;
        let id = build_id(&request.into_inner().build_id)?;
        self.view(&id).await?;
        let reason = format!("cancelled by {}", person.caller.subject);
        cancel_build(&self.app, &id, &reason)
            .await
            .map_err(|e| auth::unavailable(&e))?;
        self.view(&id).await.map(Response::new)
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        self.caller(&request, Deed::Read).await?;
        let rows = self
            .app
            .db
            .agents()
            .await
            .map_err(|e| auth::unavailable(&e))?;
        let held = self
            .app
            .db
            .held_attempts()
            .await
            .map_err(|e| auth::unavailable(&e))?;
        let agents = rows
            .into_iter()
            .map(|row| {
                let connected = row
                    .agent_id
                    .parse()
                    .is_ok_and(|id| self.app.link.is_connected(&id));
                let busy = held
                    .iter()
                    .filter(|h| h.agent_id.as_deref() == Some(row.agent_id.as_str()))
                    .count();
                let labels: HashMap<String, String> =
                    serde_json::from_str(&row.labels).unwrap_or_default();
                v1::AgentView {
                    agent_id: row.agent_id,
                    name: row.name,
                    state: row.state,
                    connected,
                    slots: u32::try_from(row.slots).unwrap_or(0),
                    busy: u32::try_from(busy).unwrap_or(u32::MAX),
                    labels,
                }
            })
            .collect();
        Ok(Response::new(v1::ListAgentsResponse { agents }))
    }

    async fn drain_agent(
        &self,
        request: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::AgentView>, Status> {
        let person = self.caller(&request, Deed::Administer).await?;
        let missing = || Status::not_found("there is no such agent");
        let id: AgentId = request
            .into_inner()
            .agent_id
            .parse()
            .map_err(|_| missing())?;
        let reason = Some(format!("drained by {}", person.caller.subject));
        let changed = self.app.db.set_agent_state(&id, "draining", reason).await;
        if !changed.map_err(|e| auth::unavailable(&e))? {
            return Err(missing());
        }
        let nudge = Nudge::State(id.clone(), AgentState::Draining);
        let _stopping = self.app.nudge.send(nudge).await;
        let row = self
            .app
            .db
            .agent(&id)
            .await
            .map_err(|e| auth::unavailable(&e))?;
        let row = row.ok_or_else(missing)?;
        Ok(Response::new(v1::AgentView {
            agent_id: row.agent_id,
            name: row.name,
            state: row.state,
            connected: self.app.link.is_connected(&id),
            slots: u32::try_from(row.slots).unwrap_or(0),
            busy: 0,
            labels: serde_json::from_str(&row.labels).unwrap_or_default(),
        }))
    }

    async fn list_queue(
        &self,
        request: Request<v1::ListQueueRequest>,
    ) -> Result<Response<v1::ListQueueResponse>, Status> {
        self.caller(&request, Deed::Read).await?;
        let waiting = explain::waiting(&self.app)
            .await
            .ok_or_else(|| Status::unavailable("the queue cannot be read now; try again"))?;
        let stages = waiting.iter().map(|w| v1::WaitingStage {
            stage_id: w.stage.to_string(),
            build_id: w.build.to_string(),
            name: w.name.clone(),
            state: "ready".to_owned(),
            reason: w.reason.clone(),
            ready_at_ms: w.ready_at.as_millis(),
        });
        Ok(Response::new(v1::ListQueueResponse {
            stages: stages.collect(),
        }))
    }

    async fn list_deployments(
        &self,
        request: Request<v1::ListDeploymentsRequest>,
    ) -> Result<Response<v1::ListDeploymentsResponse>, Status> {
        self.caller(&request, Deed::Read).await?;
        let request = request.into_inner();
        let deployments = crate::api::rest::deployments::listed(
            &self.app,
            &request.service,
            &request.environment,
            "",
            if request.limit == 0 {
                50
            } else {
                request.limit.min(200)
            },
        )
        .await
        .map_err(|p| refused(&p))?;
        Ok(Response::new(v1::ListDeploymentsResponse { deployments }))
    }
}
