//! What manifests may not hold: what is Slipway's, what would reach out of the pods, and what would leave
//! the namespace. The server decides what an environment allows; a manifest never widens it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::read::{Kind, Located, Objects};
use super::{GRACE_MAX, ManifestError, OWN_PREFIX, accounts};
use crate::pipeline::Node;

/// Longest name of a Service: with the version behind it, it is a DNS label.
const SERVICE_NAME_MAX: usize = 36;
/// Volumes that stay within a pod or within the namespace.
const VOLUMES: [&str; 9] = [
    "name",
    "configMap",
    "secret",
    "emptyDir",
    "downwardAPI",
    "projected",
    "persistentVolumeClaim",
    "ephemeral",
    "csi",
];
/// What every object may have in `metadata`.
const METADATA: [&str; 4] = ["name", "namespace", "labels", "annotations"];

/// What a server may allow pods of an environment beyond the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grant {
    /// The node's network, processes or ports, or a node by its name.
    HostNamespaces,
    /// Rights of the node's kernel: privileged, added capabilities, no seccomp, sysctls.
    Privileged,
    /// Folders of the node, and every other kind of volume.
    Volumes,
}

/// What a server allows in an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Beyond the usual.
    #[serde(default)]
    pub grants: BTreeSet<Grant>,
    /// Service accounts of the namespace that pods may act as; their own are always allowed.
    #[serde(default)]
    pub service_accounts: BTreeSet<String>,
}

