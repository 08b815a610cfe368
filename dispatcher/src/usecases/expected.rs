//! How long the stages of a pipeline take, by the last times they passed: for the order of the queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slipway_core::build::critical;
use slipway_core::id::RepoId;
use slipway_core::time::Timestamp;

use crate::state::App;

/// How long an answer is good: a median of ten moves slowly.
const FRESH: Duration = Duration::from_secs(300);
/// Pipelines remembered; beyond it the oldest answer goes.
const KNOWN_MAX: usize = 1_000;

type Times = Arc<BTreeMap<String, Duration>>;

/// What was found lately, by repository and pipeline.
#[derive(Default)]
pub struct Expected {
    known: Mutex<BTreeMap<(RepoId, String), (Timestamp, Times)>>,
}

impl Expected {
    fn get(&self, key: &(RepoId, String), now: Timestamp) -> Option<Times> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, times) = known.get(key)?;
        (now.since(*at) < FRESH).then(|| Arc::clone(times))
    }

    fn put(&self, key: (RepoId, String), now: Timestamp, times: &Times) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX && !known.contains_key(&key) {
            let oldest = known.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                known.remove(&oldest);
            }
        }
        known.insert(key, (now, Arc::clone(times)));
    }
}

/// The expected time of each stage of a pipeline that passed lately. Nothing when the store does not
/// answer: a build is not refused for want of an estimate.
pub async fn expected(app: &App, repo: &RepoId, pipeline: &str) -> Times {
    let key = (repo.clone(), pipeline.to_owned());
    let now = app.clock.ticks();
    if let Some(known) = app.expected.get(&key, now) {
        return known;
    }
    let Ok(rows) = app.db.past_durations(repo, pipeline).await else {
        return Times::default();
    };
    let mut past: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for (stage, millis) in rows {
        let took = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        past.entry(stage).or_default().push(took);
    }
    let times = past.into_iter();
    let times = times.map(|(stage, past)| (stage, critical::expected(past)));
    let times = Arc::new(times.collect());
    app.expected.put(key, now, &times);
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_forgotten_in_time_and_the_oldest_makes_room() {
        let (known, times) = (Expected::default(), Times::default());
        let repo: RepoId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let key = |n: usize| (repo.clone(), n.to_string());
        let at = |n: usize| Timestamp::from_millis(i64::try_from(n).unwrap());
        for n in 0..=KNOWN_MAX {
            known.put(key(n), at(n), &times);
        }
        assert!(known.get(&key(0), at(0)).is_none(), "the oldest went");
        assert!(known.get(&key(1), at(1)).is_some());
        assert!(known.get(&key(1), at(1).after(FRESH)).is_none());
    }
}
