//! The rights that the shipped manifests give, as the API server grants them.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::control_plane::Plane;

/// Tests share these namespaces and accounts: two that apply them at once would both make them.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The namespace of the shipped manifest for agents.
pub(crate) const AGENTS: &str = "slipway-agents";

/// The dispatcher's account, with the rights of the shipped manifest in its own namespace.
pub(crate) fn dispatcher(plane: &Plane) -> anyhow::Result<PathBuf> {
    let _one = alone();
    let rights = crate::shipped("kubernetes/rights.yaml");
    plane.admin(&["apply", "-f", "-"], &rights)?;
    plane.account(AGENTS, "slipway-dispatcher")
}

/// The coordinator's account, with the rights of the shipped manifest in a namespace that is new. As the
/// manifest says, `shop` is changed to that namespace and nothing else is.
pub(crate) fn coordinator(plane: &Plane, namespace: &str) -> anyhow::Result<PathBuf> {
    let _one = alone();
    plane.namespace(namespace)?;
    let text = crate::shipped("kubernetes/coordinator.yaml");
    let ours = text.replace("namespace: shop", &format!("namespace: {namespace}"));
    plane.admin(&["apply", "-f", "-"], &ours)?;
    plane.account("slipway", "slipway-coordinator")
}