impl Allowed {
    /// Whether nothing is allowed beyond the usual: then it is not written down, and an older coordinator reads
    /// the policy all the same.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

fn is_set(node: &Node) -> bool {
    let nothing = node.boolean() == Some(false) || node.kind() == "nothing";
    let empty = node.list().is_some_and(<[Node]>::is_empty)
        || node.map().is_some_and(<[_]>::is_empty)
        || node.text() == Some("");
    !nothing && !empty
}

/// Whatever the environment.
pub(super) fn shape(objects: &Objects, container: &str) -> Result<(), ManifestError> {
    let deployment = &objects.deployment;
    for one in std::iter::once(deployment).chain(&objects.extras) {
        metadata(one, one.node.get("metadata"))?;
        status(one)?;
    }
    metadata_of_pods(deployment)?;
    counts(deployment)?;
    the_container(deployment, container)?;
    for one in &objects.extras {
        if one.kind == Kind::Service {
            service(one)?;
        }
    }
    Ok(())
}

fn metadata(one: &Located, metadata: Option<&Node>) -> Result<(), ManifestError> {
    for (key, value) in metadata.and_then(Node::map).unwrap_or_default() {
        if !METADATA.contains(&key.text.as_str()) && is_set(value) {
            let what = format!(
                "`metadata.{}` is not taken from a manifest",
                key.text.escape_debug()
            );
            return Err(one.refuse("SLP0304", key.at, what, "leave it out"));
        }
    }
    for table in ["labels", "annotations"] {
        let table = metadata.and_then(|meta| meta.get(table));
        owned(one, table)?;
    }
    Ok(())
}

fn metadata_of_pods(one: &Located) -> Result<(), ManifestError> {
    for path in [
        ["spec", "template", "metadata", "labels"].as_slice(),
        &["spec", "template", "metadata", "annotations"],
        &["spec", "selector", "matchLabels"],
    ] {
        owned(one, one.at(path))?;
    }
    if one
        .at(&["spec", "selector", "matchLabels"])
        .and_then(Node::map)
        .is_none_or(<[_]>::is_empty)
    {
        let what = "it has no `spec.selector.matchLabels`";
        let fix = "name the labels of its pods there";
        return Err(one.refuse("SLP0304", one.node.at, what, fix));
    }
    Ok(())
}

fn owned(one: &Located, table: Option<&Node>) -> Result<(), ManifestError> {
    let keys = table.and_then(Node::map).unwrap_or_default().iter();
    match keys
        .map(|(key, _)| key)
        .find(|key| key.text.starts_with(OWN_PREFIX))
    {
        None => Ok(()),
        Some(key) => {
            let what = format!("`{}` is a name that Slipway sets", key.text.escape_debug());
            Err(one.refuse("SLP0304", key.at, what, "leave it out"))
        }
    }
}

fn status(one: &Located) -> Result<(), ManifestError> {
    match one.node.get("status").filter(|status| is_set(status)) {
        None => Ok(()),
        Some(status) => Err(one.refuse(
            "SLP0304",
            status.at,
            "`status` is written by the cluster",
            "leave it out",
        )),
    }
}

fn counts(one: &Located) -> Result<(), ManifestError> {
    let whole =
        |node: &Node, low: i64, high: i64| node.int().is_some_and(|n| (low..=high).contains(&n));
    if let Some(count) = one
        .at(&["spec", "replicas"])
        .filter(|node| !whole(node, 1, 100))
    {
        let what = "`replicas` is not within 1…100";
        let fix = "a version without a pod cannot get traffic; leave it out, and say `replicas` in the pipeline file";
        return Err(one.refuse("SLP0304", count.at, what, fix));
    }
    if let Some(paused) = one.at(&["spec", "paused"]).filter(|node| is_set(node)) {
        let what = "`paused` would keep its pods from being made";
        return Err(one.refuse("SLP0304", paused.at, what, "leave it out"));
    }
    let grace = one.at(&["spec", "template", "spec", "terminationGracePeriodSeconds"]);
    let limit = i64::try_from(GRACE_MAX).unwrap_or(i64::MAX);
    if let Some(grace) = grace.filter(|node| !whole(node, 0, limit)) {
        let what = format!("`terminationGracePeriodSeconds` is not within 0…{GRACE_MAX}");
        return Err(one.refuse("SLP0304", grace.at, what, "a version must be able to end"));
    }
    Ok(())
}

/// The container that gets the image.
fn the_container(one: &Located, wanted: &str) -> Result<(), ManifestError> {
    let containers = one.at(&["spec", "template", "spec", "containers"]);
    let all = containers.and_then(Node::list).unwrap_or_default();
    let names: Vec<&str> = all
        .iter()
        .map(|node| node.get("name").and_then(Node::text).unwrap_or_default())
        .collect();
    let at = containers.map_or(one.node.at, |node| node.at);
    let listed = names.join("`, `");
    match (wanted, names.as_slice()) {
        (_, []) => Err(one.refuse(
            "SLP0305",
            at,
            "it has no container",
            "give its template one",
        )),
        ("", [_]) => Ok(()),
        ("", _) => {
            let what = format!("it has {} containers (`{listed}`)", names.len());
            let fix = "say in the pipeline file which one gets the image that was built: `container: <name>`";
            Err(one.refuse("SLP0305", at, what, fix))
        }
        (wanted, names) if names.iter().filter(|name| **name == wanted).count() == 1 => Ok(()),
        (wanted, _) => {
            let what = format!(
                "it has no container `{}`, only `{listed}`",
                wanted.escape_debug()
            );
            Err(one.refuse("SLP0305", at, what, "mend `container` in the pipeline file"))
        }
    }
}

fn service(one: &Located) -> Result<(), ManifestError> {
    if one.name.len() > SERVICE_NAME_MAX {
        let what = "its name and its version's together are longer than 63";
        let fix = format!("give it a name of at most {SERVICE_NAME_MAX} characters");
        return Err(one.refuse("SLP0304", one.node.at, what, fix));
    }
    let selector = one.at(&["spec", "selector"]);
    owned(one, selector)?;
    if selector.is_none_or(|node| !is_set(node)) {
        let what = "it has no `spec.selector`";
        return Err(one.refuse(
            "SLP0304",
            one.node.at,
            what,
            "name the labels of the pods there",
        ));
    }
    let spec = one.node.get("spec");
    for (key, value) in spec.and_then(Node::map).unwrap_or_default() {
        let outside = match key.text.as_str() {
            "type" => value.text() != Some("ClusterIP"),
            "clusterIP" => value.text() != Some("None"),
            "clusterIPs"
            | "externalIPs"
            | "externalName"
            | "loadBalancerIP"
            | "loadBalancerClass"
            | "loadBalancerSourceRanges"
            | "healthCheckNodePort" => is_set(value),
            "ports" => value
                .list()
                .unwrap_or_default()
                .iter()
                .any(|port| port.get("nodePort").is_some_and(is_set)),
            _ => false,
        };
        if outside && is_set(value) {
            let what = format!(
                "`{}` opens it outside of the cluster's network",
                key.text.escape_debug()
            );
            let fix =
                "it is one version's; requests come through the service's own route: leave it out";
            return Err(one.refuse("SLP0306", key.at, what, fix));
        }
    }
    Ok(())
}

/// In this namespace, under what the server allows.
pub(super) fn allowed(
    objects: &Objects,
    namespace: &str,
    allowed: &Allowed,
) -> Result<(), ManifestError> {
    for one in std::iter::once(&objects.deployment).chain(&objects.extras) {
        let other = one
            .at(&["metadata", "namespace"])
            .filter(|node| is_set(node));
        if let Some(other) = other.filter(|node| node.text() != Some(namespace)) {
            let what = format!("another namespace than `{namespace}`, the environment's");
            return Err(one.refuse("SLP0306", other.at, what, "leave `namespace` out"));
        }
    }
    let one = &objects.deployment;
    let Some(pod) = one.at(&["spec", "template", "spec"]) else {
        return Ok(());
    };
    let judge = Judge { one, allowed };
    judge.pod(pod)?;
    judge.volumes(pod)?;
    let own = accounts(objects);
    for key in ["serviceAccountName", "serviceAccount"] {
        let Some(node) = pod.get(key).filter(|node| is_set(node)) else {
            continue;
        };
        let name = node.text().unwrap_or_default();
        if name != "default" && !own.contains(name) && !allowed.service_accounts.contains(name) {
            let what = format!("its pods would act as `{}`", name.escape_debug());
            let fix = format!(
                "bring a ServiceAccount of this name among the manifests, or have an administrator allow it in the \
                 environment's policy: `\"pods\": {{\"service_accounts\": [\"{}\"]}}`",
                name.escape_debug()
            );
            return Err(one.refuse("SLP0306", node.at, what, fix));
        }
    }
    Ok(())
}

struct Judge<'a> {
    one: &'a Located,
    allowed: &'a Allowed,
}

