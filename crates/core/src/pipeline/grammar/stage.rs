//! Keys of a stage, and of the defaults of all stages.

use crate::cache::remote::Tool;

use super::{EVENTS, Kind, TEXTS, Table, key, must, table};

static FROM_SECRET: Table = table(
    "secret",
    &[must(
        "from_secret",
        Kind::Text,
        "Name of a secret of this project.",
    )],
);
pub(super) const VALUE: Kind = Kind::Either(&Kind::Scalar, &Kind::Table(&FROM_SECRET));
static SERVICE: Table = table(
    "service",
    &[
        must("image", Kind::Text, "Container image."),
        key("environment", Kind::MapOf(&VALUE), "Variables."),
        key(
            "ready",
            Kind::Text,
            "Command that succeeds once the service is ready.",
        ),
        key("command", TEXTS, "Replaces the image's command."),
    ],
);
static NEED: Table = table(
    "need",
    &[
        must("stage", Kind::Text, "Name of the needed stage."),
        key(
            "optional",
            Kind::Bool,
            "A skipped need does not skip this stage.",
        ),
    ],
);
pub(super) static CONDITION: Table = Table {
    name: "condition",
    keys: &[
        key("event", Kind::Many(&Kind::Word(EVENTS)), "Causes."),
        key("branch", TEXTS, "Branches, as globs."),
        key("tag", TEXTS, "Tags, as globs."),
        key("ref", TEXTS, "Full refs, as globs."),
        key("path", TEXTS, "Changed files, as globs."),
        key("cron", TEXTS, "Names of schedules."),
        key(
            "status",
            Kind::Many(&Kind::Word(&["success", "failure"])),
            "Outcome of the needs.",
        ),
        key("if", Kind::Text, "A CEL expression that must be true."),
    ],
    foreign: &[
        ("branches", "branch"),
        ("paths", "path"),
        ("changes", "path"),
        ("evaluate", "if"),
    ],
    free_prefix: None,
};
static MATRIX: Table = Table {
    name: "matrix",
    keys: &[
        key(
            "include",
            Kind::List(&Kind::MapOf(&Kind::Scalar)),
            "Combinations added.",
        ),
        key(
            "exclude",
            Kind::List(&Kind::MapOf(&Kind::Scalar)),
            "Combinations left out.",
        ),
        key("fail_fast", Kind::Bool, "One failure cancels the others."),
        key("max_parallel", Kind::Int(1, 500), "How many at once."),
    ],
    foreign: &[],
    free_prefix: Some(""),
};
static CACHE: Table = Table {
    name: "cache",
    keys: &[
        must("key", Kind::Text, "Exact key."),
        key("restore_keys", TEXTS, "Prefixes tried in order."),
        must("paths", TEXTS, "Folders to keep."),
    ],
    foreign: &[
        ("fallback_keys", "restore_keys"),
        ("restore-keys", "restore_keys"),
        ("path", "paths"),
    ],
    free_prefix: None,
};
const REMOTE_CACHE: Kind = Kind::Either(&Kind::Bool, &Kind::Many(&Kind::Word(Tool::NAMES)));
const PERCENT: Kind = Kind::Number(0.0, 100.0);
static COVERAGE: Table = table(
    "coverage",
    &[
        key("lcov", Kind::Text, "Path of an LCOV tracefile."),
        key("cobertura", Kind::Text, "Path of a Cobertura report."),
        key("min", PERCENT, "The stage fails below this percentage."),
        key(
            "max_drop",
            PERCENT,
            "The stage fails when coverage drops by more points.",
        ),
    ],
);
static REPORTS: Table = table(
    "reports",
    &[
        key("junit", TEXTS, "JUnit XML reports."),
        key(
            "coverage",
            Kind::Many(&Kind::Table(&COVERAGE)),
            "Coverage reports.",
        ),
    ],
);
static ARTIFACTS: Table = Table {
    name: "artifacts",
    keys: &[
        key(
            "paths",
            TEXTS,
            "Globs; `=` must match, `%` may change, `!` left out.",
        ),
        key("expire_in", Kind::Duration, "How long they are kept."),
        key(
            "reports",
            Kind::Table(&REPORTS),
            "Reports that the stage promises.",
        ),
    ],
    foreign: &[
        ("name", "paths"),
        ("junit", "reports: {junit: …}"),
        ("expire-in", "expire_in"),
    ],
    free_prefix: None,
};
static RETRY: Table = table(
    "retry",
    &[
        key("max", Kind::Int(0, 2), "At most this often more."),
        key(
            "when",
            Kind::Many(&Kind::Word(&["failure", "timeout"])),
            "After what.",
        ),
        key(
            "exit_codes",
            Kind::Many(&Kind::Int(1, 255)),
            "Only after these exit codes.",
        ),
    ],
);
pub(super) static CONCURRENCY: Table = table(
    "concurrency",
    &[
        must("group", Kind::Text, "Name of the group."),
        key("limit", Kind::Int(1, 1_000), "How many at once."),
        key(
            "cancel_superseded",
            Kind::Bool,
            "A newer build of the same ref ends older ones.",
        ),
    ],
);
static INPUTS: Table = table(
    "memoize",
    &[key("inputs", TEXTS, "Globs of the files that matter.")],
);
static BUILD: Table = Table {
    name: "build",
    keys: &[
        key(
            "dockerfile",
            Kind::Text,
            "Path of the Dockerfile, in the context.",
        ),
        key("context", Kind::Text, "Folder that is sent to the builder."),
        must("tags", TEXTS, "Full references, with the image registry."),
        key("push", Kind::Bool, "Whether to push."),
        key("platforms", TEXTS, "For example linux/amd64."),
        key("args", Kind::MapOf(&Kind::Scalar), "Build arguments."),
        key(
            "secrets",
            Kind::MapOf(&Kind::Table(&FROM_SECRET)),
            "Build secrets by id.",
        ),
    ],
    foreign: &[
        ("file", "dockerfile"),
        ("repo", "tags"),
        ("build_args", "args"),
    ],
    free_prefix: None,
};
static CLONE: Table = table(
    "clone",
    &[
        key(
            "depth",
            Kind::Int(0, 1_000_000),
            "Commits of history; 0 = all.",
        ),
        key("submodules", Kind::Bool, "Fetch submodules."),
        key("lfs", Kind::Bool, "Fetch LFS objects."),
    ],
);

