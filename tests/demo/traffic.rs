//! A client that never stops asking while versions change.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::bail;
use slipway_daemon::Shutdown;

/// Connections that ask at the same time.
const CLIENTS: usize = 8;

/// What was answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Answers by version.
    by_version: BTreeMap<String, u64>,
    /// Requests without a good answer.
    pub(crate) failed: u64,
}

impl Seen {
    pub(crate) fn total(&self) -> u64 {
        self.by_version.values().sum::<u64>() + self.failed
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (version, count) in &self.by_version {
            write!(f, "{count} by version {version}, ")?;
        }
        write!(f, "{} failed", self.failed)
    }
}

/// An even pace.
#[derive(Clone, Copy)]
pub(crate) struct Steady {
    pub(crate) per_second: u32,
}

/// The running clients.
pub(crate) struct Traffic {
    seen: Arc<Mutex<Seen>>,
    last: Arc<Mutex<String>>,
    shutdown: Shutdown,
}

impl Traffic {
    /// Starts to ask, by GET and POST.
    pub(crate) fn start(address: SocketAddr) -> Self {
        let traffic = Self {
            seen: Arc::default(),
            last: Arc::default(),
            shutdown: Shutdown::new(),
        };
        for client in 0..CLIENTS {
            let (seen, last) = (Arc::clone(&traffic.seen), Arc::clone(&traffic.last));
            let stop = traffic.shutdown.clone();
            traffic.shutdown.spawn("client", async move {
                let http = reqwest::Client::new();
                let url = format!("http://{address}/");
                while !stop.has_begun() {
                    let request = if client % 2 == 0 {
                        http.get(&url)
                    } else {
                        http.post(&url).body("x")
                    };
                    let version = answer(request).await;
                    note(&seen, &last, version);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        traffic
    }

    /// Starts to ask at an even pace, whatever the answers are.
    pub(crate) fn steady(address: SocketAddr, pace: Steady) -> Self {
        let traffic = Self {
            seen: Arc::default(),
            last: Arc::default(),
            shutdown: Shutdown::new(),
        };
        let (seen, last) = (Arc::clone(&traffic.seen), Arc::clone(&traffic.last));
        let stop = traffic.shutdown.clone();
        traffic.shutdown.spawn("pace", async move {
            let http = reqwest::Client::new();
            let url = format!("http://{address}/");
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / pace.per_second);
            while !stop.has_begun() {
                ticks.tick().await;
                let (seen, last) = (Arc::clone(&seen), Arc::clone(&last));
                let request = http.get(&url);
                stop.spawn("request", async move {
                    let version = answer(request).await;
                    note(&seen, &last, version);
                });
            }
        });
        traffic
    }

    /// Waits until a version answers.
    pub(crate) async fn wait_for(&self, version: &str, limit: Duration) -> anyhow::Result<()> {
        let waiting = async {
            while *self.last.lock().unwrap_or_else(PoisonError::into_inner) != version {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(limit, waiting).await.is_err() {
            bail!("version {version} never answered");
        }
        Ok(())
    }

    /// Stops, and says what was seen.
    pub(crate) async fn stop(self) -> Seen {
        self.shutdown.begin();
        self.shutdown.drained(Duration::from_secs(5)).await;
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn note(seen: &Mutex<Seen>, last: &Mutex<String>, version: Option<String>) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    match version {
        Some(version) => {
            *seen.by_version.entry(version.clone()).or_default() += 1;
            *last.lock().unwrap_or_else(PoisonError::into_inner) = version;
        }
        None => seen.failed += 1,
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Option<String> {
    let response = request.send().await.ok()?.error_for_status().ok()?;
    let body: serde_json::Value = response.json().await.ok()?;
    body["version"].as_str().map(str::to_owned)
}
