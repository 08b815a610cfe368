//! What describes a service's pods is read out of the built commit, a chart is rendered, and the text is
//! stored with the build: from here on nobody needs the repository or helm for it.

use std::time::Duration;

use slipway_core::manifest::{ManifestFile, TEXT_MAX, check};
use slipway_core::pipeline::{ChartSpec, DeploySpec, Mistake, PodsSpec};
use slipway_store::RepositoryRow;

use super::plan_build::Cause;
use crate::charts::{Chart, render};
use crate::source::{SourceError, Wanted};
use crate::state::App;

/// The whole deploy section: the coordinator takes no larger one.
const SECTION_MAX: usize = 200 * 1024;
/// For all files and charts of one pipeline.
const LIMIT: Duration = Duration::from_secs(40);

/// Fills in the text of every description in `deploy`.
///
/// # Errors
/// The first thing that cannot be used, at the line of the pipeline file that names it.
pub(super) async fn capture_pods(
    app: &App,
    repo: &RepositoryRow,
    cause: &Cause,
    deploy: &mut DeploySpec,
) -> Result<(), Mistake> {
    let service = deploy.service.clone();
    let wanted = Wanted {
        repo_id: repo.repo_id.clone(),
        repo_url: repo.repo_url.clone(),
        ref_name: cause.ref_name.clone(),
        sha: cause.sha.clone(),
        before: None,
    };
    let mut line = 1;
    let all = async {
        for pods in deploy.pods_mut() {
            line = pods.line;
            pods.manifests.files = files(app, &wanted, &service, pods).await?;
            check(&pods.manifests).map_err(|error| error.named_at(pods.line))?;
        }
        Ok(())
    };
    match tokio::time::timeout(LIMIT, all).await {
        Ok(done) => done?,
        Err(_) => {
            let text = format!(
                "reading and rendering took longer than {} s",
                LIMIT.as_secs()
            );
            return Err(Mistake::elsewhere("SLP0308", line, text));
        }
    }
    let size = serde_json::to_string(deploy).map_or(usize::MAX, |text| text.len());
    if size > SECTION_MAX {
        let text = format!("`deploy` with its manifests has {size} bytes; at most {SECTION_MAX}");
        return Err(Mistake::elsewhere("SLP0301", line, text));
    }
    Ok(())
}

async fn files(
    app: &App,
    wanted: &Wanted,
    service: &str,
    pods: &PodsSpec,
) -> Result<Vec<ManifestFile>, Mistake> {
    if let Some(chart) = &pods.chart {
        return Ok(vec![
            rendered(app, wanted, service, pods.line, chart).await?,
        ]);
    }
    let mut files = Vec::new();
    for path in &pods.paths {
        let bytes = one(app, wanted, pods.line, path).await?;
        let text = text(pods.line, path, bytes)?;
        files.push(ManifestFile {
            path: path.clone(),
            text,
        });
    }
    Ok(files)
}

fn text(line: u32, path: &str, bytes: Vec<u8>) -> Result<String, Mistake> {
    let size = bytes.len();
    if size > TEXT_MAX {
        let why = format!("`{path}` has {size} bytes; at most {TEXT_MAX}");
        return Err(Mistake::elsewhere("SLP0301", line, why));
    }
    let not_text = |_| Mistake::elsewhere("SLP0307", line, format!("`{path}` is not UTF-8"));
    String::from_utf8(bytes).map_err(not_text)
}

/// Exactly one file.
async fn one(app: &App, wanted: &Wanted, line: u32, path: &str) -> Result<Vec<u8>, Mistake> {
    let found = folder(app, wanted, line, path).await?;
    let found = found.into_iter().find(|(name, _)| name == path);
    found.map(|(_, bytes)| bytes).ok_or_else(|| {
        let text = format!("the commit has no file `{path}`");
        Mistake::elsewhere("SLP0307", line, text)
    })
}

async fn folder(
    app: &App,
    wanted: &Wanted,
    line: u32,
    path: &str,
) -> Result<Vec<(String, Vec<u8>)>, Mistake> {
    let found = app.source.files(wanted, path).await;
    found.map_err(|error| {
        let why = match error {
            SourceError::NotAFile(path) => format!("`{path}` is a link or no plain file"),
            SourceError::Unreadable(why) => why,
            other => format!("`{path}` cannot be read: {other}"),
        };
        Mistake::elsewhere("SLP0307", line, why)
    })
}

async fn rendered(
    app: &App,
    wanted: &Wanted,
    service: &str,
    line: u32,
    spec: &ChartSpec,
) -> Result<ManifestFile, Mistake> {
    let below = format!("{}/", spec.path);
    let found = folder(app, wanted, line, &spec.path).await?;
    let files: Vec<(String, Vec<u8>)> = found
        .into_iter()
        .filter_map(|(name, bytes)| Some((name.strip_prefix(&below)?.to_owned(), bytes)))
        .collect();
    if !files.iter().any(|(name, _)| name == "Chart.yaml") {
        let text = format!("the commit has no `{}/Chart.yaml`", spec.path);
        return Err(Mistake::elsewhere("SLP0307", line, text));
    }
    let mut values = Vec::new();
    for path in &spec.values {
        values.push(one(app, wanted, line, path).await?);
    }
    let chart = Chart {
        release: service.to_owned(),
        namespace: spec.namespace.clone(),
        files,
        values,
        set: spec.set.clone(),
    };
    let text = render(&app.settings.helm, &chart).await;
    let text = text.map_err(|error| {
        let text = format!("chart `{}`: {error}", spec.path);
        Mistake::elsewhere("SLP0308", line, text)
    })?;
    Ok(ManifestFile {
        path: format!("{} (rendered)", spec.path),
        text,
    })
}
