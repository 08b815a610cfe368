//! Artifacts of a build.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use slipway_core::id::ArtifactId;
use slipway_objects::Key;
use utoipa::ToSchema;

use super::builds::build_id;
use super::time::shown;
use crate::api::problem::Problem;
use crate::state::App;

/// One artifact.
#[derive(Debug, Serialize, ToSchema)]
pub struct Artifact {
    url: String,
    /// SHA-256, hex.
    checksum: String,
    name: String,
    artifact_type: String,
    file_size: i64,
    created_at: String,
}

/// What a build left.
#[derive(Debug, Serialize, ToSchema)]
pub struct Artifacts {
    /// By digest; null when the build made no image.
    docker_image_uri: Option<String>,
    build_artifacts: Vec<Artifact>,
}

/// Lists what a build left.
#[utoipa::path(get, path = "/artifacts/{build_id}", tag = "artifacts", security(("token" = [])),
    params(("build_id" = String, Path)),
    responses((status = 200, body = Artifacts), (status = 404, body = Problem)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<axum::Json<Artifacts>, Problem> {
    let id = build_id(&id)?;
    let build = app.db.build(&id).await?;
    let build = build.ok_or_else(|| Problem::not_found("build"))?;
    let artifacts = app.db.artifacts(&id).await?;
    Ok(axum::Json(Artifacts {
        docker_image_uri: build.docker_image_uri,
        build_artifacts: artifacts
            .into_iter()
            .map(|a| Artifact {
                url: format!("/api/v1/artifacts/{id}/{}", a.artifact_id),
                checksum: a.checksum,
                name: a.name,
                artifact_type: a.artifact_type,
                file_size: a.file_size,
                created_at: shown(a.created_at),
            })
            .collect(),
    }))
}

/// Downloads one artifact.
#[utoipa::path(get, path = "/artifacts/{build_id}/{artifact_id}", tag = "artifacts",
    security(("token" = [])),
    params(("build_id" = String, Path), ("artifact_id" = String, Path)),
    responses((status = 200, content_type = "application/octet-stream"), (status = 404, body = Problem)))]
pub async fn download(
    State(app): State<Arc<App>>,
    Path((build, artifact)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found("artifact");
    let build = build_id(&build).map_err(|_| missing())?;
    let artifact: ArtifactId = artifact.parse().map_err(|_| missing())?;
    let row = app.db.artifact(&artifact).await?.ok_or_else(missing)?;
    if row.build_id != build.as_str() {
        return Err(missing());
    }
    let key = Key::new(row.uri.clone()).map_err(|_| missing())?;
    let reading = app.objects.read(&key, 0).await.map_err(|error| {
        tracing::warn!(%error, "an artifact cannot be read");
        Problem::unavailable("the artifact cannot be read now; try again")
    })?;
    let reading = reading.ok_or_else(missing)?;
    let name: String = row
        .name
        .rsplit('/')
        .next()
        .unwrap_or("artifact")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') {
                c
            } else {
                '_'
            }
        })
        .collect();
    let mut response = Body::from_stream(reading.bytes).into_response();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, reading.size.into());
    // Always an attachment: a page made by a stage never opens in this origin.
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("\"{}\"", row.checksum)) {
        headers.insert(header::ETAG, value);
    }
    Ok(response)
}
