//! The router's own watch over new versions: the tripwire, and the lease of a coordinator that looks. On its
//! way it closes idle connections that nobody waits on.
//!
//! Decides nothing but that: the rule is core's, and both ways lead only to stable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slipway_core::traffic::{TRIP_WINDOW_MS, TripSeen, trips};
use slipway_daemon::Shutdown;

use crate::counters::VersionState;
use crate::services::{Service, Services};

/// Four looks a second: a version is out within one second of failing.
const LOOK: Duration = Duration::from_millis(250);

/// Counters of the new version and of everybody else, at one moment.
type Moment = (i64, TripSeen, TripSeen);

/// What was counted lately, for one new version.
#[derive(Default)]
struct Lately {
    canary: String,
    moments: VecDeque<Moment>,
}

/// Runs until shutdown.
pub(crate) async fn guard(services: Arc<Services>, shutdown: Shutdown) {
    let mut lately: BTreeMap<String, Lately> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let all = services.all();
        lately.retain(|name, _| all.contains_key(name));
        for (name, service) in all.iter() {
            let seen = lately.entry(name.clone()).or_default();
            look(&services, name, service, seen).await;
            if let Some(live) = service.live.load().as_ref() {
                live.sweep(services.now_ms());
            }
        }
    }
}

async fn look(services: &Services, name: &str, service: &Service, lately: &mut Lately) {
    let now_ms = services.now_ms();
    let Some(live) = service.live.load_full() else {
        return;
    };
    let canary = &live.table.canary;
    if canary.is_empty() || live.table.weight_of(canary) == 0 {
        lately.moments.clear();
        return;
    }
    if service.lease_is_over(now_ms) && live.table.lease.is_some_and(|lease| lease.revert) {
        tracing::warn!(
            service = name,
            version = canary,
            "nobody looks after it: stable is back"
        );
        taken(name, services.take_out(name, None).await);
        return;
    }
    if lately.canary != *canary {
        lately.canary.clone_from(canary);
        lately.moments.clear();
    }
    let (mut new, mut stable) = (TripSeen::default(), TripSeen::default());
    for (version, state) in service.versions() {
        let into = if version == *canary {
            &mut new
        } else {
            &mut stable
        };
        add(into, &state);
    }
    if lately.moments.is_empty() && began_lately(service, canary, now_ms) {
        // What it was asked since it got its weight counts from the first request.
        lately
            .moments
            .push_back((now_ms, TripSeen::default(), stable));
    }
    lately.moments.push_back((now_ms, new, stable));
    while lately
        .moments
        .front()
        .is_some_and(|(at, ..)| now_ms - at > TRIP_WINDOW_MS)
    {
        lately.moments.pop_front();
    }
    let Some((_, new_before, stable_before)) = lately.moments.front().copied() else {
        return;
    };
    if let Some(why) = trips(since(new, new_before), since(stable, stable_before)) {
        tracing::error!(
            service = name,
            version = canary,
            why,
            "taken out by the tripwire"
        );
        taken(name, services.take_out(name, Some(why)).await);
    }
}

/// Whether a version had no traffic before these last looks.
fn began_lately(service: &Service, version: &str, now_ms: i64) -> bool {
    let versions = service.versions();
    let since = versions.get(version).and_then(|state| state.serves_since());
    since.is_some_and(|since| now_ms.saturating_sub(since) <= TRIP_WINDOW_MS)
}

fn taken(service: &str, done: Result<bool, crate::services::Refused>) {
    match done {
        Ok(true) => {}
        Ok(false) => tracing::warn!(service, "there is no stable version to go back to"),
        // In use all the same.
        Err(error) => tracing::error!(service, %error, "the way back is in use, and not durable"),
    }
}

fn add(seen: &mut TripSeen, state: &VersionState) {
    let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let refused = of(&state.connect_failed);
    let bad = of(&state.status_5xx)
        .saturating_add(refused)
        .saturating_add(of(&state.reset))
        .saturating_add(of(&state.timed_out));
    seen.bad = seen.bad.saturating_add(bad);
    seen.refused = seen.refused.saturating_add(refused);
    seen.completed = seen.completed.saturating_add(of(&state.completed));
}

fn since(now: TripSeen, before: TripSeen) -> TripSeen {
    TripSeen {
        completed: now.completed.saturating_sub(before.completed),
        bad: now.bad.saturating_sub(before.bad),
        refused: now.refused.saturating_sub(before.refused),
    }
}
