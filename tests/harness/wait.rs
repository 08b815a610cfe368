//! Waiting for a condition, never for a time.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
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

/// Ports below those that the kernel hands to outgoing connections (32768 and up, by default on Linux):
/// a process that is down for a while finds its own port again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// An address on loopback that nobody listens on at this moment, nor gets by chance later.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let width = PORTS.end - PORTS.start;
    // Test processes that run side by side begin in different places.
    let begin = u16::try_from(std::process::id() % u32::from(width))?;
    for _ in 0..width {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % width;
        let port =
            PORTS.start + u16::try_from((u32::from(begin) + u32::from(step)) % u32::from(width))?;
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
    anyhow::bail!("no port of {PORTS:?} is free")
}
