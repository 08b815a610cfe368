//! What manifests come to, and what is refused in them: sentences over small texts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::dress::deployment_of;
use super::*;

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 90
      containers:
        - name: web
          image: placeholder
          envFrom: [{configMapRef: {name: settings}}, {configMapRef: {name: shared}}]
          readinessProbe: {httpGet: {path: /ready, port: 8080}}
      volumes:
        - {name: v, configMap: {name: settings, defaultMode: 0644}}
";
const MORE: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: \"1\"}
--- # a Service of this version
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
";

fn of(text: &str) -> Manifests {
    let path = "deploy/web.yaml".to_owned();
    let text = text.to_owned();
    Manifests {
        files: vec![ManifestFile { path, text }],
        container: String::new(),
    }
}

fn ours() -> Ours {
    let version = ("slipway.dev/version".to_owned(), "01V".to_owned());
    Ours {
        name: "slipway-01v".to_owned(),
        suffix: "01v".to_owned(),
        image: "registry.test/web@sha256:aa".to_owned(),
        replicas: 3,
        labels: BTreeMap::from([version]),
        annotations: BTreeMap::new(),
        selecting: "slipway.dev/version".to_owned(),
    }
}

/// The refusal of `WEB` with `from` replaced by `to`.
fn refused(from: &str, to: &str) -> String {
    assert!(WEB.contains(from), "{from}");
    let manifests = of(&(WEB.replace(from, to) + MORE));
    let judged = judge(&manifests, "shop", &Allowed::default());
    judged.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn only_the_image_the_labels_the_names_and_the_count_are_set() {
    let manifests = of(&(WEB.to_owned() + MORE));
    let asked = judge(&manifests, "shop", &Allowed::default()).unwrap();
    assert_eq!((asked.replicas, asked.grace_seconds), (None, 90));
    let dressed = dress(&manifests, &ours()).unwrap();
    let label = json!("01V");
    assert_eq!(
        dressed.deployment,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "slipway-01v", "annotations": {},
                "labels": {"app": "web", "slipway.dev/version": label}},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "web", "slipway.dev/version": label}},
                "template": {
                    "metadata": {"labels": {"app": "web", "slipway.dev/version": label}},
                    "spec": {
                        "serviceAccountName": "web-01v",
                        "terminationGracePeriodSeconds": 90,
                        "containers": [{
                            "name": "web", "image": "registry.test/web@sha256:aa",
                            "envFrom": [{"configMapRef": {"name": "settings-01v"}},
                                {"configMapRef": {"name": "shared"}}],
                            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
                        }],
                        "volumes": [{"name": "v", "configMap": {"name": "settings-01v", "defaultMode": 0o644}}],
                    },
                },
            },
        })
    );
    let names: Vec<_> = dressed
        .extras
        .iter()
        .map(|(kind, object)| (*kind, object["metadata"]["name"].as_str().unwrap()))
        .collect();
    assert_eq!(
        names,
        [
            ("ConfigMap", "settings-01v"),
            ("Service", "web-01v"),
            ("ServiceAccount", "web-01v")
        ]
    );
    let (_, service) = &dressed.extras[1];
    assert_eq!(service["spec"]["selector"]["slipway.dev/version"], label);
}

const ACCOUNT: &str = "      serviceAccountName: web\n";
/// What is written instead of what, and what is said then.
const REFUSED: [(&str, &str, &str); 24] = [
    (
        "port: 8080}}",
        "port: 80, host: 169.254.169.254}}",
        "`host` reaches out",
    ),
    (
        ACCOUNT,
        "      hostNetwork: true\n",
        "SLP0306 deploy/web.yaml:9: Deployment `web`: `hostNetwork`",
    ),
    (
        ACCOUNT,
        "      hostNetwork: \"true\"\n",
        "SLP0306 deploy/web.yaml:9",
    ),
    (ACCOUNT, "      nodeName: n1\n", "`nodeName`"),
    (
        ACCOUNT,
        "      serviceAccountName: admin\n",
        "act as `admin`",
    ),
    (
        ACCOUNT,
        "      securityContext: {sysctls: [{name: a, value: b}]}\n",
        "`sysctls`",
    ),
    (
        "image: placeholder",
        "securityContext: {privileged: true}",
        "SLP0306 deploy/web.yaml:13: Deployment `web`: `privileged`",
    ),
    (
        "image: placeholder",
        "securityContext: {capabilities: {add: [ALL]}}",
        "`capabilities.add`",
    ),
    (
        "image: placeholder",
        "ports: [{containerPort: 1, hostPort: 1}]",
        "`hostPort`",
    ),
    (
        "image: placeholder",
        "image: a\n        - name: b",
        "SLP0305 deploy/web.yaml:12",
    ),
    (
        "configMap: {name: settings, defaultMode: 0644}",
        "hostPath: {path: /}",
        "`hostPath`",
    ),
    (
        "configMap: {name: settings, defaultMode: 0644}",
        "gitRepo: {repository: x}",
        "`gitRepo`",
    ),
    (
        "name: web, labels",
        "name: web, namespace: kube-system, labels",
        "another namespace",
    ),
    (
        "name: web, labels",
        "name: web, finalizers: [a/b], labels",
        "`metadata.finalizers`",
    ),
    (
        "{app: web}}\nspec",
        "{slipway.dev/version: x}}\nspec",
        "SLP0304 deploy/web.yaml:3",
    ),
    (
        "spec:\n  selector",
        "spec:\n  replicas: 0\n  selector",
        "SLP0304 deploy/web.yaml:5",
    ),
    (
        "spec:\n  selector",
        "spec:\n  paused: true\n  selector",
        "`paused`",
    ),
    ("  selector: {matchLabels: {app: web}}\n", "", "matchLabels"),
    ("Seconds: 90", "Seconds: 9000", "0…600"),
    (
        "kind: Deployment",
        "kind: StatefulSet",
        "SLP0302 deploy/web.yaml:2: `StatefulSet`",
    ),
    ("kind: Deployment", "kind: ClusterRole", "SLP0302"),
    (
        "kind: Deployment",
        "kind: Secret",
        "does not belong into a repository",
    ),
    ("apps/v1", "apps/v1beta1", "`apiVersion: apps/v1`"),
    (
        "kind: Deployment",
        "kind: Deployment\nkind: Deployment",
        "SLP0301 deploy/web.yaml:3: the same key twice",
    ),
];

