//! The rights that the shipped manifests give, as the API server grants them.

use std::path::PathBuf;

use crate::control_plane::Plane;

/// The coordinator's account, with the rights of the shipped manifest in a namespace that is new. As the
/// manifest says, `shop` is changed to that namespace and nothing else is.
pub(crate) fn coordinator(plane: &Plane, namespace: &str) -> anyhow::Result<PathBuf> {
    plane.namespace(namespace)?;
    let text = crate::shipped("kubernetes/coordinator.yaml");
    let ours = text.replace("namespace: shop", &format!("namespace: {namespace}"));
    plane.admin(&["apply", "-f", "-"], &ours)?;
    plane.account("slipway", "slipway-coordinator")
}
