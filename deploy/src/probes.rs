//! Looks at instances from outside: health checks with their memory, and smoke checks.
//!
//! What an instance answers is bounded: two seconds, 64 KiB, no redirects. Whatever is missing, late
//! or absurd is a failure, never a pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use slipway_core::pipeline::SmokeCheck;
use slipway_core::rollout::{Health, InstanceView, Smoke, VersionSpec, host_of};

use crate::traffic::Traffic;

/// For one health check.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);
/// Between two health checks of an instance.
const HEALTH_EVERY: Duration = Duration::from_secs(1);
/// Failures in a row that make an instance unhealthy.
const FAILURES: u32 = 3;
/// Of an answer's body.
const BODY_MAX: usize = 64 * 1024;
/// Health checks under way at once.
const PARALLEL: usize = 16;

/// Asks instances.
#[derive(Clone)]
pub(crate) struct Prober {
    client: reqwest::Client,
}

/// Whether an instance is healthy, as the router of its host finds out. Where nobody can ask so, being there must do.
pub(crate) async fn is_healthy(via: &dyn Traffic, id: &str, address: &str, path: &str) -> bool {
    let asked = via.ask(id, address, path, HEALTH_LIMIT).await;
    asked.is_none_or(|answer| answer.is_ok_and(|(status, _)| (200..300).contains(&status)))
}

/// What is remembered of the instances of one version. Lives as long as its coordinator: after a
/// restart the passes are counted again.
#[derive(Default)]
pub(crate) struct HealthMemory {
    instances: BTreeMap<String, Streak>,
    last_round: Option<Duration>,
    ready_since: Option<Duration>,
    detail: String,
}

#[derive(Clone, Copy, Default)]
struct Streak {
    passes: u32,
    failures: u32,
}

impl Prober {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // A proxy of this process's environment must not stand between us and an instance.
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client })
    }

    /// One round of health checks, when it is time for one, and what it comes to.
    pub(crate) async fn health(
        &self,
        memory: &mut HealthMemory,
        version: &VersionSpec,
        passes: u32,
        instances: &[InstanceView],
        now: Duration,
        via: &Arc<dyn Traffic>,
    ) -> Health {
        let due = memory
            .last_round
            .is_none_or(|last| now.saturating_sub(last) >= HEALTH_EVERY);
        if due {
            memory.last_round = Some(now);
            let mut asked = Vec::with_capacity(instances.len());
            for instance in instances.iter().cloned() {
                let (path, via) = (version.health_path.clone(), Arc::clone(via));
                asked.push(self.clone().check(instance, path, via));
            }
            let results: Vec<(String, Result<(), String>)> = futures::stream::iter(asked)
                .buffer_unordered(PARALLEL)
                .collect()
                .await;
            memory.remember(results, instances);
        }
        memory.judge(version.replicas, passes, now)
    }

    async fn check(
        self,
        instance: InstanceView,
        path: String,
        via: Arc<dyn Traffic>,
    ) -> (String, Result<(), String>) {
        let Some(address) = &instance.address else {
            return (instance.id, Err("not running".to_owned()));
        };
        let asked = self
            .ask(&instance.id, address, &path, HEALTH_LIMIT, &via)
            .await;
        let judged = asked.and_then(|(status, _)| match status {
            200..=299 => Ok(()),
            other => Err(format!("{path} answered {other}")),
        });
        (instance.id, judged)
    }

    /// An instance that only its own host's router reaches is asked through that one.
    async fn ask(
        &self,
        id: &str,
        address: &str,
        path: &str,
        limit: Duration,
        via: &Arc<dyn Traffic>,
    ) -> Result<(u16, Vec<u8>), String> {
        if host_of(id).1.is_some()
            && let Some(answer) = via.ask(id, address, path, limit).await
        {
            return answer;
        }
        self.get(address, path, limit).await
    }

    /// Status and body of a GET, whole within `limit`.
    async fn get(
        &self,
        address: &str,
        path: &str,
        limit: Duration,
    ) -> Result<(u16, Vec<u8>), String> {
        let url = format!("http://{address}{path}");
        let asking = async {
            let response = self
                .client
                .get(&url)
                .send()
                .await
                .map_err(|e| describe(&e))?;
            let status = response.status().as_u16();
            let mut body = Vec::new();
            let mut chunks = response.bytes_stream();
            while let Some(chunk) = chunks.next().await {
                body.extend_from_slice(&chunk.map_err(|e| describe(&e))?);
                if body.len() > BODY_MAX {
                    return Err("the answer is larger than 64 KiB".to_owned());
                }
            }
            Ok((status, body))
        };
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| Err(format!("no whole answer within {} ms", limit.as_millis())))
    }

    /// Every check against every instance. Asks the instances themselves: the router has no way yet
    /// to reach a version without weight.
    pub(crate) async fn smoke(
        &self,
        checks: &[SmokeCheck],
        instances: &[InstanceView],
        via: &Arc<dyn Traffic>,
    ) -> Smoke {
        if instances.is_empty() {
            return Smoke::Failed("there is no instance to check".to_owned());
        }
        for check in checks {
            for instance in instances {
                if let Err(why) = self.smoke_one(check, instance, via).await {
                    return Smoke::Failed(why);
                }
            }
        }
        Smoke::Passed
    }

    async fn smoke_one(
        &self,
        check: &SmokeCheck,
        instance: &InstanceView,
        via: &Arc<dyn Traffic>,
    ) -> Result<(), String> {
        let SmokeCheck::Http {
            path,
            expect,
            contains,
            within_ms,
        } = check
        else {
            return Err("a kind of check that cannot be carried out here".to_owned());
        };
        let address = instance
            .address
            .as_ref()
            .ok_or("an instance is not running")?;
        let limit = Duration::from_millis(*within_ms);
        let (status, body) = self
            .ask(&instance.id, address, path, limit, via)
            .await
            .map_err(|why| format!("{path}: {why}"))?;
        if status != *expect {
            return Err(format!("{path} answered {status}, expected {expect}"));
        }
        if let Some(text) = contains
            && !String::from_utf8_lossy(&body).contains(text.as_str())
        {
            return Err(format!(
                "the answer of {path} does not contain the expected text"
            ));
        }
        Ok(())
    }
}

