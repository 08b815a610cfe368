//! Versions whose pods the user describes, on a cluster in memory: what is made with them, in which order
//! and what is left. The real API server has its say in `make kubernetes`.

use std::time::Duration;

use serde_json::{Value, json};
use slipway_core::manifest::{ManifestFile, Manifests};
use slipway_core::rollout::VersionSpec;
use slipway_deploy::targets::{KubernetesTarget, Place, Target, TargetError};

use super::cluster::{NAMESPACE, locked, serve};
use super::suites::{fence, ulid, version};

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers: [{name: shop, image: ignored, envFrom: [{configMapRef: {name: settings}}]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
";

fn described() -> VersionSpec {
    let image = format!("registry.test/shop@sha256:{}", "a".repeat(64));
    let file = ManifestFile {
        path: "deploy/shop.yaml".to_owned(),
        text: WEB.to_owned(),
    };
    VersionSpec {
        pods: Some(Manifests {
            files: vec![file],
            container: String::new(),
        }),
        ..version(&image, 2)
    }
}

fn place() -> Place {
    Place {
        service_id: ulid(),
        environment_id: ulid(),
        service: "shop".to_owned(),
    }
}

fn key(kind: &str, name: String) -> (String, String) {
    (kind.to_owned(), name)
}

/// Retires a version under each of these generations.
async fn retired(
    target: &KubernetesTarget,
    place: &Place,
    version: &VersionSpec,
    generations: std::ops::RangeInclusive<u64>,
) {
    for generation in generations {
        let id = &version.version_id;
        let retired = target.retire(fence(2, generation), place, id, Duration::ZERO);
        retired.await.unwrap();
    }
}

#[tokio::test]
async fn a_version_brings_what_it_needs_repeats_itself_and_leaves_nothing() {
    let (objects, cluster) = serve().await;
    let (target, place, new) = (
        KubernetesTarget::on(cluster(NAMESPACE)),
        place(),
        described(),
    );
    let suffix = new.version_id.to_lowercase();
    let (deployment, settings) = (
        key("deployments", format!("slipway-{suffix}")),
        key("configmaps", format!("settings-{suffix}")),
    );
    for generation in 1..=3 {
        let ensured = target.ensure(fence(1, generation), &place, &new).await;
        ensured.unwrap();
        let seen = target.observe(&place).await.unwrap();
        assert_eq!(seen[&new.version_id].len(), 2);
    }
    let before = locked(&objects, |objects| {
        assert_eq!(objects.all[&settings]["data"], json!({"a": "b"}));
        objects.all.clone()
    });
    // A coordinator that died between the Deployment and what its pods need.
    locked(&objects, |objects| {
        objects.all.remove(&settings);
        objects.all.get_mut(&deployment).unwrap()["spec"]["replicas"] = json!(0);
    });
    target.ensure(fence(2, 1), &place, &new).await.unwrap();
    let data = |objects: &std::collections::BTreeMap<(String, String), Value>| {
        (
            objects[&settings]["data"].clone(),
            objects[&deployment]["spec"].clone(),
        )
    };
    locked(&objects, |objects| {
        assert_eq!(data(&objects.all), data(&before))
    });
    let stale = target.ensure(fence(1, 9), &place, &new).await;
    assert!(
        matches!(stale, Err(TargetError::StaleToken { seen: 2 })),
        "{stale:?}"
    );
    // Gone, and gone back to: what is stored of the version is enough.
    retired(&target, &place, &new, 2..=3).await;
    locked(&objects, |objects| {
        assert!(objects.all.is_empty(), "{:?}", objects.all)
    });
    target.ensure(fence(2, 4), &place, &new).await.unwrap();
    locked(&objects, |objects| {
        assert_eq!(data(&objects.all), data(&before))
    });
    // Somebody else's settings with the same name are theirs.
    locked(&objects, |objects| {
        let theirs = objects.all.get_mut(&settings).unwrap();
        theirs["metadata"]["labels"] = json!({"slipway.dev/version": "another"});
    });
    retired(&target, &place, &new, 5..=6).await;
    locked(&objects, |objects| {
        let left: Vec<_> = objects.all.keys().collect();
        assert_eq!(left, [&settings]);
    });
}

#[tokio::test]
async fn what_the_cluster_would_refuse_is_said_in_its_words_before_anything_is_made() {
    let (objects, cluster) = serve().await;
    let (target, place, new) = (
        KubernetesTarget::on(cluster(NAMESPACE)),
        place(),
        described(),
    );
    for (status, words) in [
        (
            422,
            "Deployment.apps \"x\" is invalid: spec.template.spec.containers[0].ports: too many",
        ),
        (
            500,
            "failed to create typed patch object (x; apps/v1, Kind=Deployment): .spec.replica: field not declared in schema",
        ),
        (
            403,
            "admission webhook \"policy.test\" denied the request: no limits",
        ),
        (404, "namespaces \"shop\" not found"),
    ] {
        locked(&objects, |objects| {
            objects.refuses = Some((status, words.to_owned()))
        });
        let refused = target.ensure(fence(1, 1), &place, &new).await;
        let Err(TargetError::Refused(text)) = refused else {
            panic!("{status}: {refused:?}");
        };
        assert!(status == 404 || text.contains(words), "{text}");
        locked(&objects, |objects| {
            assert!(objects.all.is_empty(), "{:?}", objects.all)
        });
    }
    // The server's own trouble may pass.
    locked(&objects, |objects| {
        objects.refuses = Some((500, "etcd has no leader".to_owned()))
    });
    let unknown = target.ensure(fence(1, 1), &place, &new).await;
    assert!(
        matches!(unknown, Err(TargetError::Unknown(_))),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn a_right_that_is_missing_is_named_and_nothing_else_of_the_clusters_words() {
    let (objects, cluster) = serve().await;
    let (target, place) = (KubernetesTarget::on(cluster(NAMESPACE)), place());
    locked(&objects, |objects| {
        objects.forbidden = vec!["deployments".to_owned()]
    });
    for pods in [described().pods, None] {
        let new = VersionSpec {
            pods,
            ..described()
        };
        let refused = target.ensure(fence(1, 1), &place, &new).await;
        let text = refused.unwrap_err().to_string();
        let right = "the right to `patch` `deployments` of API group `apps` in namespace `shop`";
        assert!(
            text.contains(right) && !text.contains("serviceaccount"),
            "{text}"
        );
    }
}
