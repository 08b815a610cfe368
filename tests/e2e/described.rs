//! A service's own description of its pods, from a push to the stored build: through a real dispatcher and
//! real repositories. What a cluster makes of it is for `make kubernetes`.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;
use slipway_tests::{Hook, Repository};

use crate::ZERO;
use crate::place::Place;

const SOON: Duration = Duration::from_secs(60);

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: shop, image: ignored}]}
";

fn pipeline(pods: &str) -> String {
    let digest = "a".repeat(64);
    format!(
        "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  test:\n    commands: [\"true\"]\n\
         deploy:\n  service: shop\n  image: registry.test/shop@sha256:{digest}\n  port: 8080\n  {pods}\n  \
         environments:\n    production:\n      approval: false\n"
    )
}

/// A dispatcher, and a repository that it knows.
struct World {
    place: Place,
    repository: Repository,
    hook: Hook,
    pushes: u32,
}

impl World {
    async fn start(helm: &str) -> Self {
        let mut place = Place::sqlite().await;
        let variables = [("SLIPWAY_DISPATCHER_HELM", helm.to_owned())];
        place.start_dispatcher_with(&variables).await;
        let repository = Repository::create(place.dir(), "shop");
        let repo = place
            .rest
            .add_repository(&repository.url)
            .await
            .expect("good");
        let hook = place.rest.add_hook(&repo, "github").await.expect("good");
        Self {
            place,
            repository,
            hook,
            pushes: 0,
        }
    }

    /// Pushes what was written; the build that came of it.
    async fn pushed(&mut self) -> Value {
        self.pushes += 1;
        let delivery = format!("d{}", self.pushes);
        let sha = self.repository.push(&delivery);
        let body = self.hook.push_body(ZERO, &sha);
        let delivered = self.hook.deliver(&self.place.rest, &delivery, body).await;
        delivered.expect("good");
        let row = self.place.rest.decided(&self.hook, &delivery, SOON).await;
        let row = row.expect("good");
        let build = row["build_id"].as_str().unwrap_or_else(|| panic!("{row}"));
        self.place
            .rest
            .get(&format!("/builds/{build}"))
            .await
            .expect("good")
    }

    /// Pushes, and is refused with all of these words.
    async fn refused(&mut self, words: &[&str]) {
        let build = self.pushed().await;
        assert_eq!(build["status"], "failed", "{build}");
        let errors = build["errors"].to_string();
        for word in words {
            assert!(errors.contains(word), "`{word}` is not in {errors}");
        }
    }

    async fn deploy(&self, build: &Value) -> Value {
        let db = self.place.db().await;
        let id = build["build_id"]
            .as_str()
            .expect("good")
            .parse()
            .expect("good");
        let row = db.build(&id).await.expect("good").expect("good");
        db.close().await;
        serde_json::from_str(row.deploy.as_deref().expect("good")).expect("good")
    }
}

#[tokio::test]
async fn manifests_are_those_of_the_built_commit_and_a_mistake_names_its_file_and_line() {
    let mut world = World::start("/nonexistent/helm").await;
    let manifests = pipeline("manifests: deploy/shop.yaml");
    world.repository.write(".slipway.yml", &manifests);
    world.repository.write("deploy/shop.yaml", WEB);
    let build = world.pushed().await;
    assert_ne!(build["status"], "failed", "{build}");
    world
        .repository
        .write("deploy/shop.yaml", &WEB.replace("shop", "other"));
    world.pushed().await;
    let stored = world.deploy(&build).await;
    let file = &stored["pods"]["manifests"]["files"][0];
    assert_eq!(file["path"], "deploy/shop.yaml");
    assert_eq!(file["text"], WEB);

    let two = format!(
        "{WEB}---\n{}",
        WEB.replace("name: shop}\nspec", "name: more}\nspec")
    );
    world.repository.write("deploy/shop.yaml", &two);
    world
        .refused(&["SLP0303", "deploy/shop.yaml:10", "second Deployment"])
        .await;
    let role =
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: all}\n";
    world
        .repository
        .write("deploy/shop.yaml", &(WEB.to_owned() + role));
    world
        .refused(&["SLP0302", "deploy/shop.yaml:11", "ClusterRole"])
        .await;
    world.repository.git(&["rm", "-qf", "deploy/shop.yaml"]);
    world
        .refused(&["SLP0307", "no file `deploy/shop.yaml`", "\"line\":13"])
        .await;
    std::os::unix::fs::symlink("/etc/passwd", world.place.dir().join("shop/passwd")).expect("good");
    let linked = pipeline("manifests: passwd");
    world.repository.write(".slipway.yml", &linked);
    world.refused(&["SLP0307", "`passwd` is a link"]).await;
    let both = pipeline("manifests: [a.yaml]\n  chart: {path: b}");
    world.repository.write(".slipway.yml", &both);
    world.refused(&["SLP0120", "beside `manifests`"]).await;
    let outside = pipeline("manifests: ../a.yaml");
    world.repository.write(".slipway.yml", &outside);
    world.refused(&["SLP0118"]).await;
    let chart = pipeline("chart: {path: chart}");
    world.repository.write(".slipway.yml", &chart);
    world.refused(&["SLP0307", "chart/Chart.yaml"]).await;
    world.repository.write(
        "chart/Chart.yaml",
        "apiVersion: v2\nname: shop\nversion: 0.1.0\n",
    );
    world
        .refused(&["SLP0308", "install helm 3.16 or newer"])
        .await;
}

#[tokio::test]
async fn a_chart_is_rendered_once_with_its_values_and_the_text_is_stored() {
    // Stands for helm: says what it was given, as an object. The real one is for `make kubernetes`.
    let folder = tempfile::tempdir().expect("good");
    let helm = folder.path().join("helm");
    let lines = "#!/bin/sh\ncat chart/templates/web.yaml\necho \"# $(cat values-0.yaml)\"\necho \"# $(cat values-1.yaml)\"\n";
    std::fs::write(&helm, lines).expect("good");
    std::fs::set_permissions(&helm, std::fs::Permissions::from_mode(0o700)).expect("good");
    let mut world = World::start(&helm.display().to_string()).await;
    let chart =
        pipeline("chart: {path: chart, values: values/production.yaml, set: {image: {tag: x}}}");
    world.repository.write(".slipway.yml", &chart);
    world.repository.write(
        "chart/Chart.yaml",
        "apiVersion: v2\nname: shop\nversion: 0.1.0\n",
    );
    world.repository.write("chart/templates/web.yaml", WEB);
    world.repository.write("values/production.yaml", "one: 1");
    let build = world.pushed().await;
    assert_ne!(build["status"], "failed", "{build}");
    let stored = world.deploy(&build).await;
    let file = &stored["pods"]["manifests"]["files"][0];
    assert_eq!(file["path"], "chart (rendered)");
    let wanted = format!("{WEB}# one: 1\n# {{\"image\":{{\"tag\":\"x\"}}}}\n");
    assert_eq!(file["text"], Value::from(wanted));
}
