//! Instances on several hosts: each gets its share, the first one first.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::rollout::{
    HostView, InstanceView, VersionSpec, at_host, host_of, share_of, wanted_at,
};
use slipway_core::traffic::{Fence, TrafficTable};

use super::{Hosts, Side};
use crate::probes::is_healthy;
use crate::targets::{Instances, Place, Target, TargetError};

/// The first host's instances are healthy within this, before the others start.
const BARRIER: Duration = Duration::from_secs(60);
/// Between two looks at them.
const BARRIER_LOOK: Duration = Duration::from_millis(250);

/// Several engines.
pub struct SeveralTargets(pub Arc<Hosts>);

impl SeveralTargets {
    /// Notes whether engine `index` answered.
    fn heard<T>(&self, index: usize, answer: Result<T, TargetError>) -> Result<T, TargetError> {
        let trouble = match &answer {
            Err(TargetError::Unknown(why)) => Some(why.clone()),
            _ => None,
        };
        self.0.note(index, Side::Engine, trouble);
        answer.map_err(|error| named(error, &self.0.all[index].name))
    }

    async fn look(&self, index: usize, place: &Place) -> Result<Instances, TargetError> {
        let limit = self.0.limit(index, Side::Engine);
        let asked = self.0.all[index].engine.observe(place);
        let late = |_| Err(TargetError::Unknown(format!("no answer within {limit:?}")));
        let answer = tokio::time::timeout(limit, asked)
            .await
            .unwrap_or_else(late);
        self.heard(index, answer)
    }

    /// The tables of a host's router, or why they are not known.
    async fn routed(&self, index: usize) -> Result<Vec<TrafficTable>, String> {
        let limit = self.0.limit(index, Side::Router);
        match tokio::time::timeout(limit, self.0.all[index].router.tables()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("its router does not answer".to_owned()),
        }
    }

    /// A host whose engine says nothing, as its router knows it: whether the instances live is what health checks
    /// find out, which ask them through that router.
    async fn as_routed(&self, index: usize) -> Instances {
        let mut seen = Instances::new();
        for table in self.routed(index).await.into_iter().flatten() {
            for share in table.versions {
                let known = share.instances.into_iter().map(|one| InstanceView {
                    id: one.id,
                    address: Some(one.address),
                    exits: 0,
                    oom: false,
                });
                seen.entry(share.version).or_default().extend(known);
            }
        }
        seen
    }

