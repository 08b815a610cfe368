//! GitLab's deliveries, of either scheme.

use serde_json::Value;

use super::event::{At, HostEvent, PullRequest, Unusable, commit, push};

/// The immutable id of the repository that the payload is about.
pub(super) fn repository_id(body: &Value) -> Option<String> {
    body.pointer("/project/id").map(ToString::to_string)
}

/// What happened.
pub(super) fn event(name: &str, body: &Value) -> Result<HostEvent, Unusable> {
    let at = At(body);
    match name {
        "Push Hook" | "Tag Push Hook" => push(
            at.text(&["ref"])?,
            at.commit(&["before"])?,
            at.commit(&["after"])?,
            newest_message(&at),
            at.shown(&["user_username"]),
        ),
        "Merge Request Hook" => merge_request(&at),
        other => Ok(HostEvent::Ignored(format!(
            "event `{other}` starts nothing"
        ))),
    }
}

fn newest_message(at: &At<'_>) -> String {
    let after = at.path(&["after"]);
    at.path(&["commits"])
        .as_array()
        .and_then(|commits| commits.iter().find(|c| c.get("id") == Some(after)))
        .map(|c| At(c).shown(&["message"]))
        .unwrap_or_default()
}

fn merge_request(at: &At<'_>) -> Result<HostEvent, Unusable> {
    let action = at.text(&["object_attributes", "action"])?;
    // An update without `oldrev` changed a title or a label, not the code.
    let moved = action == "update" && at.path(&["object_attributes", "oldrev"]).is_string();
    if !moved && !matches!(action, "open" | "reopen") {
        return Ok(HostEvent::Ignored(format!("merge request {action}")));
    }
    let of = |key| at.path(&["object_attributes", key]);
    Ok(HostEvent::PullRequest(PullRequest {
        number: of("iid")
            .as_u64()
            .ok_or_else(|| Unusable::Parse("`object_attributes.iid` is not a number".into()))?,
        sha: commit(at.text(&["object_attributes", "last_commit", "id"])?)?
            .ok_or_else(|| Unusable::Parse("the merge request has no commit".into()))?,
        source: at.text(&["object_attributes", "source_branch"])?.to_owned(),
        target: at.text(&["object_attributes", "target_branch"])?.to_owned(),
        fork: of("source_project_id") != of("target_project_id")
            || of("source_project_id").is_null(),
        title: at.shown(&["object_attributes", "title"]),
        actor: at.shown(&["user", "username"]),
    }))
}
