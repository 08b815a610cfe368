//! Readings for the gates: taken each tick, kept before they count, judged by core.
//!
//! A step's window begins before its weight does, with stable's last ten minutes; a coordinator that
//! takes over goes on with what is kept.

use std::collections::BTreeMap;

use slipway_core::gate::{Counts, Exits, GateReport, Instances, Part, Reading, Tick};
use slipway_core::rollout::{InstanceView, Phase, State, Windows, judge_gates};
use slipway_core::traffic::Fence;
use slipway_store::{GateTickRow, RolloutRow, StoreError};

use super::drive::Driver;
use super::memory::{self, Looks};
use super::own_gates::{self, Answers};
use crate::traffic::Reading as Traffic;

/// Readings of one step: three bakes of a day would be more, and nobody judges those by hand.
const ROWS_MAX: u32 = 20_000;
/// Sources of rows.
const ROUTER: &str = "router";
const BASELINE: &str = "baseline";

/// What was read for the step that is looked at.
pub(super) struct Window {
    step_idx: u32,
    baseline: Vec<Tick>,
    last: Reading,
    ticks: Vec<Tick>,
    pub(super) answers: Answers,
    pub(super) memory: Looks,
}

impl Window {
    /// From what is kept; `None` when nothing is.
    fn restore(step_idx: u32, rows: &[GateTickRow]) -> Option<Self> {
        let of = |source: &'static str| rows.iter().filter(move |row| row.source == source);
        let baseline = of(BASELINE)
            .filter_map(|row| serde_json::from_str(&row.counters_json).ok())
            .collect();
        let mut readings =
            of(ROUTER).filter_map(|row| serde_json::from_str::<Reading>(&row.counters_json).ok());
        let mut window = Self {
            step_idx,
            baseline,
            last: readings.next()?,
            ticks: vec![],
            answers: own_gates::restore(rows),
            memory: Looks::restore(rows),
        };
        readings.for_each(|reading| window.push(reading));
        Some(window)
    }

    fn push(&mut self, reading: Reading) {
        self.ticks.push(reading.since(&self.last));
        self.last = reading;
    }
}

/// Before a new version has traffic, stable is read each tick all the same: what it was like before is
/// what the new version is compared with.
pub(super) async fn before(driver: &mut Driver<'_>, state: &State) {
    let early = matches!(state.phase, Phase::Prepare | Phase::Warm | Phase::Smoke);
    let (true, Some(stable)) = (early, &state.stable) else {
        return;
    };
    let now = driver.coordinator.clock.now().as_millis();
    let tick_ms = i64::try_from(driver.plan.timings.tick_ms).unwrap_or(i64::MAX);
    let route = &driver.route;
    let last = driver.coordinator.baselines.last_at(route, stable);
    if last.is_some_and(|last| now.saturating_sub(last) < tick_ms) {
        return;
    }
    if let Ok(reading) = driver.adapters.traffic.read(route).await {
        let reading = as_stable(&reading, stable, now);
        driver.coordinator.baselines.push(route, stable, reading);
    }
}

/// A reading of stable alone.
pub(crate) fn as_stable(reading: &Traffic, stable: &str, at: i64) -> Reading {
    Reading {
        boot_id: reading.boot_id.clone(),
        at,
        canary: Counts::default(),
        stable: reading.counters.get(stable).cloned().unwrap_or_default(),
        parts: parts(reading, None, Some(stable)),
    }
}

/// Begins the window of the step that is about to get its weight.
pub(super) async fn begin(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
) -> Result<(), StoreError> {
    let reading = driver.adapters.traffic.read(&driver.route).await;
    let reading = reading.unwrap_or_default();
    load(driver, row, state, &reading).await
}

/// The window of the present step: what is kept, or a new one from `reading` on.
async fn load(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
    reading: &Traffic,
) -> Result<(), StoreError> {
    let known = driver.memory.window.as_ref();
    if known.is_some_and(|window| window.step_idx == state.step_idx) {
        return Ok(());
    }
    let db = &driver.coordinator.db;
    if let Some(stable) = &state.stable {
        let version = db.version(stable).await?;
        driver.memory.stable_since = version.map(|version| version.created_at);
    }
    let kept = db.gate_ticks(driver.id, state.step_idx, ROWS_MAX).await?;
    if let Some(window) = Window::restore(state.step_idx, &kept) {
        driver.memory.window = Some(window);
        return Ok(());
    }
    let now = driver.coordinator.clock.now().as_millis();
    let mut baseline = match &state.stable {
        Some(stable) => driver
            .coordinator
            .baselines
            .ticks(&driver.route, stable, now),
        None => vec![],
    };
    let memory = known.map_or_else(Looks::default, |window| window.memory.next_step());
    // Stable beside the steps before this one.
    baseline.extend(known.into_iter().flat_map(|window| window.ticks.clone()));
    let from = now.saturating_sub(super::baselines::REACH_MS);
    baseline.retain(|tick| tick.t1 > from);
    let first = both(driver, state, reading, now);
    let mut rows = vec![tick_row(driver.id, state, 0, &first, first.at)?];
    for (seq, tick) in (0_i64..).zip(&baseline) {
        rows.push(GateTickRow {
            deployment_id: driver.id.to_owned(),
            step_idx: i64::from(state.step_idx),
            seq,
            source: BASELINE.to_owned(),
            boot_id: tick.boot_id.clone(),
            t0: tick.t0,
            t1: tick.t1,
            counters_json: json(tick)?,
        });
    }
    db.keep_gate_ticks(rows, row.token).await?;
    driver.memory.window = Some(Window {
        step_idx: state.step_idx,
        baseline,
        last: first,
        ticks: vec![],
        answers: Answers::new(),
        memory,
    });
    Ok(())
}

