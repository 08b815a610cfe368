//! Services whose pods are described by the user: by manifests, and by a chart that helm itself renders.
//! Whole rollouts under the shipped rights, and what is in the cluster afterwards.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use slipway_core::traffic::Fence;
use slipway_daemon::{Clock, Rng};
use slipway_deploy::targets::{KubernetesTarget, Place, Target as _};
use slipway_deploy::{EnvironmentTarget, KubernetesPlace, Policy};
use slipway_dispatcher::charts::{Chart, render};
use slipway_store::{RolloutFilter, RolloutRow};
use slipway_tests::Repository;

use crate::contract::image;
use crate::control_plane::{built, plane};
use crate::coordinator::section;
use crate::place::Place as Files;
use crate::rollouts::{World, name};

const SOON: Duration = Duration::from_secs(120);

/// A Deployment with what people write into one, its settings, a Service and an account.
fn manifest(greeting: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{greeting: {greeting}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: shop}}
---
apiVersion: v1
kind: Service
metadata: {{name: metrics}}
spec: {{selector: {{app: shop}}, ports: [{{name: metrics, port: 9100}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop, labels: {{app: shop, team: web}}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: shop}}}}
  template:
    metadata: {{labels: {{app: shop}}, annotations: {{example.com/scrape: \"true\"}}}}
    spec:
      serviceAccountName: shop
      terminationGracePeriodSeconds: 7
      containers:
        - name: shop
          image: ignored
          ports: [{{name: http, containerPort: 8080}}]
          envFrom: [{{configMapRef: {{name: settings}}}}]
          resources: {{limits: {{memory: 64Mi}}, requests: {{cpu: 10m}}}}
          securityContext: {{runAsNonRoot: true, runAsUser: 1000, allowPrivilegeEscalation: false}}
          livenessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 3}}
        - {{name: sidecar, image: \"registry.test/sidecar:1\"}}
      volumes: [{{name: files, configMap: {{name: settings, defaultMode: 0640}}}}]
      affinity: {{podAntiAffinity: {{preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 1, podAffinityTerm:
        {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: shop}}}}}}}}]}}}}
"
    )
}

/// The deploy section as the dispatcher stores it: with the text of the commit.
fn described(strategy: &str, path: &str, text: &str, container: &str) -> Value {
    let mut section = section(strategy);
    section["replicas"] = json!(0);
    section["pods"] = json!({"line": 7, "paths": [path], "manifests":
        {"files": [{"path": path, "text": text}], "container": container}});
    section
}

async fn completed(world: &mut World, word: &str, section: &Value) -> RolloutRow {
    let id = world.coordinator.hand_over(word, section).await.unwrap();
    let row = world.coordinator.ended(&id).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    row
}

