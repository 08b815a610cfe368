//! The dispatcher's series. Labels are bounded: never a branch, never an id.

use std::sync::OnceLock;

use prometheus_client::metrics::counter::Counter;
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