/// Judges the step that is looked at, with a new tick when it is time for one. `None` = it cannot be
/// judged now.
pub(super) async fn judge(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
    reading: &Traffic,
) -> Option<GateReport> {
    let looking = matches!(state.phase, Phase::Bake | Phase::Watch | Phase::Paused);
    if !looking {
        return None;
    }
    let kept = match tick(driver, row, state, reading).await {
        Ok(()) => more(driver, row, state).await,
        Err(error) => Err(error),
    };
    match kept {
        Ok(()) => {}
        Err(error) => {
            tracing::warn!(rollout = driver.id, %error, "cannot keep a reading: nothing is judged");
            return None;
        }
    }
    let window = driver.memory.window.as_ref()?;
    let known = instances(driver, row, &window.memory);
    let windows = Windows {
        baseline: &window.baseline,
        ticks: &window.ticks,
        instances: known.as_ref(),
        custom: Some(&window.answers),
    };
    judge_gates(&driver.plan, state, windows, driver.coordinator.clock.now())
}

/// What is asked less often than the router.
async fn more(driver: &mut Driver<'_>, row: &RolloutRow, state: &State) -> Result<(), StoreError> {
    memory::look(driver, row, state).await?;
    own_gates::ask(driver, row, state).await
}

/// Ends of instances, over the time that each has lived; `None` while the target cannot be read. The new
/// version's is counted from the rollout's start, which is longer and therefore speaks for it.
fn instances(driver: &Driver<'_>, row: &RolloutRow, looks: &Looks) -> Option<Instances> {
    let target = driver.memory.target.as_ref()?;
    let now = driver.coordinator.clock.now().as_millis();
    let lived = |list: &[InstanceView], since: i64| {
        let ms = u64::try_from(now.saturating_sub(since)).unwrap_or(0);
        let count = u64::try_from(list.len()).unwrap_or(u64::MAX);
        Exits {
            count: list
                .iter()
                .fold(0, |sum, one| sum.saturating_add(one.exits)),
            oom: u64::try_from(list.iter().filter(|one| one.oom).count()).unwrap_or(0),
            seconds: (ms / 1_000).saturating_mul(count),
        }
    };
    let began = row.started_at.unwrap_or(row.created_at);
    Some(Instances {
        canary: lived(&target.new, began),
        stable: lived(&target.stable, driver.memory.stable_since.unwrap_or(began)),
        memory: looks.samples(),
        stable_memory_permille: looks.stable_highest(),
    })
}

async fn tick(
    driver: &mut Driver<'_>,
    row: &RolloutRow,
    state: &State,
    reading: &Traffic,
) -> Result<(), StoreError> {
    load(driver, row, state, reading).await?;
    let now = driver.coordinator.clock.now().as_millis();
    let next = both(driver, state, reading, now);
    let tick_ms = i64::try_from(driver.plan.timings.tick_ms).unwrap_or(i64::MAX);
    let Some(window) = driver.memory.window.as_mut() else {
        return Ok(());
    };
    if next.at.saturating_sub(window.last.at) < tick_ms {
        return Ok(());
    }
    let next = next.carrying(&window.last);
    let seq = i64::try_from(window.ticks.len()).unwrap_or(i64::MAX - 1) + 1;
    let kept = tick_row(driver.id, state, seq, &next, window.last.at)?;
    driver
        .coordinator
        .db
        .keep_gate_ticks(vec![kept], row.token)
        .await?;
    window.push(next);
    let fence = Fence {
        token: u64::try_from(row.token).unwrap_or(0),
        generation: reading.fence.generation,
    };
    if let Err(error) = driver.adapters.traffic.renew(fence, &driver.route).await {
        tracing::warn!(rollout = driver.id, %error, "cannot renew the lease of the new version");
    }
    Ok(())
}

fn both(driver: &Driver<'_>, state: &State, reading: &Traffic, at: i64) -> Reading {
    let counts = |version: &str| reading.counters.get(version).cloned().unwrap_or_default();
    Reading {
        boot_id: reading.boot_id.clone(),
        at,
        canary: counts(&driver.plan.new.version_id),
        stable: state.stable.as_deref().map(counts).unwrap_or_default(),
        parts: parts(
            reading,
            Some(&driver.plan.new.version_id),
            state.stable.as_deref(),
        ),
    }
}

/// The same of each of several routers: one that starts again begins anew, and the others do not.
fn parts(reading: &Traffic, new: Option<&str>, stable: Option<&str>) -> BTreeMap<String, Part> {
    let part = |part: &crate::traffic::Part| {
        let of = |version: Option<&str>| {
            version
                .and_then(|version| part.counters.get(version))
                .cloned()
        };
        Part {
            boot_id: part.boot_id.clone(),
            canary: of(new).unwrap_or_default(),
            stable: of(stable).unwrap_or_default(),
        }
    };
    let all = reading.parts.iter();
    all.map(|(host, one)| (host.clone(), part(one))).collect()
}

fn tick_row(
    id: &str,
    state: &State,
    seq: i64,
    reading: &Reading,
    t0: i64,
) -> Result<GateTickRow, StoreError> {
    Ok(GateTickRow {
        deployment_id: id.to_owned(),
        step_idx: i64::from(state.step_idx),
        seq,
        source: ROUTER.to_owned(),
        boot_id: reading.boot_id.clone(),
        t0,
        t1: reading.at,
        counters_json: json(reading)?,
    })
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt(error.to_string()))
}
