//! Text → objects that know where they stand. Knows which kinds there are, not what may be in them.

use super::{FILES_MAX, ManifestError, Manifests, OBJECTS_MAX, TEXT_MAX};
use crate::pipeline::{At, Node, read_yaml};

/// Documents of one file, the empty ones included.
const DOCUMENTS_MAX: usize = 50;

/// What may stand beside nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Deployment,
    ConfigMap,
    Service,
    ServiceAccount,
}

impl Kind {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::ServiceAccount => "ServiceAccount",
        }
    }

    pub(super) const fn api(self) -> &'static str {
        match self {
            Self::Deployment => "apps/v1",
            _ => "v1",
        }
    }

    fn of(word: &str) -> Option<Self> {
        let all = [
            Self::Deployment,
            Self::ConfigMap,
            Self::Service,
            Self::ServiceAccount,
        ];
        all.into_iter().find(|kind| kind.word() == word)
    }
}

/// One object and where it stands.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) file: String,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) node: Node,
}

/// What a service's manifests hold.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) deployment: Located,
    pub(super) extras: Vec<Located>,
}

impl Located {
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(&self.node, |node, key| node.get(key))
    }

    pub(super) fn refuse(
        &self,
        code: &'static str,
        at: At,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> ManifestError {
        let what = format!("{} `{}`: {}", self.kind.word(), self.name, what.into());
        refuse(code, &self.file, at, what, fix)
    }
}

fn refuse(
    code: &'static str,
    file: &str,
    at: At,
    what: impl Into<String>,
    fix: impl Into<String>,
) -> ManifestError {
    ManifestError {
        code,
        file: file.to_owned(),
        line: at.line,
        what: what.into(),
        fix: fix.into(),
    }
}

/// The documents of a text, each after as many empty lines as stand before it, so that lines are right.
fn documents(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for (number, line) in text.lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ") || line.starts_with("---\t");
        if marker {
            // What stands behind the marker is content; a comment is the usual case.
            let rest = line.strip_prefix("---").unwrap_or_default();
            all.push("\n".repeat(number) + "   " + rest.trim_start() + "\n");
        } else if let Some(last) = all.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
        if all.len() > DOCUMENTS_MAX {
            break;
        }
    }
    all
}

fn kind_of(file: &str, node: &Node) -> Result<(Kind, String), ManifestError> {
    let text = |key: &str| node.get(key).and_then(Node::text).unwrap_or_default();
    let at = |key: &str| node.get(key).map_or(node.at, |value| value.at);
    let word: String = text("kind").chars().take(80).collect();
    let Some(kind) = Kind::of(&word) else {
        let fix = match word.as_str() {
            "HorizontalPodAutoscaler" => {
                "Slipway sets how many pods each version has; say `replicas` in the pipeline file"
            }
            "Secret" => {
                "make it in the namespace beforehand and refer to it by name: a secret does not belong into a repository"
            }
            "Ingress" | "HTTPRoute" => "Slipway owns the way of requests; leave it out",
            "List" => "write its items as documents of their own, with `---` between them",
            "Pod" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "CronJob" => {
                "a service is a Deployment"
            }
            _ => {
                "a service may have one Deployment, and ConfigMaps, Services and ServiceAccounts; make everything else in the namespace beforehand"
            }
        };
        let what = if word.is_empty() {
            "this is no object: it has no `kind`".to_owned()
        } else {
            format!("`{}` is not made for a service", word.escape_debug())
        };
        return Err(refuse("SLP0302", file, at("kind"), what, fix));
    };
    if text("apiVersion") != kind.api() {
        let what = format!("a {} is of another `apiVersion`", kind.word());
        let fix = format!("write `apiVersion: {}`", kind.api());
        return Err(refuse("SLP0302", file, at("apiVersion"), what, fix));
    }
    let name = node.get("metadata").and_then(|meta| meta.get("name"));
    let name = name.and_then(Node::text).unwrap_or_default();
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 200 || !name.bytes().all(good) {
        let what = format!("a {} without a name that can be used", kind.word());
        let fix = "give it `metadata.name`: lower-case letters, digits, `-` and `.`";
        return Err(refuse("SLP0302", file, at("metadata"), what, fix));
    }
    Ok((kind, name.to_owned()))
}

pub(super) fn read(manifests: &Manifests) -> Result<Objects, ManifestError> {
    let first = manifests.files.first().map_or("", |file| &file.path);
    let size: usize = manifests.files.iter().map(|file| file.text.len()).sum();
    if size > TEXT_MAX || manifests.files.len() > FILES_MAX {
        let count = manifests.files.len();
        let what = format!("{size} bytes in {count} files");
        let fix = format!("keep a service within {TEXT_MAX} bytes and {FILES_MAX} files");
        return Err(refuse("SLP0301", first, At::START, what, fix));
    }
    let mut found: Vec<Located> = Vec::new();
    for file in &manifests.files {
        let documents = documents(&file.text);
        if documents.len() > DOCUMENTS_MAX {
            let what = format!("more than {DOCUMENTS_MAX} documents");
            return Err(refuse("SLP0301", &file.path, At::START, what, "split it"));
        }
        for text in documents {
            let empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
            if text.lines().all(empty) {
                continue;
            }
            let node = read_yaml(&text).map_err(|mistake| {
                let why = mistake.reason.unwrap_or_default();
                let what = format!("{}: {why}", mistake.message);
                let fix = mistake.fix.unwrap_or_else(|| "mend the file".to_owned());
                refuse("SLP0301", &file.path, mistake.at, what, fix)
            })?;
            let (kind, name) = kind_of(&file.path, &node)?;
            found.push(Located {
                file: file.path.clone(),
                kind,
                name,
                node,
            });
        }
    }
    sorted(found, first)
}

fn sorted(mut found: Vec<Located>, first: &str) -> Result<Objects, ManifestError> {
    if found.len() > OBJECTS_MAX {
        let what = format!("{} objects", found.len());
        let fix = format!("a service may have {OBJECTS_MAX}");
        return Err(refuse("SLP0301", first, At::START, what, fix));
    }
    for (index, one) in found.iter().enumerate() {
        let same = |other: &&Located| (other.kind, &other.name) == (one.kind, &one.name);
        if let Some(before) = found.iter().take(index).find(same) {
            let what = format!(
                "it stands at {}:{} already",
                before.file, before.node.at.line
            );
            return Err(one.refuse("SLP0303", one.node.at, what, "remove one of them"));
        }
    }
    let is = |one: &Located| one.kind == Kind::Deployment;
    let Some(index) = found.iter().position(is) else {
        let what = "there is no Deployment";
        let fix = "a service's pods are described by exactly one";
        return Err(refuse("SLP0303", first, At::START, what, fix));
    };
    let deployment = found.remove(index);
    if let Some(other) = found.iter().find(|one| is(one)) {
        let what = format!("a second Deployment, beside `{}`", deployment.name);
        let fix = "a service has one: make the other a service of its own";
        return Err(other.refuse("SLP0303", other.node.at, what, fix));
    }
    Ok(Objects {
        deployment,
        extras: found,
    })
}
