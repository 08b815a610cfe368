//! `remote_cache` of a stage: a door of the cache daemon for its tools, opened before its container is made,
//! closed when the attempt is over, settled when the dispatcher took its result.
//!
//! Nothing here ends a stage: what goes wrong is a line in its log, and its tools find no cache. Whose
//! entries are read and written is in the assignment, and never in the stage's words.

use slipway_core::cache::remote::{self, Rights};
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1;

use super::caches::{say, size};
use super::{Attempt, Shared};
use crate::held::Door;
use crate::log_stream::LogWriter;
use crate::sandbox::StageRun;

/// What the stage's tools show at the door, if it asks for one: masked in its log, also by an agent that
/// comes back to it.
pub(super) fn token(attempt: &Attempt) -> Option<String> {
    if attempt.spec.remote_cache.is_empty() {
        return None;
    }
    remote::token(&attempt.assign.attempt_token, &attempt.key.folder())
}

/// Opens the door and tells the stage's tools where it is.
pub(super) async fn open(
    shared: &Shared,
    attempt: &Attempt,
    run: &mut StageRun,
    log: &mut LogWriter,
) {
    if attempt.spec.remote_cache.is_empty() {
        return;
    }
    if let Err(why) = try_open(shared, attempt, run).await {
        say(log, &format!("remote cache: not used, {why}")).await;
    }
}

async fn try_open(shared: &Shared, attempt: &Attempt, run: &mut StageRun) -> Result<(), String> {
    let spec = &attempt.spec;
    let given = attempt.assign.cache_scope.clone();
    let scope = given.filter(|scope| !scope.read.is_empty());
    let scope = scope.ok_or("builds of tags and releases begin from nothing")?;
    let token = token(attempt).ok_or("the attempt has no token")?;
    let cache = shared.cache.as_ref().ok_or("there is no cache daemon")?;
    let gateway = shared.sandbox.gateway(run).await;
    let gateway = gateway.map_err(|error| error.to_string())?;
    let gateway = gateway.ok_or("the stage has no network that leads to this host")?;
    let rights = remote::rights(spec.secrets().next().is_some(), attempt.assign.at_most_once);
    let request = v1::OpenDoorRequest {
        attempt: attempt.key.folder(),
        address: gateway.address.to_string(),
        token: token.clone(),
        scope: Some(scope),
        read_only: rights == Rights::ReadOnly,
    };
    let at = cache.open_door(request).await.map_err(|e| e.to_string())?;
    if let Err(error) = shared.sandbox.let_in(&gateway, at).await {
        // Where nothing is denied, nothing has to be opened.
        tracing::warn!("the packet filter does not let a stage's tools in: {error:#}");
    }
    let door = Door { gateway, at };
    let kept = shared.held.save_door(&attempt.key, &door);
    kept.map_err(|error| error.to_string())?;
    for (name, value) in remote::environment(&spec.remote_cache, at, &token, rights) {
        // The stage's own word wins.
        run.environment.entry(name).or_insert(value);
    }
    Ok(())
}

/// Closes the door, if there is one. `passed`: what came is kept once the dispatcher took the result.
pub(super) async fn close(shared: &Shared, attempt: &Attempt, passed: bool, log: &mut LogWriter) {
    let (Some(door), Some(cache)) = (shared.held.door(&attempt.key), &shared.cache) else {
        return;
    };
    if let Err(error) = shared.sandbox.keep_out(&door.gateway, door.at).await {
        tracing::debug!("the packet filter: {error:#}");
    }
    let Ok(closed) = cache.close_door(&attempt.key.folder()).await else {
        say(log, "remote cache: the daemon is away, nothing is kept").await;
        return;
    };
    if closed.hits + closed.misses + closed.entries + closed.refused == 0 {
        return;
    }
    let mut line = format!(
        "remote cache: {} hits, {} misses",
        closed.hits, closed.misses
    );
    if closed.entries > 0 {
        let bytes = size(closed.bytes);
        let fate = if passed { "to keep" } else { "thrown away" };
        line.push_str(&format!(
            ", {} new entries ({bytes}) {fate}",
            closed.entries
        ));
    }
    if closed.refused > 0 {
        line.push_str(&format!(", {} requests refused", closed.refused));
    }
    say(log, &line).await;
}

/// Keeps what came through the door of an attempt, or throws it away.
pub(crate) async fn settle(shared: &Shared, key: &AttemptKey, keep: bool) {
    let Some(cache) = &shared.cache else { return };
    match cache.settle_door(&key.folder(), keep).await {
        Ok(0) => {}
        Ok(kept) => tracing::debug!(stage = %key.stage, kept, "entries of its tools are kept"),
        // What is not kept is made again.
        Err(error) => tracing::warn!(%error, stage = %key.stage, "its tools' entries are lost"),
    }
}
