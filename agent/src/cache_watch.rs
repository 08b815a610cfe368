//! Whether the cache daemon beside this agent answers, said once when that changes. Without it no
//! workspace can be laid out: every attempt would be lost one after the other, and nobody told why.
//! And as long as an attempt is held, what it was laid out from is kept there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slipway_cache_client::{CacheError, LocalCache};
use slipway_daemon::Health;
use slipway_proto::v1::HoldingsResponse;
use tokio::sync::watch;

use crate::held::Held;

/// Between two looks while all is well, or while nothing has changed.
const EVERY: Duration = Duration::from_secs(5);
/// Between the first silence and the second look: a daemon that is started in the same second as
/// this agent is not missing.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest answer to a question about nothing.
const ANSWER: Duration = Duration::from_secs(5);
/// Looks between two renewals of what attempts hold: 30 s, of the ten minutes that it lasts.
const LOOKS_PER_RENEWAL: u32 = 6;
/// The part of `/readyz`.
const PART: &str = "cache";

/// What is watched, and who is told.
pub(crate) struct Watched {
    pub(crate) cache: LocalCache,
    pub(crate) held: Held,
    /// What the daemon has for others.
    pub(crate) holdings: watch::Sender<Arc<HoldingsResponse>>,
    pub(crate) socket: PathBuf,
    pub(crate) health: Health,
}

/// Asks until it is dropped.
pub(crate) async fn watch(watched: Watched) {
    let Watched {
        cache,
        held,
        holdings,
        socket,
        health,
    } = watched;
    let mut silences = 0_u32;
    let mut looks = 0_u32;
    loop {
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_PER_RENEWAL) {
            let attempts = held.folders();
            if !attempts.is_empty() {
                // Whether it answers is what is looked at next.
                let _silent = tokio::time::timeout(ANSWER, cache.renew_pins(attempts)).await;
            }
        }
        match answers(&cache).await {
            Ok(()) => {
                let said = tokio::time::timeout(ANSWER, cache.holdings()).await;
                if let Ok(Ok(said)) = said
                    && **holdings.borrow() != said
                {
                    holdings.send_replace(Arc::new(said));
                }
                if silences > 1 {
                    tracing::info!(socket = %socket.display(), "the cache daemon answers again");
                    health.recovered(PART);
                }
                silences = 0;
            }
            Err(why) => {
                silences = silences.saturating_add(1);
                if silences == 2 {
                    let trouble = trouble(&socket, &why);
                    tracing::error!("{trouble}");
                    health.degraded(PART, trouble);
                }
            }
        }
        tokio::time::sleep(if silences == 1 { AGAIN } else { EVERY }).await;
    }
}

async fn answers(cache: &LocalCache) -> Result<(), String> {
    match tokio::time::timeout(ANSWER, cache.has(&[])).await {
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        Ok(Err(CacheError::Unreachable(why))) => Err(why),
        // Whatever else it says, it is there.
        Ok(_) => Ok(()),
    }
}

fn trouble(socket: &Path, why: &str) -> String {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let found = match std::fs::symlink_metadata(&socket) {
        Ok(_) => "the socket is there, and nobody answers on it",
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "there is no such socket",
        Err(_) => "the socket cannot be looked at",
    };
    format!(
        "the cache daemon does not answer at {} ({found}: {why}). No stage can begin here until it \
         does. Start `slipway-cache` on this host, or set `cache` in the agent's settings \
         (SLIPWAY_AGENT_CACHE) to the socket it listens on",
        socket.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trouble_says_what_where_and_how_to_go_on() {
        let said = trouble(Path::new("/nonexistent/cache.sock"), "refused");
        for part in [
            "/nonexistent/cache.sock",
            "no such socket",
            "refused",
            "Start `slipway-cache`",
            "SLIPWAY_AGENT_CACHE",
        ] {
            assert!(said.contains(part), "{said}");
        }
        let relative = trouble(Path::new("cache.sock"), "");
        assert!(relative.contains(" at /"), "a full path: {relative}");
    }
}
