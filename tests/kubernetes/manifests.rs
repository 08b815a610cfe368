//! Every shipped manifest, as the API server's own validation reads it.

use std::process::Command;

use crate::control_plane::{built, plane};
use crate::rights::alone;

/// Nothing is made, everything is judged.
const STRICT: [&str; 5] = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];

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
    let _one = alone();
    // Both are about namespaces that they make, or that are there.
    for namespace in ["slipway", "slipway-agents", "shop"] {
        let _exists = plane.namespace(namespace);
    }
    for file in ["kubernetes/coordinator.yaml", "kubernetes/rights.yaml"] {
        let said = plane.admin(&STRICT, &crate::shipped(file)).unwrap();
        assert!(said.contains("role.rbac"), "{file}: {said}");
    }
    let scaled = crate::shipped("kubernetes/keda-scaledjob.yaml");
    plane.admin(&STRICT, &template_of(&scaled)).unwrap();
    // It would see a mistake.
    let wrong = template_of(&scaled).replace("defaultMode:", "defaultMod:");
    let refused = plane.admin(&STRICT, &wrong).unwrap_err().to_string();
    assert!(refused.contains("unknown field"), "{refused}");
}

/// The shipped chart with these values, one document after another.
fn rendered(values: &[&str]) -> Vec<String> {
    let root = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/packaging/helm/slipway-agents"
    );
    let mut render = Command::new(built().unwrap().join("chart"));
    let output = render.arg(root).args(values).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values:?}: {said}");
    let text = String::from_utf8_lossy(&output.stdout);
    let documents = text.split("---\n").map(str::to_owned);
    documents.filter(|one| one.contains("kind:")).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn the_api_server_accepts_what_the_chart_renders() {
    let plane = plane();
    let _one = alone();
    let _exists = plane.namespace("slipway-agents");
    let keda = ["keda.enabled=true", "keda.token=slp_x"];
    let engine = "engineImage=registry.test/engine:1";
    let limits = "resources.limits.memory=1Gi,nodeSelector.pool=burst";
    let all: [&[&str]; 3] = [&[], &keda, &[&keda[..], &[engine, limits]].concat()];
    for values in all {
        let mut seen = 0;
        for document in rendered(values) {
            let scaled = document.contains("kind: ScaledJob");
            let document = if scaled {
                template_of(&document)
            } else {
                document
            };
            plane.admin(&STRICT, &document).unwrap();
            seen += 1;
        }
        assert_eq!(seen, if values.is_empty() { 3 } else { 4 }, "{values:?}");
    }
}
