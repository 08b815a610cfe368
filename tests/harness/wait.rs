//! Waiting for a condition, never for a time.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use slipway_daemon::Clock;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Asks until there is an answer; fails with `what` at the limit.
///
/// # Errors
/// When the limit passes.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let clock = Clock::system();
    let begun = clock.monotonic();
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        let waited = clock.monotonic() - begun;
        anyhow::ensure!(waited < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The same for a condition that needs no runtime.
///
/// # Errors
/// When the limit passes.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let clock = Clock::system();
    let begun = clock.monotonic();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        let waited = clock.monotonic() - begun;
        anyhow::ensure!(waited < limit, "{what}: not within {limit:?}");
        std::thread::sleep(LOOK);
    }
}

/// An address on loopback that nobody listens on at this moment.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
