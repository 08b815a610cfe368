//! `slipway explain`: the long form of a code.

use crate::exit_code::Exit;
use crate::output;

/// Every code of a pipeline file: code, what it means, how to mend it.
const CODES: &[(&str, &str)] = &[
    (
        "SLP0101",
        "The file is not valid YAML, or holds more than one document. The message names the line.",
    ),
    (
        "SLP0102",
        "The file passes a limit: 256 KiB, 20 000 nodes, 32 levels, 100 aliases, 100 merge keys.",
    ),
    (
        "SLP0103",
        "The same key stands twice in one map. Which one was meant cannot be known; remove one.",
    ),
    (
        "SLP0104",
        "A character that most editors do not show (control, bidirectional, line separator). Remove it.",
    ),
    (
        "SLP0105",
        "A value of the wrong kind, for example a number where a text is due. Texts that look like numbers or booleans need quotes.",
    ),
    (
        "SLP0106",
        "A value outside its range. The message names the range.",
    ),
    (
        "SLP0107",
        "A key that does not exist here. Often it is another system's word; the hint names ours.",
    ),
    ("SLP0108", "A key that must be there is missing."),
    (
        "SLP0109",
        "A name that is not allowed: 1–63 of a–z, 0–9, `.`, `_`, `-`, beginning with a letter or digit.",
    ),
    (
        "SLP0110",
        "`needs` names a stage that does not exist, or names one twice.",
    ),
    (
        "SLP0111",
        "Stages wait for each other in a circle; the message names it.",
    ),
    (
        "SLP0112",
        "More than 500 stages after matrices are expanded.",
    ),
    (
        "SLP0113",
        "An expression cannot be evaluated. Expressions are CEL over build, repo, matrix, variables and hash(…).",
    ),
    (
        "SLP0114",
        "A branch, tag or ref in a shell line. Whoever pushes chooses it, and it may hold shell commands; use the $CI_COMMIT_… variables.",
    ),
    ("SLP0115", "Not a cron schedule of five fields."),
    (
        "SLP0116",
        "Not an image reference, or a tag where a digest is due.",
    ),
    (
        "SLP0117",
        "A variable or secret name that is not allowed, an undeclared variable, or values that are too large together.",
    ),
    (
        "SLP0118",
        "A path or pattern that cannot be used: paths are relative and stay in the workspace.",
    ),
    (
        "SLP0119",
        "Not a duration: a number and a unit (ms, s, m, h, d), for example 1h30m.",
    ),
    ("SLP0120", "A mistake in `deploy`; the message says which."),
    ("SLP0121", "Two things with the same name."),
    (
        "SLP0201",
        "Warning: an image without a version. The same commit may give another result tomorrow.",
    ),
    (
        "SLP0202",
        "Warning: the trusted sandbox, which an administrator must allow.",
    ),
    (
        "SLP0203",
        "Warning: a stage that holds a secret is executed at most once; if its agent is lost, a person decides. `idempotent: true` says that repeating is harmless.",
    ),
    ("SLP0204", "Warning: no command mentions a promised report."),
    (
        "SLP0205",
        "Warning: a key that is read and checked, and that this version does not act on yet.",
    ),
    (
        "SLP0206",
        "Warning: files are named that decide whether the stage is recalled, and it is executed every time all the same. The message says why; most often its image is named by a tag instead of a digest.",
    ),
    (
        "SLP0207",
        "Warning: a `cache` that is not kept, as a whole or one of its folders. Folders of the workspace are kept, `.git` and those of the home directory are not; a stage that holds a secret begins with what others left and leaves nothing.",
    ),
    (
        "SLP0208",
        "Warning: a `remote_cache` that does less than it says, or nothing: a stage that holds a secret or is executed at most once reads and leaves nothing, a strict stage without services has no network, and an image stage has no tools of yours.",
    ),
    (
        "SLP0301",
        "Manifests of a service that cannot be read: not YAML, a key twice, or larger than the limits (64 KiB of text, 10 files, 20 objects).",
    ),
    (
        "SLP0302",
        "A kind of object that is not made for a service: one Deployment, and ConfigMaps, Services and ServiceAccounts of its own are. Everything else is made in the namespace beforehand.",
    ),
    (
        "SLP0303",
        "Manifests without a Deployment, with two, or with one object twice.",
    ),
    (
        "SLP0304",
        "Something in a manifest that Slipway or the cluster sets, or that would keep a version from starting or from ending.",
    ),
    (
        "SLP0305",
        "Which container gets the image is not clear: say `container` in the pipeline file.",
    ),
    (
        "SLP0306",
        "A manifest asks for more than the environment's policy on the server allows: the node's network, rights or folders, another account, or another namespace.",
    ),
    (
        "SLP0307",
        "Files of `manifests` or `chart` that the built commit does not have, or has as something else than plain files of text.",
    ),
    (
        "SLP0308",
        "A chart that `helm template` did not render: helm is missing on the dispatcher's machine, or it refused; the message has its words.",
    ),
];

/// Prints the long form.
pub(crate) fn explain(code: &str) -> Exit {
    let wanted = code.to_uppercase();
    match CODES.iter().find(|(known, _)| *known == wanted) {
        Some((known, long)) => {
            output::data(&format!("{known}: {long}"));
            Exit::Ok
        }
        None => {
            output::say(&format!("there is no code `{code}`"));
            Exit::NotFound
        }
    }
}
