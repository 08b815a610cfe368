//! `deploy:` → what the coordinator is handed.

mod pods;

use super::condition;
use super::duration::duration_ms;
use super::expression::Scope;
use super::mistake::Mistake;
use super::names;
use super::plan::{
    ApprovalSpec, CanaryStep, DeploySpec, EnvironmentSpec, PlannedStage, SmokeCheck, Strategy,
};
use super::spec;
use super::stages::check_names;
use super::tree::{Key, Node};

const MINUTE: u64 = 60_000;
/// Smoke checks of one environment.
const SMOKE_MAX: usize = 50;

/// Reads the section; what cannot be used is recorded in `out`.
pub(super) fn plan(
    node: &Node,
    stages: &[PlannedStage],
    scope: &Scope<'_>,
    out: &mut Vec<Mistake>,
) -> DeploySpec {
    let service = node.get("service");
    let name = service.and_then(Node::text).unwrap_or_default();
    if let Some(service) = service.filter(|_| !names::is_name(name)) {
        out.push(Mistake::new(
            "SLP0109",
            service.at,
            "this cannot name a service",
        ));
    }
    let entries = node
        .get("environments")
        .and_then(Node::map)
        .unwrap_or_default();
    check_names(entries, "environment", out);
    if entries.is_empty() {
        out.push(Mistake::new(
            "SLP0108",
            node.at,
            "`deploy` has no environment",
        ));
    }
    let pods = pods::read(node, out);
    let mut environments: Vec<EnvironmentSpec> = entries
        .iter()
        .map(|entry| environment(entry, entries, scope, out))
        .collect();
    let described = pods.is_some() || environments.iter().any(|one| one.pods.is_some());
    for ((_, at), environment) in entries.iter().zip(&mut environments) {
        if environment.pods.is_some() || pods.is_some() {
            pods::alone(at, out);
        } else if described && replicas(node).is_none() {
            environment.replicas.get_or_insert(1);
        }
    }
    DeploySpec {
        service: name.to_owned(),
        image: image(node, stages, out),
        port: node
            .get("port")
            .and_then(Node::int)
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(80),
        // Without a word here, its manifests say how many.
        replicas: replicas(node).unwrap_or(u32::from(!described)),
        health_path: node
            .get("health")
            .and_then(|h| h.get("path"))
            .and_then(Node::text)
            .unwrap_or("/")
            .to_owned(),
        pods,
        environments,
    }
}

fn replicas(node: &Node) -> Option<u32> {
    node.get("replicas")
        .and_then(Node::int)
        .and_then(|n| u32::try_from(n).ok())
}

/// `${{ stages.<name>.image }}` of an image stage, or a reference by digest.
fn image(node: &Node, stages: &[PlannedStage], out: &mut Vec<Mistake>) -> String {
    let Some(image) = node.get("image") else {
        return String::new();
    };
    let text = image.text().unwrap_or_default();
    match stage_of(text) {
        Some(stage) => match stages.iter().find(|s| s.name == stage) {
            Some(found) if found.spec.build.is_some() => {}
            Some(_) => out.push(
                Mistake::new(
                    "SLP0120",
                    image.at,
                    format!("stage `{stage}` builds no image"),
                )
                .fix("name a stage that has `build`"),
            ),
            None => out.push(Mistake::new(
                "SLP0110",
                image.at,
                format!("there is no stage `{stage}`"),
            )),
        },
        None if text.contains("${{") => out.push(Mistake::new(
            "SLP0113",
            image.at,
            "only `${{ stages.<name>.image }}` can stand here",
        )),
        None if !text.contains("@sha256:") => out.push(
            Mistake::new(
                "SLP0116",
                image.at,
                "a tag may move between the test and the rollout",
            )
            .fix("use `${{ stages.<name>.image }}`, or a reference with `@sha256:…`"),
        ),
        None => {
            if let Some(problem) = names::image_problem(text) {
                out.push(
                    Mistake::new("SLP0116", image.at, "this is not an image reference")
                        .because(problem),
                );
            }
        }
    }
    text.to_owned()
}

/// The stage that `${{ stages.<name>.image }}` names.
#[must_use]
pub fn stage_of(image: &str) -> Option<&str> {
    image
        .trim()
        .strip_prefix("${{")?
        .strip_suffix("}}")?
        .trim()
        .strip_prefix("stages.")?
        .strip_suffix(".image")
}

