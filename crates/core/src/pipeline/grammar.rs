//! The grammar of the pipeline file as data: the one list of keys from which the check, the messages
//! and the JSON Schema all come. Every key has one spelling; what other systems call it is a hint.

mod deploy;
mod stage;

use deploy::DEPLOY;
pub(super) use stage::STAGE;
use stage::{CONCURRENCY, DEFAULTS};

/// The kind of value that a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A text.
    Text,
    /// A text, boolean or whole number, kept as written.
    Scalar,
    Bool,
    /// A whole number within bounds.
    Int(i64, i64),
    /// A number within bounds.
    Number(f64, f64),
    /// `1h30m`.
    Duration,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of this, or one of it.
    Many(&'static Kind),
    /// A list of this.
    List(&'static Kind),
    /// A map with free keys.
    MapOf(&'static Kind),
    /// A map with known keys.
    Table(&'static Table),
    /// Either of two kinds.
    Either(&'static Kind, &'static Kind),
    /// Nothing at all, or this.
    Maybe(&'static Kind),
    /// Anything: checked elsewhere.
    Any,
}

/// A map with known keys.
#[derive(Debug)]
pub(super) struct Table {
    /// What it describes, for messages: "stage".
    pub(super) name: &'static str,
    pub(super) keys: &'static [Key],
    /// What other systems write → what to write here.
    pub(super) foreign: &'static [(&'static str, &'static str)],
    /// Keys that begin so are free (anchors).
    pub(super) free_prefix: Option<&'static str>,
}

/// One known key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    pub(super) doc: &'static str,
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        required: false,
        doc,
    }
}

const fn must(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        required: true,
        doc,
    }
}

const fn table(name: &'static str, keys: &'static [Key]) -> Table {
    Table {
        name,
        keys,
        foreign: &[],
        free_prefix: None,
    }
}

const TEXTS: Kind = Kind::Many(&Kind::Text);
const EVENTS: &[&str] = &["push", "pull_request", "tag", "release", "cron", "manual"];

static FILTER: Table = table(
    "filter",
    &[
        key("branches", TEXTS, "Branches, as globs."),
        key("tags", TEXTS, "Tags, as globs."),
        key("paths", TEXTS, "Changed files, as globs."),
    ],
);
static CRON: Table = table(
    "cron entry",
    &[
        must("name", Kind::Text, "Its name, for `when: {cron: …}`."),
        must("schedule", Kind::Text, "Five cron fields."),
        key("timezone", Kind::Word(&["UTC"]), "UTC."),
    ],
);
static ON: Table = table(
    "`on`",
    &[
        key(
            "push",
            Kind::Maybe(&Kind::Table(&FILTER)),
            "Pushes to branches.",
        ),
        key(
            "pull_request",
            Kind::Maybe(&Kind::Table(&FILTER)),
            "Pull requests.",
        ),
        key("tag", Kind::Maybe(&Kind::Table(&FILTER)), "New tags."),
        key(
            "release",
            Kind::Maybe(&Kind::Table(&FILTER)),
            "Published releases.",
        ),
        key("cron", Kind::List(&Kind::Table(&CRON)), "Schedules."),
        key(
            "manual",
            Kind::Maybe(&Kind::Table(&FILTER)),
            "Started by a person.",
        ),
    ],
);

/// The whole file.
pub(super) static FILE: Table = Table {
    name: "file",
    keys: &[
        must("version", Kind::Int(1, 1), "1."),
        key(
            "on",
            Kind::Either(&Kind::Table(&ON), &Kind::Many(&Kind::Word(EVENTS))),
            "What starts a build.",
        ),
        key(
            "variables",
            Kind::MapOf(&Kind::Scalar),
            "Variables of every stage.",
        ),
        key(
            "defaults",
            Kind::Table(&DEFAULTS),
            "Keys of every stage that does not set them.",
        ),
        key(
            "concurrency",
            Kind::Table(&CONCURRENCY),
            "A limit on what executes at once.",
        ),
        must(
            "stages",
            Kind::MapOf(&Kind::Table(&STAGE)),
            "The stages, by name.",
        ),
        key("deploy", Kind::Table(&DEPLOY), "Where the image goes."),
    ],
    foreign: &[
        ("jobs", "`jobs` is `stages` here"),
        ("steps", "`steps` is `stages` here: a map by name"),
        ("pipeline", "`pipeline` is `stages` here"),
        (
            "workflows",
            "`workflows` is `stages` here: order is `needs`",
        ),
        ("image", "write `defaults: {image: …}`"),
        ("default", "`default` is `defaults` here"),
        ("env", "`env` is `variables` here"),
        (
            "environment",
            "variables are `variables`; places are `deploy.environments`",
        ),
        (
            "include",
            "a file is self-contained; use YAML anchors under an `x-…` key",
        ),
        ("extends", "use YAML anchors under an `x-…` key"),
        ("trigger", "`trigger` is `on` here"),
        ("when", "`when` belongs to a stage; the file has `on`"),
        ("services", "services belong to a stage"),
        ("clone", "write `defaults: {clone: …}`"),
    ],
    free_prefix: Some("x-"),
};
