//! What an agent executes for one stage, out of the stage's keys.

use std::collections::BTreeMap;

use super::check::is_misnamed;
use super::duration::duration_ms;
use super::expression::{Scope, Use};
use super::grammar::STAGE;
use super::mistake::{At, Mistake};
use super::names;
use super::plan::{
    ArtifactKind, ArtifactRule, CacheSpec, CloneSpec, CoverageFormat, CoverageSpec, EnvValue,
    ImageBuild, Sandbox, ServiceSpec, StageSpec,
};
use super::stages::{Keys, check_size, interpolated};
use super::tree::{Key, Node};

/// Used when neither the stage nor the defaults say: an hour.
const TIMEOUT_DEFAULT_MS: u64 = 60 * 60 * 1_000;
/// Bytes of a stage's script: Linux takes 128 KiB as one argument.
const SCRIPT_MAX: usize = 120 * 1024;
/// Characters of a command that are announced in the log before it is executed.
pub const ANNOUNCED_MAX: usize = 200;
/// Longest that one character becomes when it is quoted for a shell.
const QUOTED: usize = 4;
/// Around an announced command.
const ANNOUNCED_AROUND: usize = 32;
/// An administrator's maximum: a day.
const TIMEOUT_MAX_MS: u64 = 24 * 60 * 60 * 1_000;

/// Builds the spec; what cannot be used is recorded in `out`.
pub(super) fn stage(
    key: &Key,
    keys: Keys<'_>,
    name: &str,
    scope: &Scope<'_>,
    out: &mut Vec<Mistake>,
) -> StageSpec {
    let build = keys
        .own
        .get("build")
        .map(|node| image_build(node, scope, out));
    let artifacts = keys.get("artifacts");
    let spec = StageSpec {
        name: name.to_owned(),
        image: image(key, keys, build.is_some(), scope, out),
        commands: commands(key, keys, build.is_some(), scope, out),
        services: services(keys, scope, out),
        environment: environment(keys.get("environment"), scope, out),
        caches: caches(keys, scope, out),
        artifacts: artifact_rules(artifacts, scope, out),
        artifacts_expire_s: artifacts
            .and_then(|a| a.get("expire_in"))
            .and_then(Node::text)
            .and_then(duration_ms)
            .map(|ms| ms / 1_000),
        junit: junit(artifacts, out),
        coverage: coverage(artifacts, out),
        timeout_ms: timeout(keys, out),
        sandbox: match keys.text("sandbox") {
            _ if scope.facts.untrusted => Sandbox::Strict,
            Some("strict") => Sandbox::Strict,
            Some("trusted") => Sandbox::Trusted,
            _ => Sandbox::Standard,
        },
        build,
        clone: clone(keys),
        memoize: super::memoize::wanted(keys),
        memoize_inputs: super::memoize::inputs(keys, out),
        remote_cache: super::remote_cache::tools(keys),
    };
    let size = spec
        .environment
        .iter()
        .map(|(name, value)| match value {
            EnvValue::Plain(text) | EnvValue::FromSecret(text) => name.len() + text.len(),
        })
        .sum();
    check_size(key.at, size, out);
    spec
}

fn image(
    key: &Key,
    keys: Keys<'_>,
    builds: bool,
    scope: &Scope<'_>,
    out: &mut Vec<Mistake>,
) -> String {
    if builds {
        if let Some(node) = keys.own.get("image") {
            out.push(
                Mistake::new("SLP0107", node.at, "a stage with `build` has no `image`")
                    .because("the image is what it makes"),
            );
        }
        return String::new();
    }
    let Some(node) = keys.get("image") else {
        if !is_misnamed(keys.own, &STAGE, "image") {
            let what = format!("stage `{}` has no `image`", key.text);
            out.push(Mistake::new("SLP0108", key.at, what).fix(
                "name the container image its commands are executed in, or set `defaults.image`",
            ));
        }
        return String::new();
    };
    reference(node, scope, out)
}

