//! Every shipped manifest, as the API server's own validation reads it.

use crate::control_plane::plane;

/// A pod template of KEDA's resource is a Job's: its own definition is not ours to install.
fn template_of(scaled: &str) -> String {
    let (_, template) = scaled.split_once("    template:\n").unwrap();
    let outdented = template
        .lines()
        .map(|line| line.strip_prefix("  ").unwrap_or(line));
    let outdented: Vec<&str> = outdented.collect();
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata:\n  name: x\n  namespace: slipway-agents\n\
         spec:\n  backoffLimit: 0\n  template:\n{}",
        outdented.join("\n")
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn the_api_server_accepts_what_is_shipped() {
    let plane = plane();
    // Both are about namespaces that they make, or that are there.
    for namespace in ["slipway", "slipway-agents", "shop"] {
        let _exists = plane.namespace(namespace);
    }
    let strict = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    for file in ["kubernetes/coordinator.yaml", "kubernetes/rights.yaml"] {
        let said = plane.admin(&strict, &crate::shipped(file)).unwrap();
        assert!(said.contains("role.rbac"), "{file}: {said}");
    }
    let scaled = crate::shipped("kubernetes/keda-scaledjob.yaml");
    plane.admin(&strict, &template_of(&scaled)).unwrap();
}
