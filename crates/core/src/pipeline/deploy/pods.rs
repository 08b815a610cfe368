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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::pipeline::{DeploySpec, Facts, Outcome, plan};

    fn planned(service: &str, environment: &str) -> Result<DeploySpec, String> {
        let digest = "a".repeat(64);
        let text = format!(
            "version: 1\non:\n  push:\nstages:\n  test:\n    image: a@sha256:{digest}\n    commands: [a]\ndeploy:\n  \
             service: shop\n  image: shop@sha256:{digest}\n  port: 80\n{service}  environments:\n    staging:\n      \
             trigger: auto\n    production:\n      trigger: auto\n{environment}"
        );
        let facts = Facts {
            event: "push".into(),
            ref_name: "refs/heads/main".into(),
            ..Facts::default()
        };
        match plan(&text, &facts) {
            Ok(Outcome::Build(plan, _)) => Ok(plan.deploy.unwrap()),
            Ok(Outcome::NotWanted(why)) => panic!("{why}"),
            Err(mistakes) => {
                let line = |m: &crate::pipeline::Mistake| {
                    format!("{} {}: {}", m.code, m.at.line, m.message)
                };
                Err(mistakes.iter().map(line).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    #[test]
    fn an_environment_may_say_otherwise_and_replicas_are_the_manifests_until_somebody_says_them() {
        let deploy = planned(
            "  manifests: [a.yaml, b/c.yaml]\n  container: web\n",
            "      chart: {path: chart, values: v.yaml, set: {a: {b: 1}}, namespace: shop}\n",
        )
        .unwrap();
        let staging = deploy.pods_of(&deploy.environments[0]).unwrap();
        assert_eq!(staging.paths, ["a.yaml", "b/c.yaml"]);
        assert_eq!(
            (staging.manifests.container.as_str(), staging.line),
            ("web", 12)
        );
        let production = deploy.pods_of(&deploy.environments[1]).unwrap();
        let chart = production.chart.as_ref().unwrap();
        assert_eq!(
            (chart.path.as_str(), &chart.values[..]),
            ("chart", &["v.yaml".to_owned()][..])
        );
        assert_eq!(
            (&chart.set, chart.namespace.as_str()),
            (&json!({"a": {"b": 1}}), "shop")
        );
        assert_eq!(deploy.replicas, 0);
        // Where one environment alone is a cluster, the other has one instance as before.
        let deploy = planned("", "      manifests: a.yaml\n").unwrap();
        assert!(deploy.pods_of(&deploy.environments[0]).is_none());
        assert_eq!(deploy.environments[0].replicas, Some(1));
        let deploy = planned("  replicas: 4\n", "      manifests: a.yaml\n").unwrap();
        assert_eq!(
            (deploy.replicas, deploy.environments[0].replicas),
            (4, None)
        );
        assert_eq!(planned("", "").unwrap().replicas, 1);
    }

    #[test]
    fn what_cannot_be_used_says_its_line() {
        for (service, environment, said) in [
            (
                "  manifests: a\n  chart: {path: b}\n",
                "",
                "SLP0120 13: `chart` beside",
            ),
            ("  container: a\n", "", "SLP0120 12: `container` without"),
            ("  manifests: []\n", "", "SLP0106 12"),
            ("  manifests: /etc/passwd\n", "", "SLP0118 12"),
            ("  manifests: [a, ../b]\n", "", "SLP0118 12"),
            ("  manifests: .git/config\n", "", "SLP0118 12"),
            ("  manifests: -a\n", "", "SLP0118 12"),
            ("  chart: {values: a}\n", "", "SLP01"),
            ("  chart: {path: a, set: 1}\n", "", "SLP0106 12: `set`"),
            (
                "  chart: {path: a, namespace: A_b}\n",
                "",
                "SLP0106 12: `namespace`",
            ),
            ("  chart: {path: a, vales: b}\n", "", "vales"),
            (
                "  manifests: a\n",
                "      environment: {A: b}\n",
                "SLP0120 18: `environment` beside",
            ),
            (
                "",
                "      manifests: a\n      resources: {memory: 1GiB}\n",
                "SLP0120 18: `resources` beside",
            ),
        ] {
            let text = planned(service, environment).map(|_| ()).unwrap_err();
            assert!(text.contains(said), "{service}{environment}: {text}");
        }
    }
}