fn reference(node: &Node, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> String {
    let before = out.len();
    let image = interpolated(
        node.at,
        node.text().unwrap_or_default(),
        scope,
        Use::Value,
        out,
    );
    if out.len() == before
        && let Some(problem) = names::image_problem(&image)
    {
        out.push(
            Mistake::new("SLP0116", node.at, "this is not an image reference").because(problem),
        );
    }
    image
}

fn commands(
    key: &Key,
    keys: Keys<'_>,
    builds: bool,
    scope: &Scope<'_>,
    out: &mut Vec<Mistake>,
) -> Vec<String> {
    if builds {
        if let Some(node) = keys.own.get("commands") {
            out.push(
                Mistake::new(
                    "SLP0107",
                    node.at,
                    "a stage has either `build` or `commands`",
                )
                .fix("put the commands into a stage before it"),
            );
        }
        return Vec::new();
    }
    let lines: Vec<&Node> = keys.get("commands").map(Node::items).unwrap_or_default();
    if lines.is_empty() && !is_misnamed(keys.own, &STAGE, "commands") {
        let what = format!("stage `{}` has no `commands`", key.text);
        out.push(
            Mistake::new("SLP0108", key.at, what)
                .because("a stage executes commands, or builds an image with `build`"),
        );
    }
    let commands: Vec<String> = lines
        .into_iter()
        .map(|line| {
            interpolated(
                line.at,
                line.text().unwrap_or_default(),
                scope,
                Use::ShellLine,
                out,
            )
        })
        .collect();
    let size: usize = commands.iter().map(|command| weight(command)).sum();
    if size > SCRIPT_MAX {
        let what = format!("the commands of stage `{}` are too long", key.text);
        out.push(
            Mistake::new("SLP0106", key.at, what)
                .because(format!(
                    "{size} bytes as one script; at most {SCRIPT_MAX}, because a shell gets no more at once"
                ))
                .fix("put them into a file of the repository and execute that"),
        );
    }
    commands
}

/// What a command takes in the stage's script, at most: itself, and the line that announces it with
/// every character quoted.
fn weight(command: &str) -> usize {
    let shown = command.lines().next().unwrap_or_default();
    let shown = shown.len().min(ANNOUNCED_MAX * char::MAX.len_utf8());
    command.len() + shown * QUOTED + ANNOUNCED_AROUND
}

/// Variables with their values.
pub(super) fn environment(
    node: Option<&Node>,
    scope: &Scope<'_>,
    out: &mut Vec<Mistake>,
) -> BTreeMap<String, EnvValue> {
    let mut variables = BTreeMap::new();
    for (key, value) in node.and_then(Node::map).unwrap_or_default() {
        check_variable(key, out);
        if let Some(secret) = value.get("from_secret").and_then(Node::text) {
            check_secret_name(secret, value.at, out);
            variables.insert(key.text.clone(), EnvValue::FromSecret(secret.to_owned()));
        } else if let Some(text) = value.scalar() {
            let text = interpolated(value.at, &text, scope, Use::Value, out);
            if text.contains('\0') {
                out.push(Mistake::new(
                    "SLP0117",
                    value.at,
                    "a variable cannot hold a NUL",
                ));
            }
            variables.insert(key.text.clone(), EnvValue::Plain(text));
        }
    }
    variables
}

/// Refuses names that are not plain variable names.
pub(super) fn check_variable(key: &Key, out: &mut Vec<Mistake>) {
    if let Some(problem) = names::variable_problem(&key.text) {
        let shown: String = key.text.chars().take(80).collect();
        out.push(
            Mistake::new(
                "SLP0117",
                key.at,
                format!("`{}` cannot name a variable", shown.escape_debug()),
            )
            .because(problem),
        );
    }
}

fn check_secret_name(secret: &str, at: At, out: &mut Vec<Mistake>) {
    if !names::is_name(&secret.to_lowercase()) {
        out.push(
            Mistake::new("SLP0117", at, "this cannot name a secret")
                .because("only secrets of this project can be named, by their plain names"),
        );
    }
}

fn services(keys: Keys<'_>, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> Vec<ServiceSpec> {
    let entries = keys.get("services").and_then(Node::map).unwrap_or_default();
    super::stages::check_names(entries, "service", out);
    entries
        .iter()
        .map(|(key, node)| ServiceSpec {
            name: key.text.clone(),
            image: node
                .get("image")
                .map_or_else(String::new, |n| reference(n, scope, out)),
            environment: environment(node.get("environment"), scope, out),
            ready: node.get("ready").and_then(Node::text).map(str::to_owned),
            command: node
                .get("command")
                .map(|n| {
                    n.items()
                        .into_iter()
                        .filter_map(Node::text)
                        .map(str::to_owned)
                        .collect()
                })
                .unwrap_or_default(),
        })
        .collect()
}

fn caches(keys: Keys<'_>, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> Vec<CacheSpec> {
    let mut specs = Vec::new();
    for node in keys.get("cache").map(Node::items).unwrap_or_default() {
        let Some(key) = node.get("key") else { continue };
        let text = interpolated(
            key.at,
            key.text().unwrap_or_default(),
            scope,
            Use::Value,
            out,
        );
        if text.len() > 512 || text.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
            out.push(Mistake::new(
                "SLP0118",
                key.at,
                "a cache key is at most 512 printable characters",
            ));
        }
        let paths = node.get("paths").map(Node::items).unwrap_or_default();
        for path in &paths {
            let bare = path.text().unwrap_or_default();
            let bare = bare.strip_prefix("~/").unwrap_or(bare);
            check_path(bare, path.at, out);
        }
        specs.push(CacheSpec {
            key: text,
            restore_keys: node
                .get("restore_keys")
                .map(Node::items)
                .unwrap_or_default()
                .into_iter()
                .map(|n| interpolated(n.at, n.text().unwrap_or_default(), scope, Use::Value, out))
                .collect(),
            paths: paths
                .into_iter()
                .filter_map(Node::text)
                .map(str::to_owned)
                .collect(),
        });
    }
    specs
}