/// A stage, and (with `clone`) the `defaults`.
macro_rules! stage_keys {
    ($($more:expr),* $(,)?) => { &[
        key("image", Kind::Text, "Container image."),
        key("commands", TEXTS, "Shell lines; the first that fails ends the stage."),
        key("services", Kind::MapOf(&Kind::Table(&SERVICE)), "Containers beside it, by host name."),
        key("environment", Kind::MapOf(&VALUE), "Variables."),
        key("needs", Kind::Many(&Kind::Either(&Kind::Text, &Kind::Table(&NEED))), "Stages before it."),
        key("when", Kind::Many(&Kind::Table(&CONDITION)), "Any of these conditions."),
        key("matrix", Kind::Table(&MATRIX), "One stage per combination."),
        key("cache", Kind::Many(&Kind::Table(&CACHE)), "Folders kept between builds."),
        key("remote_cache", REMOTE_CACHE, "Other tools' remote caches; `true` = all."),
        key("artifacts", Kind::Table(&ARTIFACTS), "Files to keep."),
        key("timeout", Kind::Duration, "Ends the stage when it takes longer."),
        key("retry", Kind::Table(&RETRY), "Repetitions after failures."),
        key("idempotent", Kind::Bool, "May be repeated although it holds secrets."),
        key("failure", Kind::Word(&["ignore"]), "`ignore`: failing does not fail the build."),
        key("labels", Kind::MapOf(&Kind::Scalar), "Labels that an agent must match."),
        key("priority", Kind::Int(0, 9), "Higher first, inside the project."),
        key("concurrency", Kind::Table(&CONCURRENCY), "A limit on what executes at once."),
        key("memoize", Kind::Either(&Kind::Bool, &Kind::Table(&INPUTS)), "Reuse of equal results."),
        key("sandbox", Kind::Word(&["standard", "strict", "trusted"]), "How much it may."),
        key("build", Kind::Table(&BUILD), "Builds an image instead of executing commands."),
        $($more),*
    ] };
}