fn extra(kind: &str, base: &str, version: &str) -> (String, String) {
    (
        kind.to_owned(),
        format!("{base}-{}", version.to_lowercase()),
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_canary_of_manifests_keeps_what_they_say_and_goes_back_to_its_own() {
    let mut world = World::start("described-canary", "edge/public").await;
    let of = |greeting| described("canary", "deploy/shop.yaml", &manifest(greeting), "shop");
    let one = completed(&mut world, "one", &of("hello")).await;
    let two = completed(&mut world, "two", &of("good day")).await;
    assert_eq!(world.weights(), [(name(&two.target_version), 10_000)]);

    let made = world.get("deployment", &name(&two.target_version)).unwrap();
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!(made["spec"]["replicas"], 2);
    assert_eq!(made["metadata"]["labels"]["team"], "web");
    assert_eq!(pod["containers"][0]["image"], json!(image("two")));
    assert_eq!(pod["containers"][1]["image"], "registry.test/sidecar:1");
    assert_eq!(pod["containers"][0]["livenessProbe"]["periodSeconds"], 3);
    assert_eq!(pod["terminationGracePeriodSeconds"], 7);
    assert_eq!(pod["volumes"][0]["configMap"]["defaultMode"], 0o640);
    assert!(pod["affinity"]["podAntiAffinity"].is_object(), "{pod:#}");
    // Each version has its own settings, and Slipway's Service finds a port that it did not name.
    for (row, greeting) in [(&one, "hello"), (&two, "good day")] {
        let (kind, its) = extra("configmap", "settings", &row.target_version);
        assert_eq!(
            world.get(&kind, &its).unwrap()["data"]["greeting"],
            greeting
        );
        let backend = world.get("service", &name(&row.target_version)).unwrap();
        assert_eq!(backend["spec"]["ports"][0]["targetPort"], 8080);
        let (kind, its) = extra("service", "metrics", &row.target_version);
        let selector = &world.get(&kind, &its).unwrap()["spec"]["selector"];
        assert_eq!(selector["slipway.dev/version"], json!(row.target_version));
    }

    // The database alone is enough to go back: nothing of it is asked for again.
    let back = world.coordinator.roll_back(&two.deployment_id).await;
    let back = world.coordinator.ended(&back).await;
    assert_eq!(back.status, "completed", "{back:#?}");
    assert_eq!(world.weights(), [(name(&one.target_version), 10_000)]);

    // What is retired leaves nothing of its own, and everything of the other.
    let account = world
        .plane
        .account("slipway", "slipway-coordinator")
        .unwrap();
    let cluster = world.plane.cluster(&account, "described-canary").await;
    let place = Place {
        service_id: two.service_id.clone(),
        environment_id: two.environment_id.clone(),
        service: "shop".to_owned(),
    };
    let fence = Fence {
        token: 1_000,
        generation: 1,
    };
    let target = KubernetesTarget::on(cluster);
    for _ in 0..2 {
        let retired = target.retire(fence, &place, &two.target_version, Duration::ZERO);
        retired.await.unwrap();
    }
    for (kind, base) in [
        ("configmap", "settings"),
        ("service", "metrics"),
        ("serviceaccount", "shop"),
    ] {
        let (kind, gone) = extra(kind, base, &two.target_version);
        assert!(world.get(&kind, &gone).is_none(), "{kind} {gone}");
        let (kind, kept) = extra(&kind, base, &one.target_version);
        assert!(world.get(&kind, &kept).is_some(), "{kind} {kept}");
    }
}

/// A chart of a Deployment and its settings.
fn chart(replicas: u32) -> Chart {
    let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_owned());
    Chart {
        release: "shop".to_owned(),
        files: vec![
            file("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 0.1.0\n"),
            file("values.yaml", "greeting: none\nreplicas: 1\n"),
            file(
                "templates/settings.yaml",
                "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n\
                data:\n  greeting: {{ .Values.greeting | quote }}\n  file: {{ .Files.Get \"files/a.txt\" | quote }}\n  \
                secret: {{ .Files.Get \"../../../../etc/hostname\" | quote }}\n  \
                found: {{ lookup \"v1\" \"Secret\" \"\" \"\" | toJson | quote }}\n",
            ),
            file(
                "templates/shop.yaml",
                "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ .Release.Name }}\n  \
                labels: {app.kubernetes.io/managed-by: {{ .Release.Service }}}\nspec:\n  replicas: {{ .Values.replicas }}\n  \
                selector: {matchLabels: {app: shop}}\n  template:\n    metadata: {labels: {app: shop}}\n    spec:\n      \
                containers:\n        - name: shop\n          image: \"chart:1\"\n          \
                envFrom: [{configMapRef: {name: {{ .Release.Name }}}}]\n",
            ),
            file(
                "templates/tests/ask.yaml",
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: ask\n  annotations: \
                {helm.sh/hook: test}\nspec: {containers: [{name: a, image: a}]}\n",
            ),
            file("files/a.txt", "from the chart"),
        ],
        values: vec![b"greeting: from a file\n".to_vec()],
        set: json!({"replicas": replicas}),
        ..Chart::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn blue_green_of_a_chart_that_helm_rendered_switches_and_goes_back() {
    let helm = built().unwrap().join("helm").display().to_string();
    let text = render(&helm, &chart(3)).await.unwrap();
    assert!(
        text.contains("from a file") && text.contains("from the chart"),
        "{text}"
    );
    assert!(
        text.contains("secret: \"\"") && text.contains("found: \"{}\""),
        "{text}"
    );
    let mut world = World::start("described-chart", "").await;
    let of = |text: &str| described("blue-green", "deploy/chart (rendered)", text, "");
    let one = completed(&mut world, "one", &of(&text)).await;
    assert_eq!(world.replicas(&one.target_version), Some(3));
    let selected = |world: &World| {
        let service = world.get("service", "shop").unwrap();
        service["spec"]["selector"]["slipway.dev/version"].clone()
    };
    let next = render(&helm, &chart(1)).await.unwrap();
    let two = completed(&mut world, "two", &of(&next)).await;
    assert_eq!(world.replicas(&two.target_version), Some(1));
    assert_eq!(selected(&world), json!(two.target_version));
    let made = world.get("deployment", &name(&two.target_version)).unwrap();
    assert_eq!(
        made["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "slipway"
    );
    let back = world.coordinator.roll_back(&two.deployment_id).await;
    let back = world.coordinator.ended(&back).await;
    assert_eq!(back.status, "completed", "{back:#?}");
    assert_eq!(selected(&world), json!(one.target_version));
    assert_eq!(world.replicas(&one.target_version), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn hostile_a_charts_schema_fetches_nothing_and_a_template_without_an_end_is_ended() {
    let helm = built().unwrap().join("helm").display().to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = format!("http://{}/schema.json", listener.local_addr().unwrap());
    let mut hostile = chart(1);
    let schema = json!({"$ref": asked}).to_string();
    hostile
        .files
        .push(("values.schema.json".to_owned(), schema.into_bytes()));
    render(&helm, &hostile).await.unwrap();
    let called = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(called.is_err(), "helm asked for the schema");
    let mut endless = chart(1);
    let loops = b"{{ range until 99999999 }}{{ range until 99999999 }}{{ end }}{{ end }}".to_vec();
    endless
        .files
        .push(("templates/loop.yaml".to_owned(), loops));
    let refused = render(&helm, &endless).await.unwrap_err().to_string();
    assert!(!refused.contains("install helm"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn what_the_api_server_refuses_fails_at_once_in_its_words_and_leaves_nothing() {
    let mut world = World::start("described-refused", "").await;
    let wrong = manifest("hello").replace("periodSeconds: 3", "periodSecond: 3");
    let wrong = described("blue-green", "deploy/shop.yaml", &wrong, "shop");
    let id = world.coordinator.hand_over("one", &wrong).await.unwrap();
    let row = world.coordinator.ended(&id).await;
    assert_eq!(row.status, "failed", "{row:#?}");
    let reason = row.reason.clone().unwrap_or_default();
    assert!(
        reason.contains("periodSecond") && reason.contains("apply a Deployment"),
        "{reason}"
    );
    let took = row.ended_at.unwrap_or_default() - row.created_at;
    assert!(took < 60_000, "{took} ms");
    let left = [
        "get",
        "deployments,configmaps,services",
        "-o",
        "name",
        "-n",
        "described-refused",
    ];
    let left = world.plane.admin(&left, "").unwrap();
    assert_eq!(left.trim(), "");

    // What reaches out is not even begun: it is said with its line.
    let reaching = manifest("hello").replace("serviceAccountName: shop", "hostNetwork: true");
    let reaching = described("blue-green", "deploy/shop.yaml", &reaching, "shop");
    let refused = world
        .coordinator
        .hand_over("one", &reaching)
        .await
        .unwrap_err();
    let said = refused.message();
    assert!(
        said.contains("SLP0306 deploy/shop.yaml:") && said.contains("hostNetwork"),
        "{said}"
    );
}

fn target(account: &Path) -> EnvironmentTarget {
    EnvironmentTarget {
        kind: "kubernetes".to_owned(),
        kubernetes: Some(KubernetesPlace {
            namespace: "described-push".to_owned(),
            kubeconfig: account.display().to_string(),
            ..KubernetesPlace::default()
        }),
        listen: "shop.test:80".to_owned(),
        ..EnvironmentTarget::default()
    }
}

/// A repository with the chart and a pipeline that deploys it, pushed: its commit.
fn pushed(folder: &Path) -> (Repository, String) {
    let repository = Repository::create(folder, "shop");
    for (path, bytes) in chart(1).files {
        let text = String::from_utf8(bytes).unwrap();
        repository.write(&format!("deploy/chart/{path}"), &text);
    }
    repository.write(
        ".slipway.yml",
        &format!(
            "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  test:\n    commands: [\"true\"]\n\
             deploy:\n  service: shop\n  image: {}\n  port: 8080\n  chart:\n    path: deploy/chart\n    \
             set: {{greeting: pushed, replicas: 2}}\n  environments:\n    production:\n      approval: false\n      \
             watch: 1s\n      drain: 1s\n",
            image("one")
        ),
    );
    let sha = repository.push("first");
    (repository, sha)
}

/// From a push to the pods: dispatcher, agent and coordinator are processes, helm renders what the commit has.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_push_of_a_chart_becomes_a_build_a_rollout_and_pods_of_the_cluster() {
    assert!(
        slipway_tests::require("docker").is_some(),
        "Docker is needed"
    );
    let plane = plane();
    let account = crate::rights::coordinator(&plane, "described-push").unwrap();
    slipway_tests::require("postgres").unwrap();
    let mut files = Files::postgres().await.unwrap();
    let target = target(&account);
    let (db, now) = (files.db().await, Clock::system().now());
    let (id, policy) = (Rng::system().ulid(now), Policy::default());
    let registered =
        slipway_deploy::ensure_environment(&db, &id, "production", &target, &policy, now);
    registered.await.unwrap();
    let helm = built().unwrap().join("helm").display().to_string();
    let variables = [("SLIPWAY_DISPATCHER_HELM", helm)];
    files.start_dispatcher_with(&variables).await;
    files.start_coordinator().await;
    files.start_agent("one").await;

    let (repository, sha) = pushed(files.dir());
    let repo = files.rest.add_repository(&repository.url).await.unwrap();
    let hook = files.rest.add_hook(&repo, "github").await.unwrap();
    let body = hook.push_body(crate::ZERO, &sha);
    hook.deliver(&files.rest, "d", body).await.unwrap();
    let row = files.rest.decided(&hook, "d", SOON).await.unwrap();
    let build = row["build_id"].as_str().unwrap();
    let ended = files.rest.build_ended(build, SOON).await.unwrap();
    assert_eq!(ended["status"], "passed", "{ended}");
    let filter = RolloutFilter {
        service: "shop".to_owned(),
        limit: 10,
        ..RolloutFilter::default()
    };
    let rollout = slipway_tests::eventually("the rollout ends", SOON, || async {
        let row = db.rollouts(&filter).await.ok()?.into_iter().next()?;
        (row.status != "in_progress").then_some(row)
    });
    let row = rollout.await.unwrap();
    assert_eq!(row.status, "completed", "{row:#?}");
    let (kind, its) = extra("configmap", "shop", &row.target_version);
    let asked = [
        "get",
        &kind,
        &its,
        "-n",
        "described-push",
        "-o",
        "jsonpath={.data.greeting}",
    ];
    assert_eq!(plane.admin(&asked, "").unwrap(), "pushed");
    let asked = [
        "get",
        "pods",
        "-n",
        "described-push",
        "-o",
        "jsonpath={.items[*].spec.containers[0].image}",
    ];
    let pods = plane.admin(&asked, "").unwrap();
    assert_eq!(pods, [image("one"), image("one")].join(" "));
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make kubernetes"]
async fn a_right_that_is_missing_ends_a_rollout_soon_and_is_named() {
    let mut world = World::start("described-rights", "edge/public").await;
    // What those have who took the rights of before there were manifests, and no route.
    let role = [
        "patch",
        "role",
        "slipway-rollouts",
        "-n",
        "described-rights",
        "--type=json",
        "-p",
    ];
    let without = |index: u32| format!(r#"[{{"op": "remove", "path": "/rules/{index}"}}]"#);
    world
        .plane
        .admin(&[&role[..], &[&without(3)]].concat(), "")
        .unwrap();
    let id = world.coordinator.deploy("canary", "one").await;
    let row = world.coordinator.ended(&id).await;
    let reason = row.reason.clone().unwrap_or_default();
    assert_eq!(row.status, "failed", "{row:#?}");
    let right = "of API group `gateway.networking.k8s.io` in namespace `described-rights`";
    assert!(
        reason.contains("`httproutes`") && reason.contains(right),
        "{reason}"
    );
    world
        .plane
        .admin(&[&role[..], &[&without(2)]].concat(), "")
        .unwrap();
    let of = described("canary", "deploy/shop.yaml", &manifest("hello"), "shop");
    let id = world.coordinator.hand_over("two", &of).await.unwrap();
    let row = world.coordinator.ended(&id).await;
    let reason = row.reason.clone().unwrap_or_default();
    assert_eq!(row.status, "failed", "{row:#?}");
    assert!(
        reason.contains("the right to `patch` `configmaps`"),
        "{reason}"
    );
    for row in world
        .coordinator
        .db
        .rollouts(&RolloutFilter {
            limit: 10,
            ..RolloutFilter::default()
        })
        .await
        .unwrap()
    {
        let took = row.ended_at.unwrap_or_default() - row.created_at;
        assert!(took < 90_000, "{took} ms");
    }
}