fn check_path(path: &str, at: At, out: &mut Vec<Mistake>) {
    if let Some(problem) = names::path_problem(path) {
        out.push(Mistake::new("SLP0118", at, "this path cannot be used").because(problem));
    }
}

fn artifact_rules(
    artifacts: Option<&Node>,
    scope: &Scope<'_>,
    out: &mut Vec<Mistake>,
) -> Vec<ArtifactRule> {
    let mut rules = Vec::new();
    let paths = artifacts
        .and_then(|a| a.get("paths"))
        .map(Node::items)
        .unwrap_or_default();
    for node in paths {
        let text = interpolated(
            node.at,
            node.text().unwrap_or_default(),
            scope,
            Use::Value,
            out,
        );
        let (rule, pattern) = match text.split_at_checked(1) {
            Some(("=", rest)) => (ArtifactKind::MustMatch, rest),
            Some(("%", rest)) => (ArtifactKind::MayChange, rest),
            Some(("!", rest)) => (ArtifactKind::Exclude, rest),
            _ => (ArtifactKind::Keep, text.as_str()),
        };
        check_path(pattern, node.at, out);
        if let Err(problem) = names::Globs::new(&[pattern]) {
            out.push(Mistake::new("SLP0118", node.at, "a pattern cannot be read").because(problem));
        }
        rules.push(ArtifactRule {
            pattern: pattern.to_owned(),
            rule,
        });
    }
    rules
}

fn junit(artifacts: Option<&Node>, out: &mut Vec<Mistake>) -> Vec<String> {
    let nodes = artifacts
        .and_then(|a| a.get("reports"))
        .and_then(|r| r.get("junit"))
        .map(Node::items)
        .unwrap_or_default();
    nodes
        .into_iter()
        .filter_map(|node| {
            let path = node.text()?;
            check_path(path, node.at, out);
            Some(path.to_owned())
        })
        .collect()
}

