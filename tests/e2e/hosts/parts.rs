//! What a world of hosts is put together from: a router of a host, and what is deployed. Judges nothing.

use std::path::PathBuf;

use serde_json::{Value, json};
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng};
use slipway_identity::Authority;
use slipway_tests::{Machine, Process};

use super::world::CONTROL;

/// Starts the router of a host.
pub(super) fn router(machine: &Machine, authority: &Authority) -> Process {
    let state: PathBuf = machine.dir().join("router");
    std::fs::create_dir_all(&state).expect("a folder");
    let (now, rng) = (Clock::system().now(), Rng::system());
    let own = authority.credentials(PeerRole::Router, &machine.name, now, &rng);
    own.and_then(|own| own.save(&state.join(slipway_router::IDENTITY_FILE)))
        .expect("kept");
    let text = format!(
        "state_dir = '{}'\nhealth_address = ''\ncontrol_address = '{}'\n",
        state.display(),
        machine.at(CONTROL),
    );
    let config = machine.dir().join("router.toml");
    std::fs::write(&config, text).expect("written");
    let (config, binary) = (
        config.display().to_string(),
        crate::binary().display().to_string(),
    );
    machine.run_in(
        std::path::Path::new("router.log"),
        &[&binary, "router", "--config", &config],
    )
}

/// A deploy section whose looks are as short as they can be.
pub(super) fn section(strategy: &str) -> Value {
    let (strategy, bake) = match strategy {
        "slow-canary" => ("canary", 25_000),
        other => (other, 2_000),
    };
    let step = |weight: u32| json!({ "weight_bp": weight, "bake_ms": bake, "approval": false });
    let steps = match strategy {
        "canary" => vec![step(1_000), step(5_000), step(10_000)],
        _ => vec![],
    };
    json!({
        "service": "shop", "image": "x", "port": 8080, "replicas": 4,
        "health_path": "/health",
        "environments": [{
            "name": "production", "auto": true, "after": [], "target": "",
            "strategy": strategy, "steps": steps, "smoke": [{ "http": {
                "path": "/index.html", "expect": 200, "contains": null, "within_ms": 2_000
            } }], "approval": null,
            "watch_ms": 1_000, "retain_old_ms": 600_000, "drain_ms": 5_000, "replicas": null,
            "environment": {}, "memory_bytes": 0, "cpu_millis": 0,
            "max_surge_percent": 25, "max_unavailable_percent": 0, "gates": null,
            "on_failure": "rollback", "require_staging": true,
        }],
    })
}
