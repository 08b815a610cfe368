//! Keys of the deploy section.

use super::stage::{CONDITION, VALUE};
use super::{Kind, TEXTS, Table, key, must, table};

static HTTP_CHECK: Table = table(
    "HTTP check",
    &[
        must("path", Kind::Text, "Path with query."),
        key("expect", Kind::Int(100, 599), "Expected status."),
        key("contains", Kind::Text, "Text that the body must contain."),
        key("within", Kind::Duration, "Slower is a failure."),
    ],
);
static SMOKE: Table = table(
    "smoke check",
    &[
        key("http", Kind::Table(&HTTP_CHECK), "A request."),
        key("image", Kind::Text, "Image of a container that checks."),
        key("commands", TEXTS, "Its shell lines."),
        key("timeout", Kind::Duration, "Ends it when it takes longer."),
    ],
);
static STEP: Table = table(
    "step",
    &[
        must(
            "weight",
            Kind::Number(0.01, 100.0),
            "Share of the new version, percent.",
        ),
        key("bake", Kind::Duration, "How long gates look."),
        key(
            "approval",
            Kind::Bool,
            "Whether a person must agree before the next step.",
        ),
    ],
);
static APPROVAL: Table = table(
    "approval",
    &[
        key("groups", TEXTS, "Whose members may approve."),
        key(
            "min_approvals",
            Kind::Int(1, 10),
            "How many different people.",
        ),
        key(
            "approver_not_initiator",
            Kind::Bool,
            "Nobody approves their own.",
        ),
        key(
            "expiry",
            Kind::Duration,
            "The question is void after this time.",
        ),
    ],
);
static RESOURCES: Table = table(
    "resources",
    &[
        key("memory", Kind::Text, "For example 512MiB."),
        key("cpus", Kind::Number(0.01, 1_024.0), "Processors."),
    ],
);
static CHART: Table = table(
    "chart",
    &[
        must("path", Kind::Text, "Its folder in the repository."),
        key("values", TEXTS, "Files with values; later ones win."),
        key("set", Kind::Any, "Values that win over every file's."),
        key("namespace", Kind::Text, "What templates see as theirs."),
    ],
);
static ENVIRONMENT: Table = table(
    "environment",
    &[
        key(
            "when",
            Kind::Many(&Kind::Table(&CONDITION)),
            "Which builds go there.",
        ),
        key(
            "after",
            TEXTS,
            "Environments that must have succeeded first.",
        ),
        key("target", Kind::Text, "Registered on the server."),
        key(
            "trigger",
            Kind::Word(&["auto", "manual"]),
            "Whether a passed build goes there by itself.",
        ),
        key(
            "strategy",
            Kind::Word(&["canary", "blue-green", "rolling"]),
            "How traffic moves.",
        ),
        key("steps", Kind::List(&Kind::Table(&STEP)), "Canary steps."),
        key("gates", Kind::Any, "What is watched."),
        key(
            "smoke",
            Kind::Many(&Kind::Table(&SMOKE)),
            "Checks before traffic.",
        ),
        key(
            "approval",
            Kind::Either(&Kind::Bool, &Kind::Table(&APPROVAL)),
            "Who must agree.",
        ),
        key(
            "on_failure",
            Kind::Word(&["rollback", "hold"]),
            "What a failure leads to.",
        ),
        key(
            "on_inconclusive",
            Kind::Word(&["pause", "rollback", "proceed"]),
            "What doubt leads to.",
        ),
        key(
            "on_unproven",
            Kind::Word(&["proceed", "pause"]),
            "What too little traffic leads to.",
        ),
        key("watch", Kind::Duration, "Watch time after the switch."),
        key(
            "retain_old",
            Kind::Duration,
            "How long the old version stays warm.",
        ),
        key("drain", Kind::Duration, "How long open requests may take."),
        key("replicas", Kind::Int(1, 100), "Instances."),
        key("manifests", TEXTS, "Kubernetes: files with its pods, here."),
        key(
            "chart",
            Kind::Table(&CHART),
            "Kubernetes: a chart of its pods, here.",
        ),
        key(
            "container",
            Kind::Text,
            "The container that gets the image.",
        ),
        key(
            "environment",
            Kind::MapOf(&VALUE),
            "Variables of the service.",
        ),
        key(
            "resources",
            Kind::Table(&RESOURCES),
            "Limits of an instance.",
        ),
        key(
            "max_surge",
            Kind::Int(0, 100),
            "Rolling: instances above the count, percent.",
        ),
        key(
            "max_unavailable",
            Kind::Int(0, 100),
            "Rolling: instances below the count, percent.",
        ),
        key("stickiness", Kind::Text, "auto, header:<name>, ip or none."),
        key(
            "hold",
            Kind::Bool,
            "The router queues requests during the switch.",
        ),
        key(
            "require_staging",
            Kind::Bool,
            "The digest must have succeeded in `after` first.",
        ),
        key("require_provenance", Kind::Any, "Who must have built it."),
    ],
);
static HEALTH: Table = table("health", &[key("path", Kind::Text, "HTTP path.")]);
pub(super) static DEPLOY: Table = Table {
    name: "deploy",
    keys: &[
        must("service", Kind::Text, "The service's name."),
        must("image", Kind::Text, "Usually `${{ stages.<name>.image }}`."),
        must("port", Kind::Int(1, 65_535), "The port it listens on."),
        key("replicas", Kind::Int(1, 100), "Instances."),
        key("health", Kind::Table(&HEALTH), "How to see that it works."),
        key(
            "manifests",
            TEXTS,
            "Kubernetes: files that describe its pods.",
        ),
        key(
            "chart",
            Kind::Table(&CHART),
            "Kubernetes: a chart that describes its pods.",
        ),
        key(
            "container",
            Kind::Text,
            "The container that gets the image.",
        ),
        must(
            "environments",
            Kind::MapOf(&Kind::Table(&ENVIRONMENT)),
            "Where it goes.",
        ),
    ],
    foreign: &[],
    free_prefix: None,
};
