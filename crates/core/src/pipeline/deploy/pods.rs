//! `manifests`, `chart` and `container` of a service: where the description of its pods is in the
//! repository. Reads no such file: the built commit has it.

use super::super::mistake::Mistake;
use super::super::plan::{ChartSpec, PodsSpec};
use super::super::tree::Node;
use crate::manifest::{FILES_MAX, Manifests};

/// Inline values of a chart, bytes of JSON.
const SET_MAX: usize = 16 * 1024;

/// What a service or one of its environments says; `None` when it says nothing.
pub(super) fn read(node: &Node, out: &mut Vec<Mistake>) -> Option<PodsSpec> {
    let (manifests, chart) = (node.get("manifests"), node.get("chart"));
    let container = node.get("container");
    let at = match (manifests, chart) {
        (Some(_), Some(chart)) => {
            let both = Mistake::new("SLP0120", chart.at, "`chart` beside `manifests`")
                .because("a service's pods are described once")
                .fix("remove one of them");
            out.push(both);
            return None;
        }
        (Some(one), None) | (None, Some(one)) => one.at,
        (None, None) => {
            if let Some(container) = container {
                let alone = Mistake::new("SLP0120", container.at, "`container` without manifests")
                    .because(
                        "it names a container of `manifests` or of `chart`, beside which it stands",
                    );
                out.push(alone);
            }
            return None;
        }
    };
    let paths = manifests.map(|node| paths(node, out)).unwrap_or_default();
    if manifests.is_some() && (paths.is_empty() || paths.len() > FILES_MAX) {
        let what = format!("`manifests` names {} files", paths.len());
        out.push(Mistake::new("SLP0106", at, what).because(format!("from 1 to {FILES_MAX}")));
    }
    Some(PodsSpec {
        line: at.line,
        paths,
        chart: chart.map(|node| read_chart(node, out)),
        manifests: Manifests {
            files: Vec::new(),
            container: container
                .and_then(Node::text)
                .unwrap_or_default()
                .to_owned(),
        },
    })
}

fn read_chart(node: &Node, out: &mut Vec<Mistake>) -> ChartSpec {
    let path = node.get("path");
    let values = node.get("values").map(|node| paths(node, out));
    let values = values.unwrap_or_default();
    if values.len() > FILES_MAX {
        let what = format!("`values` names {} files", values.len());
        out.push(Mistake::new("SLP0106", node.at, what).because(format!("at most {FILES_MAX}")));
    }
    let set = node.get("set").map(Node::json).unwrap_or_default();
    if let Some(given) = node.get("set") {
        if !set.is_object() {
            let what = format!("`set` is {}", given.kind());
            out.push(Mistake::new("SLP0106", given.at, what).fix("write a map of values"));
        } else if set.to_string().len() > SET_MAX {
            let what = format!("`set` is larger than {SET_MAX} bytes");
            out.push(Mistake::new("SLP0106", given.at, what).fix("write a file of values"));
        }
    }
    let namespace = node
        .get("namespace")
        .and_then(Node::text)
        .unwrap_or_default();
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if namespace.len() > 63 || namespace.starts_with('-') || !namespace.bytes().all(label) {
        out.push(Mistake::new(
            "SLP0106",
            node.at,
            "`namespace` is no name of a namespace",
        ));
    }
    ChartSpec {
        path: path
            .map(|node| paths(node, out).concat())
            .unwrap_or_default(),
        values,
        set,
        namespace: namespace.to_owned(),
    }
}

/// Paths that stay in the repository.
fn paths(node: &Node, out: &mut Vec<Mistake>) -> Vec<String> {
    let mut all = Vec::new();
    for item in node.items() {
        let text = item.text().unwrap_or_default();
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part != ".git";
        let good = text.len() <= 512 && !text.starts_with('-') && !text.contains(['\\', '\0']);
        if good && text.split('/').all(part) {
            all.push(text.to_owned());
        } else {
            let bad = Mistake::new("SLP0118", item.at, "not a path in the repository")
                .because("it is relative, without `.`, `..` or an empty part")
                .fix("for example `deploy/web.yaml`");
            out.push(bad);
        }
    }
    all
}

/// What stands in the manifests instead.
pub(super) fn alone(environment: &Node, out: &mut Vec<Mistake>) {
    for key in ["environment", "resources"] {
        if let Some(node) = environment.get(key) {
            let what = format!("`{key}` beside manifests");
            let twice = Mistake::new("SLP0120", node.at, what)
                .because("Slipway sets only the image, labels and the count in manifests")
                .fix("write it into the manifest, or into the chart's values");
            out.push(twice);
        }
    }
}
