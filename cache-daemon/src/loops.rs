//! What happens in the background: the first listing, eviction, checkpoints, the scrub.

use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::Shutdown;

use crate::Store;

/// How often eviction looks at a store that is not crowded.
const EVICTION_EVERY: Duration = Duration::from_secs(60);
/// How soon it looks at one that is.
const CROWDED: Duration = Duration::from_secs(1);
/// How much may be lost when the machine loses power, in time.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// Bytes that the scrub reads in a second: a twentieth of what a slow disk gives.
const SCRUB_BYTES: u64 = 50 << 20;
/// Between the end of one scrub and the next.
const SCRUB_EVERY: Duration = Duration::from_secs(24 * 3_600);

/// Looking through the entries of other tools reads the folders of all of them.
const FOREIGN_EVERY: Duration = Duration::from_secs(3_600);

/// Starts all of them.
pub(crate) fn start(store: &Arc<Store>, shutdown: &Shutdown) {
    let parts = (Arc::clone(store), shutdown.clone());
    shutdown.spawn("listing and eviction", evicting(parts.0, parts.1));
    let parts = (Arc::clone(store), shutdown.clone());
    shutdown.spawn("checkpoints", checkpoints(parts.0, parts.1));
    let parts = (Arc::clone(store), shutdown.clone());
    shutdown.spawn("scrub", scrub(parts.0, parts.1));
    let parts = (Arc::clone(store), shutdown.clone());
    shutdown.spawn("entries of other tools", foreign(parts.0, parts.1));
}

/// A thread that may block; a panic inside is in the log already.
async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> T + Send + 'static,
) -> Option<T> {
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || work(&store)).await.ok()
}

/// False when the process is to stop.
async fn slept(shutdown: &Shutdown, time: Duration) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}

async fn evicting(store: Arc<Store>, shutdown: Shutdown) {
    blocking(&store, Store::list).await;
    let mut waited = EVICTION_EVERY;
    while slept(&shutdown, CROWDED).await {
        waited += CROWDED;
        if waited < EVICTION_EVERY && !store.is_crowded() {
            continue;
        }
        waited = Duration::ZERO;
        let stop = shutdown.clone();
        let sweep = move |store: &Store| {
            store.evict();
            store.sweep(|| stop.has_begun());
        };
        blocking(&store, sweep).await;
    }
}

async fn checkpoints(store: Arc<Store>, shutdown: Shutdown) {
    while slept(&shutdown, CHECKPOINT_EVERY).await {
        if let Some(Err(error)) = blocking(&store, Store::checkpoint).await {
            tracing::warn!(%error, "the cache cannot be put on the disk");
        }
    }
}

/// Hashes everything once a day, so that damage is found before somebody needs the blob.
async fn scrub(store: Arc<Store>, shutdown: Shutdown) {
    while slept(&shutdown, CHECKPOINT_EVERY).await {
        let all = blocking(&store, Store::next_to_check).await;
        for digest in all.unwrap_or_default() {
            let checked = blocking(&store, move |store| store.check_one(&digest)).await;
            let bytes = checked.map_or(0, |checked| checked.bytes);
            let pace = Duration::from_millis(bytes.saturating_mul(1_000) / SCRUB_BYTES);
            if !slept(&shutdown, pace).await {
                return;
            }
        }
        if !slept(&shutdown, SCRUB_EVERY).await {
            return;
        }
    }
}

/// Removes entries of other tools that nobody asks for.
async fn foreign(store: Arc<Store>, shutdown: Shutdown) {
    let mut waited = Duration::ZERO;
    while slept(&shutdown, EVICTION_EVERY).await {
        waited += EVICTION_EVERY;
        if waited >= FOREIGN_EVERY || store.foreign_is_crowded() {
            waited = Duration::ZERO;
            blocking(&store, Store::sweep_foreign).await;
        }
    }
}
