//! An image stage: the workspace's context built into an image, tagged, pushed, recorded by digest.

use std::time::Duration;

use slipway_core::frontend;
use slipway_proto::v1;

use super::execute::{lost, permission};
use super::{Attempt, Ending, Shared, context, prepare};
use crate::log_stream::LogWriter;
use crate::sandbox::ImageRun;

/// Builds; both arms are endings.
pub(super) async fn run(
    shared: &Shared,
    attempt: &mut Attempt,
    log: &mut LogWriter,
    result: &mut v1::Result,
) -> Result<Ending, Ending> {
    let began = shared.clock.monotonic();
    shared.progress(&attempt.key, v1::Phase::Fetching);
    prepare::workspace(shared, attempt, log, result).await?;
    let image = image(shared, attempt)?;
    permission(shared, attempt).await?;
    shared.progress(&attempt.key, v1::Phase::Running);
    let prepared = shared.clock.monotonic();
    // The builder's words come from a callback that cannot wait: a bounded queue lies between.
    let (lines, mut printed) = tokio::sync::mpsc::channel::<Vec<u8>>(4_096);
    let sandbox = std::sync::Arc::clone(&shared.sandbox);
    let building = async move { sandbox.build(&image, lines).await.map_err(|e| lost(&e)) };
    let printing = async {
        while let Some(bytes) = printed.recv().await {
            if let Err(error) = log.write(&bytes).await {
                tracing::warn!(%error, "the spool is full");
            }
            if log.is_cut() {
                return Err(Ending::limit("log_limit", log.cut_reason()));
            }
        }
        Ok(())
    };
    let limit = Duration::from_millis(attempt.spec.timeout_ms);
    let mut stop = attempt.stop.clone();
    let built = tokio::select! {
        both = async { tokio::try_join!(building, printing) } => both?.0,
        () = tokio::time::sleep(limit) => return Err(Ending::of(v1::Ending::TimedOut)),
        _ = stop.wait_for(Option::is_some) => return Err(Ending::of(v1::Ending::Cancelled)),
    };
    let line = format!("{}@{}", built.repository, built.digest);
    let _spool_is_full = log.say(&line).await;
    if !built.reproducible {
        let line = "this engine gives no reproducible digests";
        let _spool_is_full = log.say(line).await;
    }
    let tags = attempt.spec.build.as_ref().map(|b| b.tags.clone());
    result.image = Some(v1::BuiltImage {
        repository: built.repository,
        tags: tags.unwrap_or_default(),
        digest: built.digest,
        reproducible: built.reproducible,
    });
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    result.prepare_ms = millis(prepared - began);
    result.execute_ms = millis(shared.clock.monotonic() - prepared);
    Ok(Ending::exited(0))
}

fn image(shared: &Shared, attempt: &Attempt) -> Result<ImageRun, Ending> {
    let build = attempt
        .spec
        .build
        .as_ref()
        .ok_or_else(|| Ending::aborted("sandbox", "the stage builds no image"))?;
    let dir = shared.workspace(&attempt.key).join(&build.context);
    let mut context = Vec::new();
    let dockerfile = context::context_tar(
        &dir,
        &build.dockerfile,
        attempt.assign.source_date_epoch,
        &mut context,
    )
    .map_err(|error| Ending::limit("context", error))?;
    frontend::check(&dockerfile, build.args.keys().map(String::as_str))
        .map_err(|error| Ending::limit("frontend_refused", error))?;
    Ok(ImageRun {
        key: attempt.key.clone(),
        context: context.into(),
        dockerfile: build.dockerfile.clone(),
        tags: build.tags.clone(),
        push: build.push,
        platform: build.platforms.first().cloned().unwrap_or_default(),
        args: build.args.clone(),
        project: attempt.assign.repo_id.clone(),
        epoch: attempt.assign.source_date_epoch,
        limit: Duration::from_millis(attempt.spec.timeout_ms),
    })
}
