//! What is declared for a version: Slipway's own Deployment, or the user's manifests with what is ours in
//! them. Talks to nobody.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use slipway_core::manifest::{ManifestError, Ours, dress};
use slipway_core::rollout::VersionSpec;
use slipway_core::traffic::Fence;
use slipway_kubernetes::{Object, ObjectKind};

use super::{
    ENVIRONMENT, GRACE_SECONDS, LINGER_SECONDS, MANIFESTS, NAME, OWNER, PORT, PORT_NAME, Place,
    SERVICE, TOKEN, VERSION, name_of,
};

/// Everything of one version.
pub(super) struct Bodies {
    pub(super) deployment: Value,
    /// What its pods need: they are there before the first pod is.
    pub(super) extras: Vec<(ObjectKind, Value)>,
}

fn labels(place: &Place, version: &VersionSpec) -> BTreeMap<String, String> {
    let port = version.port.to_string();
    let all = [
        (OWNER.0, OWNER.1),
        (SERVICE, &place.service_id),
        (ENVIRONMENT, &place.environment_id),
        (VERSION, &version.version_id),
        (PORT, &port),
    ];
    let all = all.into_iter();
    all.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

pub(super) fn bodies(
    place: &Place,
    version: &VersionSpec,
    fence: Fence,
) -> Result<Bodies, ManifestError> {
    let Some(manifests) = &version.pods else {
        return Ok(Bodies {
            deployment: own(place, version, fence),
            extras: Vec::new(),
        });
    };
    let token = fence.token.to_string();
    let annotations = [(TOKEN, token.as_str()), (NAME, &place.service)];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let ours = Ours {
        name: name_of(&version.version_id),
        suffix: version.version_id.to_lowercase(),
        image: version.image.clone(),
        replicas: version.replicas,
        labels: labels(place, version),
        annotations: annotations.into(),
        selecting: VERSION.to_owned(),
    };
    let mut dressed = dress(manifests, &ours)?;
    let extras: Vec<(ObjectKind, Value)> = dressed
        .extras
        .into_iter()
        .filter_map(|(kind, body)| Some((kind_of(kind)?, body)))
        .collect();
    // Written down before any of them is made, so that whoever removes the version knows of all.
    let names = extras.iter().map(|(kind, body)| {
        let name = body.pointer("/metadata/name").and_then(Value::as_str);
        format!("{}/{}", word_of(*kind), name.unwrap_or_default())
    });
    let names: Vec<String> = names.collect();
    dressed.deployment["metadata"]["annotations"][MANIFESTS] = json!(names.join(","));
    Ok(Bodies {
        deployment: dressed.deployment,
        extras,
    })
}

const fn word_of(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Deployment => "Deployment",
        ObjectKind::Service => "Service",
        ObjectKind::ConfigMap => "ConfigMap",
        ObjectKind::ServiceAccount => "ServiceAccount",
        ObjectKind::HttpRoute => "HTTPRoute",
    }
}

fn kind_of(word: &str) -> Option<ObjectKind> {
    let kinds = [
        ObjectKind::Service,
        ObjectKind::ConfigMap,
        ObjectKind::ServiceAccount,
    ];
    kinds.into_iter().find(|kind| word_of(*kind) == word)
}

/// What was made for a Deployment's pods, by kind and name.
pub(super) fn extras_of(deployment: &Object) -> Vec<(ObjectKind, String)> {
    let listed = deployment.annotations.get(MANIFESTS);
    let listed = listed.map(String::as_str).unwrap_or_default();
    let all = listed.split(',').filter_map(|one| {
        let (kind, name) = one.split_once('/')?;
        Some((kind_of(kind)?, name.to_owned()))
    });
    all.collect()
}

fn own(place: &Place, version: &VersionSpec, fence: Fence) -> Value {
    let labels = labels(place, version);
    let mut env = version.environment.clone();
    env.entry("PORT".to_owned())
        .or_insert_with(|| version.port.to_string());
    let env: Vec<Value> = env
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let mut limits = serde_json::Map::new();
    if version.memory_bytes > 0 {
        limits.insert("memory".into(), json!(version.memory_bytes.to_string()));
    }
    if version.cpu_millis > 0 {
        limits.insert("cpu".into(), json!(format!("{}m", version.cpu_millis)));
    }
    json!({
        "metadata": {
            "name": name_of(&version.version_id), "labels": labels,
            "annotations": {TOKEN: fence.token.to_string(), NAME: place.service},
        },
        "spec": {
            "replicas": version.replicas,
            "selector": {"matchLabels": {VERSION: version.version_id}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "containers": [{
                        "name": "service", "image": version.image, "env": env,
                        "ports": [{"name": PORT_NAME, "containerPort": version.port, "protocol": "TCP"}],
                        "resources": {"limits": limits},
                        "readinessProbe": {"httpGet": {"path": version.health_path, "port": PORT_NAME}},
                        "lifecycle": {"preStop": {"sleep": {"seconds": LINGER_SECONDS}}},
                        "securityContext": {"allowPrivilegeEscalation": false},
                    }],
                },
            },
        },
    })
}
