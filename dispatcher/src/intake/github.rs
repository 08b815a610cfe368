//! GitHub's deliveries.

use serde_json::Value;

use super::event::{At, HostEvent, PullRequest, Unusable, commit, push};

/// The immutable id of the repository that the payload is about.
pub(super) fn repository_id(body: &Value) -> Option<String> {
    body.pointer("/repository/id").map(ToString::to_string)
}

/// What happened.
pub(super) fn event(name: &str, body: &Value) -> Result<HostEvent, Unusable> {
    let at = At(body);
    match name {
        "ping" => Ok(HostEvent::Ping),
        "push" => push(
            at.text(&["ref"])?,
            at.commit(&["before"])?,
            at.commit(&["after"])?,
            at.shown(&["head_commit", "message"]),
            at.shown(&["sender", "login"]),
        ),
        "pull_request" => pull_request(&at),
        other => Ok(HostEvent::Ignored(format!(
            "event `{other}` starts nothing"
        ))),
    }
}

/// Also Gitea's shape.
pub(super) fn pull_request(at: &At<'_>) -> Result<HostEvent, Unusable> {
    let action = at.text(&["action"])?;
    if !matches!(
        action,
        "opened" | "synchronize" | "synchronized" | "reopened" | "ready_for_review"
    ) {
        return Ok(HostEvent::Ignored(format!("pull request {action}")));
    }
    let head = at.path(&["pull_request", "head", "repo", "id"]);
    let base = at.path(&["pull_request", "base", "repo", "id"]);
    Ok(HostEvent::PullRequest(PullRequest {
        number: at
            .path(&["pull_request", "number"])
            .as_u64()
            .ok_or_else(|| Unusable::Parse("`pull_request.number` is not a number".into()))?,
        sha: commit(at.text(&["pull_request", "head", "sha"])?)?
            .ok_or_else(|| Unusable::Parse("the pull request has no commit".into()))?,
        source: at.text(&["pull_request", "head", "ref"])?.to_owned(),
        target: at.text(&["pull_request", "base", "ref"])?.to_owned(),
        // A deleted head repository is a stranger's as well.
        fork: head.is_null() || head != base,
        title: at.shown(&["pull_request", "title"]),
        actor: at.shown(&["pull_request", "user", "login"]),
    }))
}
