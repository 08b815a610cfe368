//! The dispatcher's series. Labels are bounded: never a branch, never an id.

use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use slipway_core::fleet::PoolReport;
use slipway_daemon::Health;

static RESCUES: OnceLock<Counter> = OnceLock::new();

/// A change that the sweep found and no event had announced.
pub(crate) fn sweep_rescue(health: &Health) {
    let counter = RESCUES.get_or_init(|| {
        let counter = Counter::default();
        health.register(|registry| {
            registry.register(
                "slipway_sweep_rescues",
                "Changes found by the sweep that no event announced",
                counter.clone(),
            );
        });
        counter
    });
    counter.inc();
}

/// A pool's name; there are few, and administrators choose them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabel {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentsLabel {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Default)]
struct Pools {
    desired: Family<PoolLabel, Gauge>,
    agents: Family<AgentsLabel, Gauge>,
    waiting: Family<PoolLabel, Gauge>,
    degraded: Family<PoolLabel, Gauge>,
}

static POOLS: OnceLock<Pools> = OnceLock::new();

/// What pools want and have.
pub(crate) fn pools(health: &Health, reports: &[PoolReport]) {
    let pools = POOLS.get_or_init(|| {
        let pools = Pools::default();
        health.register(|registry| {
            let (desired, agents) = (pools.desired.clone(), pools.agents.clone());
            registry.register("slipway_pool_desired", "Agents that a pool wants", desired);
            registry.register("slipway_pool_agents", "Agents of a pool, by state", agents);
            let (waiting, degraded) = (pools.waiting.clone(), pools.degraded.clone());
            registry.register(
                "slipway_pool_waiting",
                "Stages that need a further agent of a pool",
                waiting,
            );
            registry.register(
                "slipway_pool_degraded",
                "1 while a pool cannot have the size it should have",
                degraded,
            );
        });
        pools
    });
    // A pool that was removed is no series any more.
    pools.desired.clear();
    pools.agents.clear();
    pools.waiting.clear();
    pools.degraded.clear();
    for report in reports {
        let label = PoolLabel {
            pool: report.pool.clone(),
        };
        pools
            .desired
            .get_or_create(&label)
            .set(report.desired.into());
        let waiting = i64::from(report.waiting) + i64::from(report.unmet);
        pools.waiting.get_or_create(&label).set(waiting);
        let degraded = i64::from(report.degraded.is_some());
        pools.degraded.get_or_create(&label).set(degraded);
        for (state, count) in [
            ("ready", report.ready),
            ("booting", report.booting),
            ("draining", report.draining),
            ("leaving", report.leaving),
        ] {
            let label = AgentsLabel {
                pool: report.pool.clone(),
                state,
            };
            pools.agents.get_or_create(&label).set(count.into());
        }
    }
}