const STAGE_FOREIGN: &[(&str, &str)] = &[
    ("script", "GitLab's `script` is `commands` here"),
    ("before_script", "put the lines first in `commands`"),
    ("after_script", "put the lines last in `commands`"),
    ("run", "`run` is `commands` here"),
    (
        "steps",
        "a stage has `commands`; further stages go under `stages`",
    ),
    ("container", "`container.image` is `image` here"),
    ("docker", "`docker: - image` is `image` here"),
    ("variables", "variables of a stage are its `environment`"),
    ("env", "`env` is `environment` here"),
    (
        "secrets",
        "write `environment: {NAME: {from_secret: name}}`",
    ),
    ("depends_on", "`depends_on` is `needs` here"),
    ("requires", "`requires` is `needs` here"),
    ("wait", "`wait` is `needs` here"),
    ("rules", "`rules` is `when` here"),
    ("if", "write `when: [{if: …}]`"),
    ("only", "`only` is `when` here"),
    ("except", "`except` is `when` here"),
    ("filters", "`filters` is `when` here"),
    ("if_changed", "write `when: [{path: …}]`"),
    ("parallel", "`parallel.matrix` is `matrix` here"),
    ("strategy", "`strategy.matrix` is `matrix` here"),
    ("parallelism", "use `matrix`"),
    ("save_cache", "`save_cache` is `cache` here"),
    ("artifact_paths", "write `artifacts: {paths: …}`"),
    (
        "store_test_results",
        "write `artifacts: {reports: {junit: …}}`",
    ),
    ("timeout-minutes", "write `timeout: 30m`"),
    ("timeout_in_minutes", "write `timeout: 30m`"),
    ("allow_failure", "write `failure: ignore`"),
    ("continue-on-error", "write `failure: ignore`"),
    ("soft_fail", "write `failure: ignore`"),
    ("tags", "labels of agents are `labels` here"),
    ("runs-on", "labels of agents are `labels` here"),
    ("agents", "labels of agents are `labels` here"),
    ("resource_class", "labels of agents are `labels` here"),
    ("platform", "labels of agents are `labels` here"),
    ("resource_group", "write `concurrency: {group: …}`"),
    (
        "interruptible",
        "write `concurrency: {cancel_superseded: true}`",
    ),
    ("working_directory", "begin `commands` with `cd <folder>`"),
    ("working-directory", "begin `commands` with `cd <folder>`"),
    ("workdir", "begin `commands` with `cd <folder>`"),
    ("privileged", "no stage is privileged; see `sandbox`"),
    ("uses", "there are no plugins: use `image` and `commands`"),
    (
        "settings",
        "there are no plugins: use `image` and `commands`",
    ),
    ("extends", "use YAML anchors under an `x-…` key"),
    (
        "include",
        "a file is self-contained; use YAML anchors under an `x-…` key",
    ),
    ("stage", "there is no phase list: order is `needs` alone"),
    (
        "volumes",
        "host folders cannot be mounted; the workspace passes from stage to stage",
    ),
];

pub(in crate::pipeline) static STAGE: Table = Table {
    name: "stage",
    keys: stage_keys!(),
    foreign: STAGE_FOREIGN,
    free_prefix: None,
};
pub(super) static DEFAULTS: Table = Table {
    name: "`defaults`",
    keys: stage_keys!(key(
        "clone",
        Kind::Table(&CLONE),
        "How the commit is fetched."
    )),
    foreign: STAGE_FOREIGN,
    free_prefix: None,
};