/// The class of the error without its address.
fn describe(error: &reqwest::Error) -> String {
    if error.is_connect() {
        "connection refused or unreachable".to_owned()
    } else if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        "the answer is not readable HTTP".to_owned()
    }
}

impl HealthMemory {
    fn remember(&mut self, results: Vec<(String, Result<(), String>)>, now: &[InstanceView]) {
        self.instances
            .retain(|id, _| now.iter().any(|instance| instance.id == *id));
        for (id, result) in results {
            let streak = self.instances.entry(id.clone()).or_default();
            match result {
                Ok(()) => {
                    *streak = Streak {
                        passes: streak.passes.saturating_add(1),
                        failures: 0,
                    };
                }
                Err(why) => {
                    *streak = Streak {
                        passes: 0,
                        failures: streak.failures.saturating_add(1),
                    };
                    self.detail = format!("{id}: {why}");
                }
            }
        }
    }

    fn judge(&mut self, replicas: u32, passes: u32, now: Duration) -> Health {
        let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
        let ready = self.instances.len() >= wanted
            && self
                .instances
                .values()
                .all(|streak| streak.passes >= passes);
        self.ready_since = ready.then_some(self.ready_since.unwrap_or(now));
        let failing = self
            .instances
            .values()
            .filter(|s| s.failures >= FAILURES)
            .count();
        Health {
            ready_for: self.ready_since.map(|since| now.saturating_sub(since)),
            failing: u32::try_from(failing).unwrap_or(u32::MAX),
            detail: self.detail.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(memory: &mut HealthMemory, second: u64, good: bool) -> Health {
        let id = "slipway-x-1".to_owned();
        let seen = vec![InstanceView {
            exits: 0,
            oom: false,
            id: id.clone(),
            address: Some("127.0.0.1:1".to_owned()),
        }];
        let result = if good {
            Ok(())
        } else {
            Err("/health answered 500".to_owned())
        };
        memory.remember(vec![(id, result)], &seen);
        memory.judge(1, 3, Duration::from_secs(second))
    }

    #[test]
    fn three_passes_in_a_row_make_ready_and_one_failure_starts_over() {
        let mut memory = HealthMemory::default();
        assert_eq!(round(&mut memory, 1, true).ready_for, None);
        assert_eq!(round(&mut memory, 2, true).ready_for, None);
        assert_eq!(round(&mut memory, 3, false).ready_for, None);
        for second in 4..6 {
            assert_eq!(round(&mut memory, second, true).ready_for, None, "{second}");
        }
        assert_eq!(round(&mut memory, 6, true).ready_for, Some(Duration::ZERO));
        assert_eq!(
            round(&mut memory, 9, true).ready_for,
            Some(Duration::from_secs(3))
        );
    }

    #[test]
    fn three_failures_in_a_row_make_unhealthy_and_flapping_does_not() {
        let mut memory = HealthMemory::default();
        for second in 0..10 {
            assert_eq!(round(&mut memory, second, second % 2 == 0).failing, 0);
        }
        round(&mut memory, 11, false);
        round(&mut memory, 12, false);
        let health = round(&mut memory, 13, false);
        assert_eq!(health.failing, 1);
        assert_eq!(health.detail, "slipway-x-1: /health answered 500");
    }
}
