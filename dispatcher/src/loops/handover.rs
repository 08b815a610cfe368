//! A build passed and its file deploys: the release is handed to the coordinator, once per
//! environment, in order. Idempotent by (build, environment).

use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::BuildId;
use slipway_core::pipeline::{DeploySpec, stage_of};
use slipway_daemon::Shutdown;
use slipway_proto::v1::StartRolloutRequest;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{BuildRow, StoreError};

use crate::state::App;

/// The slow tick.
const TICK: Duration = Duration::from_secs(5);
/// How long the coordinator may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// Runs until shutdown.
pub async fn run(app: Arc<App>, shutdown: Shutdown) {
    if app.settings.coordinator.is_empty() {
        return;
    }
    loop {
        match hand_over_due(&app).await {
            Ok(()) => app.health.recovered("handover"),
            Err(error) => app.health.degraded("handover", error.to_string()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = app.handover.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn hand_over_due(app: &App) -> Result<(), StoreError> {
    for build in app.db.handovers_due().await? {
        let Ok(id) = build.build_id.parse::<BuildId>() else {
            continue;
        };
        match hand_over(app, &id, &build).await {
            Ok(()) => {
                app.db.set_handover(&id, "handed").await?;
            }
            Err(Refused::ForGood(reason)) => {
                tracing::warn!(build = %id, reason, "the release cannot be deployed");
                app.db.set_handover(&id, "failed").await?;
            }
            Err(Refused::Now(reason)) => {
                tracing::info!(build = %id, reason, "the coordinator does not answer yet");
            }
            Err(Refused::Store(error)) => return Err(error),
        }
    }
    Ok(())
}

enum Refused {
    ForGood(String),
    Now(String),
    Store(StoreError),
}

/// Only environments without earlier ones start by themselves; the coordinator goes on from there
/// to those whose `after` names them, because it alone knows when they have succeeded.
async fn hand_over(app: &App, id: &BuildId, build: &BuildRow) -> Result<(), Refused> {
    let text = build.deploy.as_deref().unwrap_or("null");
    let deploy: DeploySpec =
        serde_json::from_str(text).map_err(|e| Refused::ForGood(e.to_string()))?;
    let image = image_of(app, id, &deploy).await?;
    for environment in deploy
        .environments
        .iter()
        .filter(|e| e.auto && e.after.is_empty())
    {
        let request = StartRolloutRequest {
            idempotency_key: format!("{id}/{}", environment.name),
            build_id: id.to_string(),
            repo_id: build.repo_id.clone(),
            commit_sha: build.commit_sha.clone(),
            service: deploy.service.clone(),
            environment: environment.name.clone(),
            image: image.clone(),
            deploy_json: text.to_owned(),
            strategy: String::new(),
            initiator: build.initiator.clone(),
            supersede: false,
        };
        start(app, request).await?;
    }
    Ok(())
}

async fn image_of(app: &App, id: &BuildId, deploy: &DeploySpec) -> Result<String, Refused> {
    let Some(stage) = stage_of(&deploy.image) else {
        return Ok(deploy.image.clone());
    };
    let stages = app.db.stages(id).await.map_err(Refused::Store)?;
    stages
        .into_iter()
        .find(|s| s.stage_name == stage)
        .and_then(|s| s.image_uri)
        .ok_or_else(|| Refused::ForGood(format!("stage `{stage}` left no image")))
}

async fn start(app: &App, request: StartRolloutRequest) -> Result<(), Refused> {
    let answered = tokio::time::timeout(ANSWER, async {
        let channel = app.coordinator.clone();
        let channel = channel.ok_or_else(|| Refused::Now("there is no coordinator".to_owned()))?;
        // In this dispatcher's own name, by its certificate.
        RolloutsClient::new(channel)
            .start(request)
            .await
            .map_err(|status| match status.code() {
                tonic::Code::Unavailable
                | tonic::Code::DeadlineExceeded
                | tonic::Code::Cancelled => Refused::Now(status.message().to_owned()),
                _ => Refused::ForGood(status.message().to_owned()),
            })
    });
    match answered.await {
        Ok(result) => result.map(|_| ()),
        Err(_) => Err(Refused::Now("no answer".to_owned())),
    }
}
