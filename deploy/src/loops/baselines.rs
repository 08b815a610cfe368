//! What stable versions were like lately: read between rollouts and before a new version has traffic.
//! In memory: after a restart there is less to compare with, and the gates say so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use slipway_core::gate::{Reading, Tick};

/// Ten minutes.
pub(super) const REACH_MS: i64 = 600_000;
/// Readings of one place: two a second over that time would be more than is ever taken.
const READINGS_MAX: usize = 1_200;
/// Places.
const PLACES_MAX: usize = 10_000;

#[derive(Default)]
struct Place {
    version: String,
    readings: VecDeque<Reading>,
}

/// Readings of stable versions, by route.
#[derive(Default)]
pub(crate) struct Baselines {
    places: Mutex<BTreeMap<String, Place>>,
}

impl Baselines {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<String, Place>) -> T) -> T {
        act(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When stable was read last.
    pub(crate) fn last_at(&self, route: &str, version: &str) -> Option<i64> {
        self.with(|places| {
            let place = places.get(route).filter(|place| place.version == version)?;
            place.readings.back().map(|reading| reading.at)
        })
    }

    /// Keeps a reading; another version begins anew.
    pub(crate) fn push(&self, route: &str, version: &str, reading: Reading) {
        self.with(|places| {
            if places.len() >= PLACES_MAX && !places.contains_key(route) {
                return;
            }
            let place = places.entry(route.to_owned()).or_default();
            if place.version != version {
                version.clone_into(&mut place.version);
                place.readings.clear();
            }
            let from = reading.at.saturating_sub(REACH_MS);
            let reading = match place.readings.back() {
                Some(before) => reading.carrying(before),
                None => reading,
            };
            place.readings.push_back(reading);
            while place.readings.len() > READINGS_MAX
                || place
                    .readings
                    .front()
                    .is_some_and(|oldest| oldest.at < from)
            {
                place.readings.pop_front();
            }
        });
    }

    /// Stable's ticks of the last ten minutes.
    pub(crate) fn ticks(&self, route: &str, version: &str, now: i64) -> Vec<Tick> {
        self.with(|places| {
            let place = places.get(route).filter(|place| place.version == version);
            let Some(place) = place else {
                return vec![];
            };
            let from = now.saturating_sub(REACH_MS);
            let pairs = place.readings.iter().zip(place.readings.iter().skip(1));
            let ticks = pairs.map(|(before, after)| after.since(before));
            ticks.filter(|tick| tick.t0 >= from).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use slipway_core::gate::Counts;

    use super::*;

    fn reading(at: i64, total: u64) -> Reading {
        Reading {
            boot_id: "b1".to_owned(),
            at,
            canary: Counts::default(),
            stable: Counts {
                total,
                ..Counts::default()
            },
            parts: BTreeMap::new(),
        }
    }

    #[test]
    fn ten_minutes_of_one_version_are_kept() {
        let known = Baselines::default();
        for i in 0..200 {
            known.push(
                "shop",
                "v1",
                reading(i * 5_000, u64::try_from(i).unwrap() * 10),
            );
        }
        let ticks = known.ticks("shop", "v1", 200 * 5_000);
        assert!(ticks.len() <= 120 && ticks.iter().all(|tick| tick.stable.total == 10));
        assert_eq!(known.last_at("shop", "v1"), Some(199 * 5_000));
        assert!(known.ticks("shop", "v2", 0).is_empty());
        known.push("shop", "v2", reading(1_000_000, 5));
        assert!(
            known.ticks("shop", "v1", 1_000_000).is_empty(),
            "another version"
        );
    }
}