fn environment(
    (key, node): &(Key, Node),
    all: &[(Key, Node)],
    scope: &Scope<'_>,
    out: &mut Vec<Mistake>,
) -> EnvironmentSpec {
    let wanted = condition::decide(node.get("when"), scope, out)
        .skipped
        .is_none();
    let production = key.text == "production";
    let strategy = match node.get("strategy").and_then(Node::text) {
        Some("canary") => Strategy::Canary,
        Some("rolling") => Strategy::Rolling,
        _ => Strategy::BlueGreen,
    };
    let time = |name: &str, otherwise: u64| {
        node.get(name)
            .and_then(Node::text)
            .and_then(duration_ms)
            .unwrap_or(otherwise)
    };
    let number =
        |parent: Option<&Node>, name: &str| parent.and_then(|n| n.get(name)).and_then(Node::number);
    let percent = |name: &str, otherwise: u32| {
        node.get(name)
            .and_then(Node::int)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(otherwise)
    };
    let word = |name: &str| {
        let word = node.get(name).and_then(Node::text);
        word.unwrap_or_default().to_owned()
    };
    let resources = node.get("resources");
    let cpus = number(resources, "cpus").unwrap_or(0.0);
    EnvironmentSpec {
        name: key.text.clone(),
        auto: wanted && node.get("trigger").and_then(Node::text) != Some("manual"),
        after: after(key, node, all, out),
        target: word("target"),
        strategy,
        steps: steps(node, strategy, out),
        smoke: smoke(node, out),
        approval: approval(node, production),
        watch_ms: time("watch", if production { 5 * MINUTE } else { MINUTE }),
        retain_old_ms: time("retain_old", 10 * MINUTE),
        drain_ms: time("drain", 30_000),
        replicas: replicas(node),
        pods: pods::read(node, out),
        environment: spec::environment(node.get("environment"), scope, out),
        memory_bytes: memory(resources, out),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0.01 to 1024, checked"
        )]
        cpu_millis: (cpus * 1_000.0) as u32,
        max_surge_percent: percent("max_surge", 25),
        max_unavailable_percent: percent("max_unavailable", 0),
        gates: gates(node, out),
        on_inconclusive: word("on_inconclusive"),
        on_unproven: word("on_unproven"),
        stickiness: stickiness(node, out),
        on_failure: node
            .get("on_failure")
            .and_then(Node::text)
            .unwrap_or("rollback")
            .to_owned(),
        require_staging: node
            .get("require_staging")
            .and_then(Node::boolean)
            .unwrap_or(true),
    }
}

/// Read here already, so that a mistake is found before anything is built.
fn gates(node: &Node, out: &mut Vec<Mistake>) -> serde_json::Value {
    let Some(node) = node.get("gates") else {
        return serde_json::Value::Null;
    };
    let gates = node.json();
    if let Err(problem) = crate::gate::read_rules(&gates) {
        out.push(Mistake::new(
            "SLP0120",
            node.at,
            format!("`gates`: {problem}"),
        ));
    }
    gates
}

fn stickiness(node: &Node, out: &mut Vec<Mistake>) -> String {
    let Some(node) = node.get("stickiness") else {
        return String::new();
    };
    let word = node.text().unwrap_or_default();
    if let Err(problem) = word.parse::<crate::traffic::Stickiness>() {
        out.push(Mistake::new("SLP0120", node.at, problem.to_string()));
    }
    word.to_owned()
}

fn after(key: &Key, node: &Node, all: &[(Key, Node)], out: &mut Vec<Mistake>) -> Vec<String> {
    let mut names = Vec::new();
    for item in node.get("after").map(Node::items).unwrap_or_default() {
        let Some(name) = item.text() else { continue };
        // Only earlier ones: that alone rules out cycles, and reads in order.
        let earlier = all.iter().take_while(|(k, _)| k.text != key.text);
        if earlier.into_iter().any(|(k, _)| k.text == name) {
            names.push(name.to_owned());
        } else {
            out.push(
                Mistake::new("SLP0120", item.at, format!("`after` names `{name}`"))
                    .because("it must be an environment that stands earlier in the file"),
            );
        }
    }
    names
}

fn memory(resources: Option<&Node>, out: &mut Vec<Mistake>) -> u64 {
    let Some(node) = resources.and_then(|r| r.get("memory")) else {
        return 0;
    };
    let bytes = node.text().and_then(names::bytes);
    if bytes.is_none() {
        out.push(
            Mistake::new("SLP0106", node.at, "this is no amount of memory")
                .fix("for example `512MiB`"),
        );
    }
    bytes.unwrap_or(0)
}