#[test]
fn what_is_refused_says_its_file_and_line() {
    for (from, to, said) in REFUSED {
        let text = refused(from, to);
        assert!(text.contains(said), "{to}: {text}");
    }
    let two = of(&format!(
        "{WEB}---\n{}",
        WEB.replace("name: web, labels", "name: other, labels")
    ));
    let text = check(&two).unwrap_err().to_string();
    assert!(
        text.contains("SLP0303 deploy/web.yaml:19") && text.contains("second Deployment"),
        "{text}"
    );
    assert_eq!(check(&of(MORE)).unwrap_err().code, "SLP0303");
    let open = MORE.replace(
        "{selector: {app: web},",
        "{type: LoadBalancer, selector: {app: web},",
    );
    let text = check(&of(&(WEB.to_owned() + &open)))
        .unwrap_err()
        .to_string();
    assert!(text.contains("outside of the cluster"), "{text}");
}

#[test]
fn a_bomb_and_a_flood_are_refused_by_their_limits() {
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (name, of) in [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("f", "e")] {
        let many = vec![format!("*{of}"); 10].join(",");
        bomb += &format!("{name}: &{name} [{many}]\n");
    }
    for text in [
        bomb,
        "- ".repeat(3_000),
        "---\na: 1\n".repeat(60),
        "x".repeat(TEXT_MAX + 1),
    ] {
        assert_eq!(check(&of(&text)).unwrap_err().code, "SLP0301");
    }
}

#[test]
fn the_server_may_allow_what_is_refused_otherwise_and_nothing_else_with_it() {
    let host = of(&WEB.replace("serviceAccountName: web", "hostNetwork: true"));
    let grants = [Grant::HostNamespaces].into();
    let allowed = Allowed {
        grants,
        ..Allowed::default()
    };
    assert!(judge(&host, "shop", &allowed).is_ok());
    let privileged = of(&WEB.replace("image: placeholder", "securityContext: {privileged: true}"));
    assert!(judge(&privileged, "shop", &allowed).is_err());
    let service_accounts = ["web".to_owned()].into();
    let allowed = Allowed {
        service_accounts,
        ..Allowed::default()
    };
    assert!(judge(&of(WEB), "shop", &allowed).is_ok());
    assert!(judge(&of(WEB), "shop", &Allowed::default()).is_err());
}

#[test]
fn a_named_container_gets_the_image_and_its_neighbours_keep_theirs() {
    let beside = "volumes:\n";
    let text = WEB.replace(
        "      volumes:\n",
        "        - {name: proxy, image: \"proxy:1\"}\n      volumes:\n",
    );
    assert!(text.contains(beside));
    let mut manifests = of(&text);
    manifests.container = "proxy".to_owned();
    check(&manifests).unwrap();
    let dressed = dress(&manifests, &ours()).unwrap().deployment;
    let containers = &dressed["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["image"], "placeholder");
    assert_eq!(containers[1]["image"], "registry.test/web@sha256:aa");
    manifests.container = "none".to_owned();
    assert_eq!(check(&manifests).unwrap_err().code, "SLP0305");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// What is ours taken out of an object.
fn bare(mut object: Value) -> Value {
    for path in [
        "/metadata/labels",
        "/spec/selector/matchLabels",
        "/spec/template/metadata/labels",
    ] {
        if let Some(table) = object.pointer_mut(path).and_then(Value::as_object_mut) {
            table.remove("slipway.dev/version");
        }
    }
    if let Some(table) = object
        .pointer_mut("/metadata")
        .and_then(Value::as_object_mut)
    {
        table.remove("name");
        table.remove("annotations");
    }
    object["spec"]["replicas"] = json!(0);
    object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("");
    object
}

proptest! {
    #[test]
    fn what_is_not_ours_is_kept_and_setting_it_twice_is_setting_it_once(
        pod in any_value(), container in any_value(), spec in any_value(),
    ) {
        let mut object = json!({
            "metadata": {"name": "web", "labels": {"app": "web"}},
            "spec": {"extra": spec, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"pod": pod, "containers": [{"name": "web", "more": container}]},
            }},
        });
        let before = bare(object.clone());
        deployment_of(&mut object, "", &ours());
        prop_assert_eq!(bare(object.clone()), before);
        let once = object.clone();
        deployment_of(&mut object, "", &ours());
        prop_assert_eq!(object, once);
    }

    #[test]
    fn any_text_is_judged_and_nothing_panics(text in "[a-z:{}\\[\\] \n&*-]{0,200}") {
        let _judged = judge(&of(&text), "shop", &Allowed::default());
    }
}
