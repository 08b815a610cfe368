//! A stage of commands: created, executed, watched to its end.

use std::collections::BTreeMap;
use std::time::Duration;

use slipway_core::digest::Digest;
use slipway_core::lease::terms::CANCEL_GRACE;
use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message;

use super::output::{Output, Rest};
use super::{Attempt, Ending, Shared, Stop, collect, prepare, quota, remote, script};
use crate::log_stream::LogWriter;
use crate::sandbox::{Ended, EngineWas, SandboxError, StageRun};

/// A stream that pauses so long gives out what it holds back.
const PAUSE: Duration = Duration::from_millis(200);

/// In a log that may lack its last lines.
const UNSEEN: &str = "the container engine was away when the stage ended: what it printed meanwhile may be \
                      missing here";
const SILENT: &str = "the container engine stopped giving out what the stage printed: its last lines may be \
                      missing here";

pub(super) fn lost(error: &SandboxError) -> Ending {
    match error {
        SandboxError::Image { .. } => Ending::aborted("image_pull", error),
        // The user's own service and its own check.
        SandboxError::ServiceNotReady { .. } | SandboxError::ServiceEnded { .. } => {
            Ending::limit("service_not_ready", error)
        }
        SandboxError::ServiceWorkdir { .. } => Ending::limit("working_directory_refused", error),
        SandboxError::Build(_) => Ending {
            exit_code: 1,
            ending: v1::Ending::Exited,
            reason: "build".to_owned(),
            detail: error.to_string(),
        },
        SandboxError::NotConfined(_) | SandboxError::Engine(_) | SandboxError::EngineRestarted => {
            Ending::aborted("sandbox", error)
        }
    }
}

/// Executes; both arms are endings.
pub(super) async fn run(
    shared: &Shared,
    attempt: &mut Attempt,
    adopted: bool,
    log: &mut LogWriter,
    result: &mut v1::Result,
) -> Result<Ending, Ending> {
    let began = shared.clock.monotonic();
    let base = if adopted {
        // The container executes already, on the workspace that an earlier life laid out.
        shared.held.base(&attempt.key)
    } else {
        let base = begin(shared, attempt, log, result).await?;
        shared.progress(&attempt.key, v1::Phase::Running);
        base
    };
    let prepared = shared.clock.monotonic();
    let ending = watch(shared, attempt, log).await?;
    let executed = shared.clock.monotonic();
    shared.progress(&attempt.key, v1::Phase::Collecting);
    let ending = collect::collect(shared, attempt, ending, base, log, result).await;
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    result.prepare_ms = millis(prepared - began);
    result.execute_ms = millis(executed - prepared);
    result.collect_ms = millis(shared.clock.monotonic() - executed);
    Ok(ending)
}

/// Everything up to the start of the container; the base of a later capture.
async fn begin(
    shared: &Shared,
    attempt: &mut Attempt,
    log: &mut LogWriter,
    result: &mut v1::Result,
) -> Result<Option<Digest>, Ending> {
    shared.progress(&attempt.key, v1::Phase::Fetching);
    let images = async {
        shared.sandbox.ensure_image(&attempt.spec.image).await?;
        for service in &attempt.spec.services {
            shared.sandbox.ensure_image(&service.image).await?;
        }
        Ok::<(), SandboxError>(())
    };
    let stop = stopped(attempt.stop.clone());
    let prepared = tokio::select! {
        both = async { tokio::join!(prepare::workspace(shared, attempt, log, result), images) } => both,
        ending = stop => return Err(ending),
    };
    let workspace = prepared.0?;
    prepared.1.map_err(|e| lost(&e))?;
    shared.progress(&attempt.key, v1::Phase::Creating);
    let mut run = stage_run(shared, attempt)?;
    remote::open(shared, attempt, &mut run, log).await;
    if let Some(base) = &workspace.base {
        let kept = shared.held.save_base(&attempt.key, base);
        kept.map_err(|error| Ending::aborted("disk_full", error))?;
    }
    shared.sandbox.create(&run).await.map_err(|e| lost(&e))?;
    permission(shared, attempt).await?;
    let kept = shared.held.save_started(&attempt.key, shared.clock.now());
    kept.map_err(|error| Ending::aborted("disk_full", error))?;
    shared
        .sandbox
        .start(&attempt.key)
        .await
        .map_err(|e| lost(&e))?;
    Ok(workspace.base)
}

/// Without the dispatcher's go nothing of an at-most-once stage is executed, so that it may still move
/// safely.
pub(super) async fn permission(shared: &Shared, attempt: &Attempt) -> Result<(), Ending> {
    if !attempt.assign.at_most_once {
        return Ok(());
    }
    shared.say(Message::Prepared(v1::Prepared {
        attempt: Some((&attempt.key).into()),
    }));
    let mut go = attempt.go.clone();
    tokio::select! {
        told = go.wait_for(|go| *go) => match told {
            Ok(_) => Ok(()),
            Err(_) => Err(Ending::aborted("drain", "the agent is stopping")),
        },
        ending = stopped(attempt.stop.clone()) => Err(ending),
    }
}

async fn stopped(mut stop: tokio::sync::watch::Receiver<Option<Stop>>) -> Ending {
    let _ended = stop.wait_for(Option::is_some).await;
    Ending::of(v1::Ending::Cancelled)
}

