//! The few fields that Slipway sets in what a user wrote. Judges nothing: that is done by then.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::read::{Kind, Objects, read};
use super::{ManifestError, Manifests};

/// What is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// The Deployment's name.
    pub name: String,
    /// What the name of every other object ends with, after a `-`.
    pub suffix: String,
    /// `repository@sha256:…`.
    pub image: String,
    /// Instances.
    pub replicas: u32,
    /// On every object and every pod.
    pub labels: BTreeMap<String, String>,
    /// On every object.
    pub annotations: BTreeMap<String, String>,
    /// The label that tells a version's pods from every other's: it joins each selector.
    pub selecting: String,
}

/// Objects as they are declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Dressed {
    /// The Deployment.
    pub deployment: Value,
    /// What its pods need: `(kind, object)`, with `kind` as the cluster has it.
    pub extras: Vec<(&'static str, Value)>,
}

/// The objects of one version.
///
/// # Errors
/// When the text cannot be read.
pub fn dress(manifests: &Manifests, ours: &Ours) -> Result<Dressed, ManifestError> {
    let objects = read(manifests)?;
    let named = |kind: Kind| -> BTreeSet<String> {
        let extras = objects.extras.iter().filter(|one| one.kind == kind);
        extras.map(|one| one.name.clone()).collect()
    };
    let (maps, accounts) = (named(Kind::ConfigMap), named(Kind::ServiceAccount));
    let mut deployment = objects.deployment.node.json();
    modes(&mut deployment);
    deployment_of(&mut deployment, &manifests.container, ours);
    let pod = entry(&mut deployment, &["spec", "template", "spec"]);
    refer(pod, &maps, &accounts, &ours.suffix);
    Ok(Dressed {
        deployment,
        extras: extras(&objects, ours),
    })
}

fn extras(objects: &Objects, ours: &Ours) -> Vec<(&'static str, Value)> {
    let dressed = objects.extras.iter().map(|one| {
        let mut object = one.node.json();
        metadata(&mut object, &named(&one.name, &ours.suffix), ours);
        if one.kind == Kind::Service {
            let selector = entry(&mut object, &["spec", "selector"]);
            select(selector, ours);
        }
        (one.kind.word(), object)
    });
    dressed.collect()
}

fn named(name: &str, suffix: &str) -> String {
    let end = format!("-{suffix}");
    if name.ends_with(&end) {
        name.to_owned()
    } else {
        name.to_owned() + &end
    }
}

/// What stands there, made where it is missing.
fn entry<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(value, |value, key| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[*key]
    })
}

fn put(table: &mut Value, values: &BTreeMap<String, String>) {
    if !table.is_object() {
        *table = json!({});
    }
    for (key, value) in values {
        table[key] = json!(value);
    }
}

fn select(selector: &mut Value, ours: &Ours) {
    if let Some(value) = ours.labels.get(&ours.selecting) {
        put(selector, &[(ours.selecting.clone(), value.clone())].into());
    }
}

fn metadata(object: &mut Value, name: &str, ours: &Ours) {
    let metadata = entry(object, &["metadata"]);
    metadata["name"] = json!(name);
    if let Some(table) = metadata.as_object_mut() {
        // The environment's is the only one, and what the cluster writes is empty here.
        table.retain(|key, _| matches!(key.as_str(), "name" | "labels" | "annotations"));
    }
    put(&mut metadata["labels"], &ours.labels);
    put(&mut metadata["annotations"], &ours.annotations);
    if let Some(table) = object.as_object_mut() {
        table.remove("status");
    }
}

pub(super) fn deployment_of(deployment: &mut Value, container: &str, ours: &Ours) {
    metadata(deployment, &ours.name, ours);
    let spec = entry(deployment, &["spec"]);
    spec["replicas"] = json!(ours.replicas);
    select(entry(spec, &["selector", "matchLabels"]), ours);
    let template = entry(spec, &["template"]);
    let labels = entry(template, &["metadata", "labels"]);
    put(labels, &ours.labels);
    let containers = entry(template, &["spec", "containers"]);
    let all = containers
        .as_array_mut()
        .map(Vec::as_mut_slice)
        .unwrap_or_default();
    for one in all {
        if container.is_empty() || one["name"] == container {
            one["image"] = json!(ours.image);
        }
    }
}

/// `0644` is a text for our reader and eight-based for everybody who writes a file's mode.
fn modes(value: &mut Value) {
    let octal = |text: &str| {
        let digits = text
            .strip_prefix('0')
            .filter(|rest| (3..=4).contains(&rest.len()))?;
        u32::from_str_radix(digits, 8).ok()
    };
    match value {
        Value::Array(items) => items.iter_mut().for_each(modes),
        Value::Object(table) => {
            for (key, value) in table {
                let mode = value.as_str().and_then(octal);
                match mode.filter(|_| key == "defaultMode" || key == "mode") {
                    Some(mode) => *value = json!(mode),
                    None => modes(value),
                }
            }
        }
        _ => {}
    }
}

/// Names of objects that are this version's own, where pods name them.
fn refer(pod: &mut Value, maps: &BTreeSet<String>, accounts: &BTreeSet<String>, suffix: &str) {
    let rename = |value: Option<&mut Value>, known: &BTreeSet<String>| {
        let Some(value) = value else { return };
        if let Some(name) = value.as_str().filter(|name| known.contains(*name)) {
            *value = json!(named(name, suffix));
        }
    };
    for key in ["serviceAccountName", "serviceAccount"] {
        rename(pod.get_mut(key), accounts);
    }
    for volume in items(pod, "volumes") {
        rename(volume.pointer_mut("/configMap/name"), maps);
        let Some(projected) = volume.get_mut("projected") else {
            continue;
        };
        for source in items(projected, "sources") {
            rename(source.pointer_mut("/configMap/name"), maps);
        }
    }
    for list in ["containers", "initContainers"] {
        for container in items(pod, list) {
            for from in items(container, "envFrom") {
                rename(from.pointer_mut("/configMapRef/name"), maps);
            }
            for variable in items(container, "env") {
                rename(
                    variable.pointer_mut("/valueFrom/configMapKeyRef/name"),
                    maps,
                );
            }
        }
    }
}

fn items<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    let table: Option<&mut Map<String, Value>> = value.as_object_mut();
    let list = table.and_then(|table| table.get_mut(key));
    let list = list.and_then(Value::as_array_mut);
    list.map(Vec::as_mut_slice).unwrap_or_default().iter_mut()
}