fn coverage(artifacts: Option<&Node>, out: &mut Vec<Mistake>) -> Vec<CoverageSpec> {
    let nodes = artifacts
        .and_then(|a| a.get("reports"))
        .and_then(|r| r.get("coverage"))
        .map(Node::items)
        .unwrap_or_default();
    let mut specs = Vec::new();
    for node in nodes {
        let path = |key| node.get(key).and_then(Node::text).map(str::to_owned);
        let (path, format) = match (path("lcov"), path("cobertura")) {
            (Some(path), None) => (path, CoverageFormat::Lcov),
            (None, Some(path)) => (path, CoverageFormat::Cobertura),
            _ => {
                out.push(
                    Mistake::new(
                        "SLP0108",
                        node.at,
                        "a coverage report is either `lcov` or `cobertura`",
                    )
                    .fix("for example `coverage: {lcov: lcov.info}`"),
                );
                continue;
            }
        };
        check_path(&path, node.at, out);
        specs.push(CoverageSpec {
            path,
            format,
            min: node.get("min").and_then(Node::number),
            max_drop: node.get("max_drop").and_then(Node::number),
        });
    }
    specs
}

fn timeout(keys: Keys<'_>, out: &mut Vec<Mistake>) -> u64 {
    let Some(node) = keys.get("timeout") else {
        return TIMEOUT_DEFAULT_MS;
    };
    let ms = node
        .text()
        .and_then(duration_ms)
        .unwrap_or(TIMEOUT_DEFAULT_MS);
    if !(1_000..=TIMEOUT_MAX_MS).contains(&ms) {
        out.push(
            Mistake::new("SLP0106", node.at, "the time-out is out of range")
                .because("a stage may take between 1s and 24h"),
        );
    }
    ms
}

fn clone(keys: Keys<'_>) -> CloneSpec {
    let Some(node) = keys.defaults.and_then(|d| d.get("clone")) else {
        return CloneSpec::default();
    };
    let flag = |key| node.get(key).and_then(Node::boolean).unwrap_or(false);
    CloneSpec {
        depth: node
            .get("depth")
            .and_then(Node::int)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(1),
        submodules: flag("submodules"),
        lfs: flag("lfs"),
    }
}

fn image_build(node: &Node, scope: &Scope<'_>, out: &mut Vec<Mistake>) -> ImageBuild {
    let path = |key: &str, otherwise: &str, out: &mut Vec<Mistake>| {
        let Some(node) = node.get(key) else {
            return otherwise.to_owned();
        };
        let path = node.text().unwrap_or_default();
        check_path(path, node.at, out);
        path.to_owned()
    };
    let dockerfile = path("dockerfile", "Dockerfile", out);
    let context = path("context", ".", out);
    let tags: Vec<String> = node
        .get("tags")
        .map(Node::items)
        .unwrap_or_default()
        .into_iter()
        .map(|tag| reference(tag, scope, out))
        .collect();
    if tags.is_empty() {
        out.push(Mistake::new("SLP0108", node.at, "`build.tags` is empty"));
    }
    ImageBuild {
        dockerfile,
        context,
        tags,
        push: node.get("push").and_then(Node::boolean).unwrap_or(true),
        platforms: node
            .get("platforms")
            .map(|n| {
                n.items()
                    .into_iter()
                    .filter_map(Node::text)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default(),
        args: node
            .get("args")
            .and_then(Node::map)
            .unwrap_or_default()
            .iter()
            .filter_map(|(key, value)| {
                let text = value.scalar()?;
                check_variable(key, out);
                Some((
                    key.text.clone(),
                    interpolated(value.at, &text, scope, Use::Value, out),
                ))
            })
            .collect(),
        secrets: node
            .get("secrets")
            .and_then(Node::map)
            .unwrap_or_default()
            .iter()
            .filter_map(|(key, value)| {
                let secret = value.get("from_secret")?.text()?;
                check_secret_name(secret, value.at, out);
                Some((key.text.clone(), secret.to_owned()))
            })
            .collect(),
    }
}