fn stage_run(shared: &Shared, attempt: &Attempt) -> Result<StageRun, Ending> {
    let spec = &attempt.spec;
    let mut environment: BTreeMap<String, String> = attempt
        .assign
        .environment
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    environment.insert("CI_WORKSPACE".to_owned(), "/workspace".to_owned());
    environment.extend(attempt.values(&spec.environment)?);
    let mut services = Vec::new();
    for service in &spec.services {
        services.push((service.clone(), attempt.values(&service.environment)?));
    }
    Ok(StageRun {
        key: attempt.key.clone(),
        image: spec.image.clone(),
        script: script::script(&spec.commands),
        environment,
        workspace: shared.workspace(&attempt.key),
        profile: spec.sandbox,
        services,
    })
}

/// Carries the output on and waits for the end, the time-out, a limit or a stop.
async fn watch(
    shared: &Shared,
    attempt: &mut Attempt,
    log: &mut LogWriter,
) -> Result<Ending, Ending> {
    let key = attempt.key.clone();
    let mut output = Output::open(&shared.sandbox, &key);
    let limit = Duration::from_millis(attempt.spec.timeout_ms);
    // An earlier life of this agent may have begun it.
    let began = shared.held.started(&key);
    let spent = began.map_or(Duration::ZERO, |at| shared.clock.now().since(at));
    let timeout = tokio::time::sleep(limit.saturating_sub(spent));
    tokio::pin!(timeout);
    let wait = shared.sandbox.wait(&key);
    tokio::pin!(wait);
    let quota = quota::limit(shared, attempt.spec.sandbox);
    let over = quota::exceeded(shared, &key, quota);
    tokio::pin!(over);
    let mut cut: Option<Ending> = None;
    let ended: Ended = loop {
        tokio::select! {
            biased;
            bytes = output.next() => {
                log.write(&bytes).await.map_err(|e| Ending::aborted("disk_full", e))?;
                if log.is_cut() && cut.is_none() {
                    cut = Some(Ending::limit("log_limit", log.cut_reason()));
                    end(shared, attempt, Duration::ZERO).await;
                }
            }
            ended = &mut wait => break ended.map_err(|e| lost(&e))?,
            () = &mut timeout, if cut.is_none() => {
                cut = Some(Ending::of(v1::Ending::TimedOut));
                end(shared, attempt, CANCEL_GRACE).await;
            }
            used = &mut over, if cut.is_none() => {
                cut = Some(Ending::limit("disk_quota", format!(
                    "the stage has {} MiB on the disk, more than its {} MiB",
                    used >> 20, quota >> 20
                )));
                end(shared, attempt, Duration::ZERO).await;
            }
            grace = stop_asked(&mut attempt.stop), if cut.is_none() => {
                cut = Some(Ending::of(v1::Ending::Cancelled));
                end(shared, attempt, grace).await;
            }
            () = tokio::time::sleep(PAUSE) => {
                log.flush_safe().await.map_err(|e| Ending::aborted("disk_full", e))?;
            }
        }
    };
    drain(&mut output, ended.engine, log).await?;
    if log.is_cut() && cut.is_none() {
        cut = Some(Ending::limit("log_limit", log.cut_reason()));
    }
    Ok(judge(cut, ended, limit))
}

/// What the end of the container means, unless something else had ended the stage before.
fn judge(cut: Option<Ending>, ended: Ended, limit: Duration) -> Ending {
    match cut {
        Some(mut ending) => {
            if ending.ending == v1::Ending::TimedOut {
                ending.detail = format!("the stage took longer than {} s", limit.as_secs());
            }
            ending
        }
        None => match ended.out_of_memory {
            Some(bytes) => Ending {
                exit_code: i32::try_from(ended.code).unwrap_or(1),
                ..Ending::limit("oom", out_of_memory(bytes))
            },
            None => Ending::exited(ended.code),
        },
    }
}

fn out_of_memory(limit: u64) -> String {
    format!(
        "out of memory: the stage used more than its limit of {} MiB, and the kernel killed a process \
         of it. Give it less to do at once (fewer parallel jobs, a smaller heap)",
        limit >> 20
    )
}

async fn stop_asked(stop: &mut tokio::sync::watch::Receiver<Option<Stop>>) -> Duration {
    match stop.wait_for(Option::is_some).await.map(|s| *s) {
        Ok(Some(Stop::Cancelled(grace))) => grace,
        Ok(_) => Duration::ZERO,
        // Nobody can ask any more: the stage goes on to its own end.
        Err(_) => std::future::pending().await,
    }
}

/// Asks the container to end; the wait that is under way sees it.
async fn end(shared: &Shared, attempt: &Attempt, grace: Duration) {
    let (sandbox, key) = (std::sync::Arc::clone(&shared.sandbox), attempt.key.clone());
    shared.shutdown.spawn("stop stage", async move {
        if let Err(error) = sandbox.stop(&key, grace).await {
            tracing::warn!(%error, stage = %key.stage, "the stage cannot be stopped");
        }
    });
}

/// What the engine still has of the output of a container that has ended.
async fn drain(output: &mut Output, engine: EngineWas, log: &mut LogWriter) -> Result<(), Ending> {
    let full = |error: std::io::Error| Ending::aborted("disk_full", error);
    loop {
        match output.rest(engine != EngineWas::There).await {
            Rest::Piece(bytes) => log.write(&bytes).await.map_err(full)?,
            Rest::Over => break,
            Rest::Silent => {
                log.say(SILENT).await.map_err(full)?;
                break;
            }
        }
    }
    if engine == EngineWas::AwayAtItsEnd {
        log.say(UNSEEN).await.map_err(full)?;
    }
    Ok(())
}
