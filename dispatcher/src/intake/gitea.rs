//! Gitea's and Forgejo's deliveries.

use serde_json::Value;

use super::event::{At, HostEvent, Unusable, push};
use super::github;

/// The immutable id of the repository that the payload is about.
pub(super) fn repository_id(body: &Value) -> Option<String> {
    github::repository_id(body)
}

/// What happened.
pub(super) fn event(name: &str, body: &Value) -> Result<HostEvent, Unusable> {
    let at = At(body);
    match name {
        "push" => push(
            at.text(&["ref"])?,
            at.commit(&["before"])?,
            at.commit(&["after"])?,
            at.shown(&["head_commit", "message"]),
            at.shown(&["sender", "login"]),
        ),
        "delete" => {
            let kind = if at.text(&["ref_type"])? == "tag" {
                "tags"
            } else {
                "heads"
            };
            let name = at.text(&["ref"])?;
            let ref_name = super::event::full_ref(&format!("refs/{kind}/{name}"))?;
            Ok(HostEvent::Deleted { ref_name })
        }
        "pull_request" | "pull_request_sync" => github::pull_request(&at),
        other => Ok(HostEvent::Ignored(format!(
            "event `{other}` starts nothing"
        ))),
    }
}