    /// Waits until what runs of a version on host `index` is healthy.
    async fn barrier(
        &self,
        index: usize,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<(), TargetError> {
        let host = &self.0.all[index];
        let waiting = async {
            loop {
                let seen = host.engine.observe(place).await?;
                let own = seen.get(&version.version_id).cloned().unwrap_or_default();
                let mut healthy = !own.is_empty();
                for one in &own {
                    healthy &= match &one.address {
                        // Where nobody can ask so, the coordinator's own checks follow.
                        Some(address) => {
                            let path = &version.health_path;
                            is_healthy(&*host.router, &one.id, address, path).await
                        }
                        None => false,
                    };
                }
                if healthy {
                    return Ok(());
                }
                tokio::time::sleep(BARRIER_LOOK).await;
            }
        };
        let late = |_| {
            let text = format!(
                "host {}: the first instances are not healthy within 60 s; no other host was begun",
                host.name
            );
            Err(TargetError::Refused(text))
        };
        tokio::time::timeout(BARRIER, waiting)
            .await
            .unwrap_or_else(late)
    }

    /// Whether instances of `version` on this host may be stopped: its router says that it sends none of it anything.
    async fn is_quiet(&self, index: usize, version: &str) -> Result<(), TargetError> {
        let name = &self.0.all[index].name;
        let unknown = |why: String| TargetError::Unknown(format!("host {name}: {why}"));
        let tables = self.routed(index).await.map_err(unknown)?;
        if tables.iter().any(|table| table.weight_of(version) > 0) {
            let text = "its router still gives the version traffic: nothing of it is stopped there";
            return Err(unknown(text.to_owned()));
        }
        Ok(())
    }
}

fn named(error: TargetError, host: &str) -> TargetError {
    match error {
        TargetError::Refused(why) => TargetError::Refused(format!("host {host}: {why}")),
        TargetError::Unknown(why) => TargetError::Unknown(format!("host {host}: {why}")),
        stale @ TargetError::StaleToken { .. } => stale,
    }
}

/// What several answers come to: a newer owner first, then whoever said no, then whoever said nothing.
fn worst(answers: Vec<(usize, Result<(), TargetError>)>) -> Result<(), TargetError> {
    let rank = |error: &TargetError| match error {
        TargetError::StaleToken { .. } => 0,
        TargetError::Refused(_) => 1,
        TargetError::Unknown(_) => 2,
    };
    let errors = answers.into_iter().filter_map(|(_, answer)| answer.err());
    errors.min_by_key(rank).map_or(Ok(()), Err)
}

#[async_trait]
impl Target for SeveralTargets {
    async fn ensure(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<(), TargetError> {
        self.ensure_some(fence, place, version, version.replicas)
            .await
    }

    async fn ensure_some(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
        count: u32,
    ) -> Result<(), TargetError> {
        // Whoever was dead before is looked at first: a host that is back takes part again.
        let _seen = self.observe(place).await;
        let views = self.0.views();
        let reached: Vec<usize> = self
            .0
            .indices()
            .filter(|index| !views[*index].is_out())
            .collect();
        let one = |index: usize| {
            let mut own = version.clone();
            own.replicas = wanted_at(count, version.replicas, index, views.len());
            async move {
                let answer = self.0.all[index].engine.ensure(fence, place, &own).await;
                self.heard(index, answer)
            }
        };
        let Some((first, others)) = reached.split_first() else {
            return Err(TargetError::Unknown("no host can be reached".to_owned()));
        };
        one(*first).await?;
        self.barrier(*first, place, version).await?;
        worst(self.0.each(others.iter().copied(), one).await)
    }

    async fn observe(&self, place: &Place) -> Result<Instances, TargetError> {
        let answers = self
            .0
            .each(self.0.indices(), |index| self.look(index, place))
            .await;
        let (mut all, mut heard, mut last) = (Instances::new(), false, None);
        for (index, answer) in answers {
            let name = &self.0.all[index].name;
            let (seen, is_routed) = match answer {
                Ok(seen) => {
                    heard = true;
                    (seen, false)
                }
                Err(error) => {
                    last = Some(error);
                    (self.as_routed(index).await, true)
                }
            };
            for (version, list) in seen {
                let own = list.into_iter().map(|mut one| {
                    if !is_routed {
                        one.id = at_host(&one.id, name);
                    }
                    one
                });
                all.entry(version).or_default().extend(own);
            }
        }
        match last {
            Some(error) if !heard => Err(error),
            _ => Ok(all),
        }
    }

    async fn memory(&self, place: &Place, version: &str) -> Result<Option<u32>, TargetError> {
        let ask = |index: usize| async move {
            if self.0.is_silent(index, Side::Engine) {
                return Ok(None);
            }
            let answer = self.0.all[index].engine.memory(place, version).await;
            self.heard(index, answer)
        };
        let mut fullest = None;
        for (_, answer) in self.0.each(self.0.indices(), ask).await {
            fullest = fullest.max(answer?);
        }
        Ok(fullest)
    }

    async fn park(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        keep: u32,
        grace: Duration,
    ) -> Result<(), TargetError> {
        let seen = self.observe(place).await?;
        let all = seen.get(version).map(Vec::as_slice).unwrap_or_default();
        let count = |list: usize| u32::try_from(list).unwrap_or(u32::MAX);
        let total = count(all.len());
        let views = self.0.views();
        let reached = self.0.indices().filter(|index| !views[*index].is_silent());
        let one = |index: usize| {
            let name = Some(views[index].name.as_str());
            let own = all.iter().filter(|one| host_of(&one.id).1 == name).count();
            let keep = share_of(keep, total, count(own));
            async move {
                let answer = self.0.all[index]
                    .engine
                    .park(fence, place, version, keep, grace)
                    .await;
                self.heard(index, answer)
            }
        };
        worst(self.0.each(reached, one).await)
    }

    async fn retire(
        &self,
        fence: Fence,
        place: &Place,
        version: &str,
        grace: Duration,
    ) -> Result<(), TargetError> {
        let _seen = self.observe(place).await;
        let one = |index: usize| async move {
            if self.0.is_silent(index, Side::Engine) {
                let text = format!(
                    "host {}: its engine does not answer",
                    self.0.all[index].name
                );
                return Err(TargetError::Unknown(text));
            }
            self.is_quiet(index, version).await?;
            let answer = self.0.all[index]
                .engine
                .retire(fence, place, version, grace)
                .await;
            self.heard(index, answer)
        };
        worst(self.0.each(self.0.indices(), one).await)
    }

    fn hosts(&self) -> Vec<HostView> {
        self.0.views()
    }
}
