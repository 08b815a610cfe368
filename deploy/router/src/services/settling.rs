//! Waiting until a version has nothing in flight, here and in the process before this one.

use std::time::Duration;

use super::{Refused, Service, Services};

/// How long a commit waits for short requests of a version that lost its weight. It is effective
/// before; this only makes the everyday case (old instance stopped at the reply) harmless, also on a
/// host so busy that a short request takes its time. A caller that wants certainty drains.
const QUIESCE: Duration = Duration::from_millis(250);
/// Between two questions to the process before this one.
const AGAIN: Duration = Duration::from_millis(20);
/// Longest drain.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);

impl Services {
    /// Waits until nothing is in flight at a version without weight; answers how many requests are.
    pub(crate) async fn drain(
        &self,
        name: &str,
        version: &str,
        deadline: Duration,
    ) -> Result<u64, Refused> {
        let no_service = || Refused::NoService(name.to_owned());
        let service = self
            .by_name
            .load()
            .get(name)
            .cloned()
            .ok_or_else(no_service)?;
        let live = service.live.load_full();
        if live
            .as_ref()
            .is_some_and(|live| live.table.weight_of(version) > 0)
        {
            return Err(Refused::HasWeight(version.to_owned()));
        }
        let all = self.emptied(&service, version);
        let _cut = tokio::time::timeout(deadline.min(DRAIN_MAX), all).await;
        if let Some(live) = live {
            for backend in live.backends(version) {
                backend.close_idle();
            }
        }
        Ok(self
            .in_flight_at(name, version)
            .saturating_add(self.before(name, version).await))
    }

    /// Until nothing is in flight at a version, here and in the process before this one.
    async fn emptied(&self, service: &Service, version: &str) {
        // A version that was never here has nothing in flight.
        if let Some(state) = service.versions().get(version) {
            state.emptied().await;
        }
        while self.before(&service.name, version).await > 0 {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What the process before this one has in flight at a version.
    async fn before(&self, service: &str, version: &str) -> u64 {
        match self.predecessor.get() {
            Some(before) => before.in_flight_at(service, version).await,
            None => 0,
        }
    }

    /// What is in flight here at a version.
    pub(crate) fn in_flight_at(&self, service: &str, version: &str) -> u64 {
        let services = self.by_name.load();
        let states = services.get(service).map(|service| service.versions());
        let state = states.as_ref().and_then(|states| states.get(version));
        state.map_or(0, |state| state.in_flight.count())
    }

    /// Waits for short requests of versions without weight.
    pub(super) async fn quiesce(&self, service: &Service) {
        let draining = service.versions().into_iter();
        let draining = draining.filter(|(_, state)| state.is_draining());
        let all = draining.map(|(version, _)| async move { self.emptied(service, &version).await });
        let all = futures::future::join_all(all);
        let _long_requests_go_on = tokio::time::timeout(QUIESCE, all).await;
    }
}