impl Judge<'_> {
    fn needs(&self, grant: Grant, name: &str, node: Option<&Node>) -> Result<(), ManifestError> {
        let Some(node) = node.filter(|node| is_set(node)) else {
            return Ok(());
        };
        if self.allowed.grants.contains(&grant) {
            return Ok(());
        }
        let word = match grant {
            Grant::HostNamespaces => "host-namespaces",
            Grant::Privileged => "privileged",
            Grant::Volumes => "volumes",
        };
        let what = format!(
            "`{}` reaches out of its pods, to the node",
            name.escape_debug()
        );
        let fix = format!(
            "leave it out, or have an administrator allow it in the environment's policy: \
             `\"pods\": {{\"grants\": [\"{word}\"]}}`"
        );
        Err(self.one.refuse("SLP0306", node.at, what, fix))
    }

    fn pod(&self, pod: &Node) -> Result<(), ManifestError> {
        for name in ["hostNetwork", "hostPID", "hostIPC", "nodeName"] {
            self.needs(Grant::HostNamespaces, name, pod.get(name))?;
        }
        self.context(pod.get("securityContext"))?;
        for list in ["containers", "initContainers", "ephemeralContainers"] {
            for container in pod.get(list).and_then(Node::list).unwrap_or_default() {
                self.context(container.get("securityContext"))?;
                self.probes(container)?;
                let ports = container.get("ports").and_then(Node::list);
                for port in ports.unwrap_or_default() {
                    let open = port.get("hostPort").filter(|node| node.int() != Some(0));
                    self.needs(Grant::HostNamespaces, "hostPort", open)?;
                }
            }
        }
        self.annotations()
    }

    /// A node asks its probes from its own network: of the pod, and of nobody else.
    fn probes(&self, container: &Node) -> Result<(), ManifestError> {
        let lifecycle = container.get("lifecycle");
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
        let probes = probes.map(|name| container.get(name));
        let hooks = ["postStart", "preStop"];
        let hooks = hooks.map(|name| lifecycle.and_then(|all| all.get(name)));
        for probe in probes.into_iter().chain(hooks).flatten() {
            for way in ["httpGet", "tcpSocket"] {
                let host = probe.get(way).and_then(|way| way.get("host"));
                self.needs(Grant::HostNamespaces, "host", host)?;
            }
        }
        Ok(())
    }

    fn annotations(&self) -> Result<(), ManifestError> {
        let annotations = self
            .one
            .at(&["spec", "template", "metadata", "annotations"]);
        for (key, value) in annotations.and_then(Node::map).unwrap_or_default() {
            if key
                .text
                .starts_with("container.apparmor.security.beta.kubernetes.io/")
            {
                self.needs(Grant::Privileged, &key.text, Some(value))?;
            }
        }
        Ok(())
    }

    fn context(&self, context: Option<&Node>) -> Result<(), ManifestError> {
        let Some(context) = context else {
            return Ok(());
        };
        let privileged = |name: &str, node| self.needs(Grant::Privileged, name, node);
        privileged("privileged", context.get("privileged"))?;
        privileged(
            "allowPrivilegeEscalation",
            context.get("allowPrivilegeEscalation"),
        )?;
        privileged("sysctls", context.get("sysctls"))?;
        privileged("seLinuxOptions", context.get("seLinuxOptions"))?;
        let added = context.get("capabilities").and_then(|all| all.get("add"));
        privileged("capabilities.add", added)?;
        let other = |node: &&Node, usual: &str| node.text() != Some(usual);
        let mount = context
            .get("procMount")
            .filter(|node| other(node, "Default"));
        privileged("procMount", mount)?;
        for profile in ["seccompProfile", "appArmorProfile"] {
            let kind = context.get(profile).and_then(|one| one.get("type"));
            privileged(
                profile,
                kind.filter(|node| node.text() == Some("Unconfined")),
            )?;
        }
        let windows = context
            .get("windowsOptions")
            .and_then(|one| one.get("hostProcess"));
        privileged("hostProcess", windows)
    }

    fn volumes(&self, pod: &Node) -> Result<(), ManifestError> {
        for volume in pod.get("volumes").and_then(Node::list).unwrap_or_default() {
            for (key, value) in volume.map().unwrap_or_default() {
                if !VOLUMES.contains(&key.text.as_str()) {
                    self.needs(Grant::Volumes, &key.text, Some(value))?;
                }
            }
        }
        Ok(())
    }
}
