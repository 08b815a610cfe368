//! A client that never stops asking while something happens to the system.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slipway_daemon::Shutdown;

/// What was answered.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Good answers, by their text.
    pub answers: BTreeMap<String, u64>,
    /// Requests without a good answer: the first few reasons.
    pub failures: Vec<String>,
}

/// The running clients.
pub struct Traffic {
    seen: Arc<Mutex<Seen>>,
    shutdown: Shutdown,
}

impl Traffic {
    /// Asks over this many connections at once.
    #[must_use]
    pub fn start(address: SocketAddr, connections: usize) -> Self {
        let traffic = Self {
            seen: Arc::default(),
            shutdown: Shutdown::new(),
        };
        for _ in 0..connections {
            let seen = Arc::clone(&traffic.seen);
            let stop = traffic.shutdown.clone();
            traffic.shutdown.spawn("client", async move {
                let http = reqwest::Client::new();
                let url = format!("http://{address}/");
                while !stop.has_begun() {
                    let answer = ask(&http, &url).await;
                    note(&seen, answer);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        traffic
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops asking, and says what was seen.
    pub async fn stop(self) -> Seen {
        self.shutdown.begin();
        self.shutdown.drained(Duration::from_secs(10)).await;
        self.seen()
    }
}

fn note(seen: &Mutex<Seen>, answer: anyhow::Result<String>) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(text) => *seen.answers.entry(text).or_default() += 1,
        Err(error) => seen.failures.push(format!("{error:#}")),
    }
}

async fn ask(http: &reqwest::Client, url: &str) -> anyhow::Result<String> {
    let request = http.get(url).timeout(Duration::from_secs(10));
    let response = request.send().await?.error_for_status()?;
    Ok(response.text().await?.trim().to_owned())
}
