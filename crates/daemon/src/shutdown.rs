//! How a process stops: one token that everybody watches, one tracker that everybody is counted in.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The caller's wish to stop, and the set of tasks that must end before it is fulfilled.
#[derive(Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown of a part: ends with this one, or earlier on its own. Shares no tasks.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            tracker: TaskTracker::new(),
        }
    }

    /// The token itself, for code that selects on it.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks everybody to stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether stopping was asked for.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves when stopping was asked for.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Spawns a named task that [`Shutdown::drained`] waits for.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        crate::spawn::spawn(name, self.tracker.track_future(future))
    }

    /// Waits until every tracked task ended, or `limit` passed. Returns whether all ended.
    pub async fn drained(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_waits_for_tracked_tasks_and_gives_up_at_the_limit() {
        let shutdown = Shutdown::new();
        let stop = shutdown.token();
        shutdown.spawn("ends", async move { stop.cancelled().await });
        assert!(!shutdown.drained(Duration::from_millis(10)).await);
        shutdown.begin();
        assert!(shutdown.drained(Duration::from_secs(5)).await);
    }
}
