//! Imports between crates, vendor homes, inherited lints: read from `cargo metadata`.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Who may import which of ours.
const IMPORTS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("daemon", &["core"]),
    ("proto", &["core"]),
    ("identity", &["core", "proto", "daemon"]),
    ("store", &["core"]),
    ("objects", &["core"]),
    ("registry", &["core"]),
    ("docker", &["core"]),
    ("kubernetes", &["core"]),
    ("cache-client", &["core", "proto"]),
    (
        "dispatcher",
        &[
            "core",
            "proto",
            "store",
            "objects",
            "registry",
            "docker",
            "kubernetes",
            "daemon",
            "identity",
        ],
    ),
    (
        "agent",
        &[
            "core",
            "proto",
            "cache-client",
            "registry",
            "docker",
            "daemon",
            "identity",
        ],
    ),
    (
        "cache",
        &[
            "core",
            "proto",
            "cache-client",
            "objects",
            "daemon",
            "identity",
        ],
    ),
    (
        "deploy",
        &[
            "core",
            "proto",
            "store",
            "registry",
            "docker",
            "kubernetes",
            "daemon",
            "identity",
        ],
    ),
    ("router", &["core", "proto", "daemon", "identity"]),
];

/// Where a vendor crate lives; nowhere else.
const HOMES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("aws-sdk-s3", &["objects"]),
    ("aws-sdk-ecr", &["registry"]),
    ("oci-client", &["registry"]),
    ("bollard", &["docker"]),
    ("kube", &["kubernetes"]),
    ("k8s-openapi", &["kubernetes"]),
    ("hyper", &["router", "daemon"]),
    (
        "hyper-util",
        &["router", "daemon", "identity", "cache-client", "cache"],
    ),
    ("axum", &["dispatcher", "cache", "daemon"]),
    ("utoipa", &["dispatcher"]),
    ("utoipa-axum", &["dispatcher"]),
    ("maud", &["dispatcher"]),
    ("chacha20poly1305", &["dispatcher"]),
    ("form_urlencoded", &["dispatcher"]),
    ("hmac", &["dispatcher"]),
    // The command line is a client of the REST API.
    ("reqwest", &["dispatcher", "deploy", "cli"]),
    ("quinn", &["cache", "cache-client"]),
    ("sled", &["cache"]),
    // The Docker adapter packs build contexts.
    ("tar", &["agent", "docker"]),
    ("sysinfo", &["agent"]),
    ("zstd", &["agent", "dispatcher", "cache"]),
    (
        "tonic",
        &[
            "proto",
            "identity",
            "cache-client",
            "cli",
            "dispatcher",
            "agent",
            "cache",
            "deploy",
            "router",
        ],
    ),
    ("rustls", &["daemon", "identity", "router"]),
    ("tokio-rustls", &["identity", "router"]),
    ("rcgen", &["identity"]),
    ("x509-parser", &["identity", "router"]),
    ("miette", &["cli"]),
    (
        "clap",
        &[
            "cli",
            "daemon",
            "dispatcher",
            "agent",
            "cache",
            "deploy",
            "router",
        ],
    ),
];

/// They compose several processes and may see everything.
const ROOTS: [&str; 3] = ["cli", "tests", "bench"];

fn workspace() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(super::root().join("Cargo.toml"));
    command.no_deps();
    command.exec().expect("cargo reads its own workspace")
}

fn short(package: &Package) -> &str {
    package
        .name
        .strip_prefix("slipway-")
        .unwrap_or(&package.name)
}

/// Dependencies that end up in what is shipped.
fn shipped(package: &Package) -> impl Iterator<Item = &str> {
    let all = package.dependencies.iter();
    all.filter(|d| d.kind != DependencyKind::Development)
        .map(|d| d.name.as_str())
}

#[test]
fn roles_never_import_each_other_and_imports_point_downwards() {
    let mut wrong = Vec::new();
    for package in workspace().workspace_packages() {
        let name = short(package);
        if ROOTS.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = IMPORTS.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("slipway-{name} has no row in the table of imports"));
            continue;
        };
        for import in shipped(package).filter_map(|d| d.strip_prefix("slipway-")) {
            if !allowed.contains(&import) {
                wrong.push(format!("slipway-{name} must not import slipway-{import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_imports_the_command_line_or_the_tests() {
    for package in workspace().workspace_packages() {
        for import in shipped(package).filter_map(|d| d.strip_prefix("slipway-")) {
            let name = short(package);
            let composes = name == "tests" || name == "bench";
            assert!(
                !ROOTS.contains(&import) || composes,
                "slipway-{name} imports slipway-{import}"
            );
        }
    }
}

#[test]
fn vendor_crates_stay_in_their_homes() {
    let mut wrong = Vec::new();
    for package in workspace().workspace_packages() {
        let name = short(package);
        if name == "tests" || name == "bench" {
            continue;
        }
        for vendor in shipped(package) {
            let home = HOMES.iter().find(|(known, _)| *known == vendor);
            if home.is_some_and(|(_, homes)| !homes.contains(&name)) {
                wrong.push(format!("slipway-{name} must not import {vendor}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn decisions_have_no_runtime_clock_or_randomness() {
    let metadata = workspace();
    let packages = metadata.workspace_packages();
    let core = packages
        .iter()
        .find(|p| short(p) == "core")
        .expect("core is there");
    for banned in ["tokio", "rand", "tracing", "chrono", "reqwest", "rustix"] {
        assert!(
            !shipped(core).any(|d| d == banned),
            "slipway-core must not import {banned}"
        );
    }
}

#[test]
fn every_crate_inherits_the_lints_and_the_versions() {
    for package in workspace().workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("readable");
        let has = |words: &str| manifest.contains(words);
        assert!(
            has("[lints]\nworkspace = true"),
            "{}: lints are not inherited",
            package.name
        );
        assert!(
            has("publish.workspace = true"),
            "{} can be published",
            package.name
        );
        let table: toml_like::Dependencies = toml_like::dependencies(&manifest);
        for (dependency, text) in table {
            assert!(
                text.contains("workspace = true") || text.contains("path = "),
                "{}: {dependency} has a version of its own",
                package.name
            );
        }
    }
}

/// Just enough of a manifest: the lines of its tables of dependencies.
mod toml_like {
    pub(super) type Dependencies = Vec<(String, String)>;

    pub(super) fn dependencies(manifest: &str) -> Dependencies {
        let mut inside = false;
        let mut found = Vec::new();
        for line in manifest.lines() {
            if line.starts_with('[') {
                inside = line.trim_end().ends_with("dependencies]");
            } else if inside && let Some((name, text)) = line.split_once('=') {
                let whole = format!("{}={text}", name.trim());
                let named = name.trim().trim_end_matches(".workspace").to_owned();
                found.push((named, whole.replace(".workspace=", " workspace =")));
            }
        }
        found
    }
}
