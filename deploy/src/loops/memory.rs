//! How full the memory of both versions' instances is: looked at every ten seconds while gates look, kept
//! before it counts.

use serde::{Deserialize, Serialize};
use slipway_core::gate::MemorySample;
use slipway_core::rollout::State;
use slipway_store::{GateTickRow, RolloutRow, StoreError};

use super::drive::Driver;
use super::gates::json;

/// Looks are rows of this source.
pub(super) const SOURCE: &str = "memory";
/// Between two looks.
const EVERY_MS: i64 = 10_000;

/// One look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Look {
    at: i64,
    /// Of the new version's fullest instance, thousandths of its limit; none = no limit is set, or the
    /// target cannot say.
    canary: Option<u32>,
    /// Stable's highest so far, the same.
    stable_highest: u32,
}

/// What was seen in this step.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    all: Vec<Look>,
    /// Before it.
    stable_before: u32,
}

impl Looks {
    /// What is kept.
    pub(super) fn restore(rows: &[GateTickRow]) -> Self {
        let all = rows
            .iter()
            .filter(|row| row.source == SOURCE)
            .filter_map(|row| serde_json::from_str(&row.counters_json).ok())
            .collect();
        Self {
            all,
            stable_before: 0,
        }
    }

    /// For the next step: stable is the same.
    pub(super) fn next_step(&self) -> Self {
        Self {
            all: Vec::new(),
            stable_before: self.stable_highest(),
        }
    }

    /// Samples of the new version; `None` where there is nothing to be full of.
    pub(super) fn samples(&self) -> Option<Vec<MemorySample>> {
        let of = |look: &Look| {
            let at = look.at;
            look.canary.map(|permille| MemorySample { at, permille })
        };
        let samples: Vec<MemorySample> = self.all.iter().filter_map(of).collect();
        (!samples.is_empty()).then_some(samples)
    }

    /// Stable's highest since the rollout began to look, thousandths of its limit.
    pub(super) fn stable_highest(&self) -> u32 {
        let last = self.all.last().map_or(0, |look| look.stable_highest);
        last.max(self.stable_before)
    }
}

/// Looks, when it is time.
pub(super) async fn look(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
) -> Result<(), StoreError> {
    if driver.plan.gates.memory.is_none() {
        return Ok(());
    }
    let now = driver.coordinator.clock.now().as_millis();
    let Some(window) = driver.memory.window.as_ref() else {
        return Ok(());
    };
    let last = window.memory.all.last();
    if last.is_some_and(|last| now.saturating_sub(last.at) < EVERY_MS) {
        return Ok(());
    }
    let canary = fullest(driver, &driver.plan.new.version_id).await;
    let stable = match &state.stable {
        Some(stable) => fullest(driver, stable).await,
        None => None,
    };
    let Some(window) = driver.memory.window.as_mut() else {
        return Ok(());
    };
    let looked = Look {
        at: now,
        canary,
        stable_highest: stable.unwrap_or(0).max(window.memory.stable_highest()),
    };
    let kept = GateTickRow {
        deployment_id: driver.id.to_owned(),
        step_idx: i64::from(state.step_idx),
        seq: i64::try_from(window.memory.all.len()).unwrap_or(i64::MAX),
        source: SOURCE.to_owned(),
        boot_id: String::new(),
        t0: window.memory.all.last().map_or(now, |last| last.at),
        t1: now,
        counters_json: json(&looked)?,
    };
    window.memory.all.push(looked);
    driver
        .coordinator
        .db
        .keep_gate_ticks(vec![kept], row.token)
        .await?;
    Ok(())
}

/// Thousandths of the limit that the fullest instance uses. A target that does not answer says nothing: the
/// other gates are blind then.
async fn fullest(driver: &Driver<'_>, version: &str) -> Option<u32> {
    let said = driver.adapters.target.memory(&driver.place, version).await;
    said.unwrap_or_else(|error| {
        tracing::warn!(rollout = driver.id, %error, "cannot read the memory of instances");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stables_highest_is_carried_from_step_to_step_and_a_version_without_a_limit_is_not_judged() {
        let look = |at, canary, stable_highest| Look {
            at,
            canary,
            stable_highest,
        };
        let looks = Looks {
            all: vec![look(1, Some(500), 300), look(2, None, 420)],
            stable_before: 400,
        };
        assert_eq!(looks.samples().unwrap().len(), 1);
        let next = looks.next_step();
        assert_eq!((next.stable_highest(), next.samples()), (420, None));
    }
}