fn steps(node: &Node, strategy: Strategy, out: &mut Vec<Mistake>) -> Vec<CanaryStep> {
    let Some(list) = node.get("steps") else {
        return if strategy == Strategy::Canary {
            [(100, 5), (1_000, 5), (5_000, 10), (10_000, 0)]
                .map(|(weight_bp, minutes)| CanaryStep {
                    weight_bp,
                    bake_ms: minutes * MINUTE,
                    approval: false,
                })
                .to_vec()
        } else {
            Vec::new()
        };
    };
    if strategy != Strategy::Canary {
        out.push(
            Mistake::new("SLP0120", list.at, "only a canary has steps")
                .fix("set `strategy: canary`"),
        );
        return Vec::new();
    }
    let steps: Vec<CanaryStep> = list
        .items()
        .into_iter()
        .map(|step| CanaryStep {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "0.01 to 100, checked"
            )]
            weight_bp: (step.get("weight").and_then(Node::number).unwrap_or(0.0) * 100.0).round()
                as u32,
            bake_ms: step
                .get("bake")
                .and_then(Node::text)
                .and_then(duration_ms)
                .unwrap_or(0),
            approval: step
                .get("approval")
                .and_then(Node::boolean)
                .unwrap_or(false),
        })
        .collect();
    let rising = steps.windows(2).all(|w| w[0].weight_bp < w[1].weight_bp);
    if !rising || steps.last().map(|s| s.weight_bp) != Some(10_000) {
        out.push(
            Mistake::new("SLP0120", list.at, "the steps must rise and end at 100")
                .because("each step gives the new version more traffic, the last one all of it"),
        );
    }
    steps
}

fn smoke(node: &Node, out: &mut Vec<Mistake>) -> Vec<SmokeCheck> {
    let items = node.get("smoke").map(Node::items).unwrap_or_default();
    if items.len() > SMOKE_MAX {
        out.push(Mistake::new(
            "SLP0106",
            node.at,
            format!("at most {SMOKE_MAX} smoke checks"),
        ));
    }
    let mut checks = Vec::new();
    for item in items {
        let time = |parent: &Node, key: &str, otherwise: u64| {
            parent
                .get(key)
                .and_then(Node::text)
                .and_then(duration_ms)
                .unwrap_or(otherwise)
        };
        match (item.get("http"), item.get("image").and_then(Node::text)) {
            (Some(http), None) => {
                let path = http.get("path").and_then(Node::text).unwrap_or("/");
                if !path.starts_with('/') {
                    out.push(Mistake::new(
                        "SLP0118",
                        http.at,
                        "the path must begin with `/`",
                    ));
                }
                checks.push(SmokeCheck::Http {
                    path: path.to_owned(),
                    expect: http
                        .get("expect")
                        .and_then(Node::int)
                        .and_then(|n| u16::try_from(n).ok())
                        .unwrap_or(200),
                    contains: http.get("contains").and_then(Node::text).map(str::to_owned),
                    within_ms: time(http, "within", 2_000),
                });
            }
            (None, Some(image)) => {
                if let Some(problem) = names::image_problem(image) {
                    out.push(
                        Mistake::new("SLP0116", item.at, "this is not an image reference")
                            .because(problem),
                    );
                }
                checks.push(SmokeCheck::Container {
                    image: image.to_owned(),
                    commands: item
                        .get("commands")
                        .map(|n| {
                            n.items()
                                .into_iter()
                                .filter_map(Node::text)
                                .map(str::to_owned)
                                .collect()
                        })
                        .unwrap_or_default(),
                    timeout_ms: time(item, "timeout", 5 * MINUTE),
                });
            }
            _ => out.push(Mistake::new(
                "SLP0120",
                item.at,
                "a smoke check is either `http` or `image` with `commands`",
            )),
        }
    }
    checks
}

fn approval(node: &Node, production: bool) -> Option<ApprovalSpec> {
    let given = node.get("approval");
    if given.and_then(Node::boolean) == Some(false) {
        return None;
    }
    if given.is_none() && !production {
        return None;
    }
    let table = given.filter(|n| n.map().is_some());
    let flag = |key: &str, otherwise| {
        table
            .and_then(|t| t.get(key))
            .and_then(Node::boolean)
            .unwrap_or(otherwise)
    };
    Some(ApprovalSpec {
        groups: table
            .and_then(|t| t.get("groups"))
            .map(|n| {
                n.items()
                    .into_iter()
                    .filter_map(Node::text)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default(),
        min_approvals: table
            .and_then(|t| t.get("min_approvals"))
            .and_then(Node::int)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
        approver_not_initiator: flag("approver_not_initiator", production),
        expiry_ms: table
            .and_then(|t| t.get("expiry"))
            .and_then(Node::text)
            .and_then(duration_ms)
            .unwrap_or(24 * 60 * MINUTE),
    })
}
