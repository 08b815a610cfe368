//! Bitbucket's deliveries: Cloud and Data Center speak differently.

use serde_json::Value;

use super::event::{At, HostEvent, PullRequest, Unusable, commit, push};

/// The immutable id of the repository that the payload is about.
pub(super) fn repository_id(body: &Value) -> Option<String> {
    let id = body
        .pointer("/repository/uuid")
        .or_else(|| body.pointer("/repository/id"))
        .or_else(|| body.pointer("/pullRequest/toRef/repository/id"))?;
    Some(id.as_str().map_or_else(|| id.to_string(), str::to_owned))
}

/// What happened, Cloud. One delivery may hold several changes; each becomes an event.
pub(super) fn cloud(name: &str, body: &Value) -> Result<Vec<HostEvent>, Unusable> {
    let at = At(body);
    match name {
        "repo:push" => changes(at.path(&["push", "changes"]))?
            .iter()
            .map(|change| cloud_change(&At(change), &at.shown(&["actor", "nickname"])))
            .collect(),
        "pullrequest:created" | "pullrequest:updated" => Ok(vec![cloud_pull_request(&at)?]),
        other => Ok(vec![HostEvent::Ignored(format!(
            "event `{other}` starts nothing"
        ))]),
    }
}

fn changes(list: &Value) -> Result<&Vec<Value>, Unusable> {
    list.as_array()
        .filter(|changes| changes.len() <= 1_000)
        .ok_or_else(|| Unusable::Parse("the list of changes is missing or too long".into()))
}

fn cloud_change(change: &At<'_>, actor: &str) -> Result<HostEvent, Unusable> {
    let side = if change.path(&["new"]).is_null() {
        "old"
    } else {
        "new"
    };
    let kind = match change.text(&[side, "type"])? {
        "tag" | "annotated_tag" => "tags",
        _ => "heads",
    };
    let ref_name = format!("refs/{kind}/{}", change.text(&[side, "name"])?);
    let hash = |side: &str| match change.path(&[side, "target", "hash"]).as_str() {
        Some(text) => commit(text),
        None => Ok(None),
    };
    let message = change.shown(&["new", "target", "message"]);
    push(
        &ref_name,
        hash("old")?,
        hash("new")?,
        message,
        actor.to_owned(),
    )
}

fn cloud_pull_request(at: &At<'_>) -> Result<HostEvent, Unusable> {
    let of = |keys: &[&str]| at.path(&[&["pullrequest"], keys].concat());
    // The payload may hold a shortened id; only a full one names a commit.
    let sha = at.text(&["pullrequest", "source", "commit", "hash"])?;
    let Ok(Some(sha)) = commit(sha) else {
        return Ok(HostEvent::Ignored(
            "the delivery names the commit only in short".into(),
        ));
    };
    let source_repo = of(&["source", "repository", "uuid"]);
    Ok(HostEvent::PullRequest(PullRequest {
        number: of(&["id"])
            .as_u64()
            .ok_or_else(|| Unusable::Parse("`pullrequest.id` is not a number".into()))?,
        sha,
        source: at
            .text(&["pullrequest", "source", "branch", "name"])?
            .to_owned(),
        target: at
            .text(&["pullrequest", "destination", "branch", "name"])?
            .to_owned(),
        fork: source_repo.is_null() || source_repo != of(&["destination", "repository", "uuid"]),
        title: at.shown(&["pullrequest", "title"]),
        actor: at.shown(&["actor", "nickname"]),
    }))
}

/// What happened, Data Center.
pub(super) fn data_center(name: &str, body: &Value) -> Result<Vec<HostEvent>, Unusable> {
    let at = At(body);
    match name {
        "diagnostics:ping" => Ok(vec![HostEvent::Ping]),
        "repo:refs_changed" => changes(at.path(&["changes"]))?
            .iter()
            .map(|change| {
                let change = At(change);
                push(
                    change.text(&["ref", "id"])?,
                    change.commit(&["fromHash"])?,
                    change.commit(&["toHash"])?,
                    String::new(),
                    at.shown(&["actor", "name"]),
                )
            })
            .collect(),
        "pr:opened" | "pr:from_ref_updated" => {
            let repo = |side| at.path(&["pullRequest", side, "repository", "id"]);
            Ok(vec![HostEvent::PullRequest(PullRequest {
                number: at
                    .path(&["pullRequest", "id"])
                    .as_u64()
                    .ok_or_else(|| Unusable::Parse("`pullRequest.id` is not a number".into()))?,
                sha: commit(at.text(&["pullRequest", "fromRef", "latestCommit"])?)?
                    .ok_or_else(|| Unusable::Parse("the pull request has no commit".into()))?,
                source: at
                    .text(&["pullRequest", "fromRef", "displayId"])?
                    .to_owned(),
                target: at.text(&["pullRequest", "toRef", "displayId"])?.to_owned(),
                fork: repo("fromRef").is_null() || repo("fromRef") != repo("toRef"),
                title: at.shown(&["pullRequest", "title"]),
                actor: at.shown(&["actor", "name"]),
            })])
        }
        other => Ok(vec![HostEvent::Ignored(format!(
            "event `{other}` starts nothing"
        ))]),
    }
}
