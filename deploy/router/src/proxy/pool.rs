//! Connections to one instance.

use std::io;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use super::idle::IdlePolicy;
use super::threads::{self, THREADS_MAX};
use super::upstream::Upstream;

/// Idle connections kept per instance and thread.
const IDLE_MAX: usize = 256;
/// Refused connections in a row that take an instance out, and for how long.
const EJECT_AFTER: u32 = 3;
const EJECT_MS: i64 = 5_000;

struct Idle {
    upstream: Upstream,
    since_ms: i64,
}

/// A connection in use.
pub(crate) struct Lease {
    pub(super) upstream: Upstream,
    /// How long it was idle before; `None` = new.
    pub(crate) idle_ms: Option<i64>,
}

/// One instance.
pub(crate) struct Backend {
    pub(crate) address: String,
    /// By thread: a connection is used where its reactor is.
    idle: [Mutex<Vec<Idle>>; THREADS_MAX],
    policy: Mutex<IdlePolicy>,
    refusals: AtomicU32,
    ejected_until_ms: AtomicI64,
}

impl Backend {
    pub(crate) fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            idle: std::array::from_fn(|_| Mutex::default()),
            policy: Mutex::default(),
            refusals: AtomicU32::new(0),
            ejected_until_ms: AtomicI64::new(0),
        }
    }

    pub(crate) fn is_ejected(&self, now_ms: i64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }

    fn policy<T>(&self, with: impl FnOnce(&mut IdlePolicy) -> T) -> T {
        with(&mut self.policy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An idle connection that this request may use.
    pub(crate) async fn reuse(&self, idempotent: bool, now_ms: i64) -> Option<Lease> {
        let cap_ms = self.policy(|policy| policy.cap_ms(idempotent));
        loop {
            let mut found = self.pop(cap_ms, now_ms)?;
            // Lets the reactor tell of an end of stream that is there already. What may be sent again is
            // sent again instead.
            if !idempotent {
                tokio::task::yield_now().await;
            }
            let idle_ms = now_ms.saturating_sub(found.since_ms);
            if found.upstream.ready().await {
                return Some(Lease {
                    upstream: found.upstream,
                    idle_ms: Some(idle_ms),
                });
            }
            self.policy(|policy| policy.closes_after(idle_ms));
        }
    }

    /// What is idle on this thread.
    fn idle<T>(&self, with: impl FnOnce(&mut Vec<Idle>) -> T) -> Option<T> {
        let idle = self.idle.get(threads::lane())?;
        Some(with(
            &mut idle.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// What is idle on each thread.
    fn each_idle(&self, mut with: impl FnMut(&mut Vec<Idle>)) {
        for idle in &self.idle {
            with(&mut idle.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The most recently used connection, when it is young enough.
    fn pop(&self, cap_ms: i64, now_ms: i64) -> Option<Idle> {
        self.idle(|idle| match idle.last() {
            Some(last) if now_ms.saturating_sub(last.since_ms) <= cap_ms => idle.pop(),
            _ => None,
        })
        .flatten()
    }

    /// Closes idle connections that their instance closed, and those that are too old for everybody.
    pub(crate) fn sweep(&self, now_ms: i64) {
        let oldest_ms = self.policy(|policy| policy.cap_ms(true));
        let mut closed_after = Vec::new();
        self.each_idle(|idle| {
            idle.retain_mut(|one| {
                let age = now_ms.saturating_sub(one.since_ms);
                let open = one.upstream.is_open();
                if !open {
                    closed_after.push(age);
                }
                open && age <= oldest_ms
            });
        });
        for age in closed_after {
            self.policy(|policy| policy.closes_after(age));
        }
    }

    /// A new connection.
    pub(crate) async fn connect(&self, limit: Duration, now_ms: i64) -> io::Result<Lease> {
        let connected = tokio::time::timeout(limit, TcpStream::connect(&self.address)).await;
        let stream = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => {
                if self.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= EJECT_AFTER {
                    self.ejected_until_ms
                        .store(now_ms + EJECT_MS, Ordering::Relaxed);
                    self.refusals.store(0, Ordering::Relaxed);
                }
                return Err(error);
            }
        };
        self.refusals.store(0, Ordering::Relaxed);
        // Small requests matter more than full packets.
        let _best_effort = stream.set_nodelay(true);
        Ok(Lease {
            upstream: Upstream::begin(stream).await?,
            idle_ms: None,
        })
    }

    /// A connection on which an answer was read to its end.
    pub(crate) fn give_back(&self, lease: Lease, now_ms: i64) {
        if let Some(idle_ms) = lease.idle_ms {
            self.policy(|policy| policy.survived(idle_ms));
        }
        if lease.upstream.is_closed() {
            return;
        }
        self.idle(|idle| {
            if idle.len() < IDLE_MAX {
                idle.push(Idle {
                    upstream: lease.upstream,
                    since_ms: now_ms,
                });
            }
        });
    }

    /// A connection that ended while a request was on it.
    pub(crate) fn broke(&self, idle_ms: Option<i64>) {
        if let Some(idle_ms) = idle_ms {
            self.policy(|policy| policy.closes_after(idle_ms));
        }
    }

    /// The instance said how long it keeps idle connections.
    pub(crate) fn keeps_for(&self, seconds: u64) {
        let ms = i64::try_from(seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000);
        self.policy(|policy| policy.closes_after(ms));
    }

    pub(crate) fn close_idle(&self) {
        self.each_idle(Vec::clear);
    }
}
