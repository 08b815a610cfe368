//! What deliveries of each code host mean.

use serde_json::json;

use super::event::{HostEvent, PullRequest, Push};
use super::*;

const OLD: &str = "1111111111111111111111111111111111111111";
const NEW: &str = "2222222222222222222222222222222222222222";
const NONE: &str = "0000000000000000000000000000000000000000";

fn hook(scheme: Scheme) -> HookRow {
    HookRow {
        hook_id: String::new(),
        repo_id: String::new(),
        scheme: scheme.as_str().to_owned(),
        webhook_secret: Vec::new(),
        previous_secret: None,
        previous_until_ms: None,
        host_repo_id: Some("7".to_owned()),
        created_at: 0,
    }
}

fn delivery(event: &str, body: &[u8]) -> Delivery {
    Delivery {
        id: String::new(),
        hook_id: String::new(),
        delivery_id: String::new(),
        event: event.to_owned(),
        body_digest: String::new(),
        headers: "{}".to_owned(),
        body: body.to_vec(),
        received_ms: 0,
        state: String::new(),
        decision: None,
        build_id: None,
        tries: 0,
    }
}

fn read(scheme: Scheme, event: &str, body: &serde_json::Value) -> Result<Vec<HostEvent>, Unusable> {
    events(&hook(scheme), &delivery(event, body.to_string().as_bytes()))
}

fn pushed(before: Option<&str>, message: &str, actor: &str) -> HostEvent {
    HostEvent::Push(Push {
        ref_name: "refs/heads/main".to_owned(),
        before: before.map(str::to_owned),
        after: NEW.to_owned(),
        message: message.to_owned(),
        actor: actor.to_owned(),
    })
}

fn github_push() -> serde_json::Value {
    json!({"ref": "refs/heads/main", "before": OLD, "after": NEW, "repository": {"id": 7},
        "head_commit": {"message": "fix"}, "sender": {"login": "ada"}})
}

#[test]
fn a_push_is_read_from_every_host() {
    let gitlab = json!({"ref": "refs/heads/main", "before": OLD, "after": NEW, "project": {"id": 7},
        "user_username": "ada", "commits": [{"id": NEW, "message": "fix"}]});
    let cloud = json!({"repository": {"uuid": "7"}, "actor": {"nickname": "ada"}, "push": {"changes": [
        {"old": {"type": "branch", "name": "main", "target": {"hash": OLD}},
         "new": {"type": "branch", "name": "main", "target": {"hash": NEW, "message": "fix"}}}]}});
    let center = json!({"repository": {"id": 7}, "actor": {"name": "ada"}, "changes": [
        {"ref": {"id": "refs/heads/main"}, "fromHash": OLD, "toHash": NEW}]});
    let expected = Ok(vec![pushed(Some(OLD), "fix", "ada")]);
    assert_eq!(read(Scheme::GitHub, "push", &github_push()), expected);
    assert_eq!(read(Scheme::Gitea, "push", &github_push()), expected);
    assert_eq!(read(Scheme::Forgejo, "push", &github_push()), expected);
    assert_eq!(read(Scheme::GitLabToken, "Push Hook", &gitlab), expected);
    assert_eq!(read(Scheme::BitbucketCloud, "repo:push", &cloud), expected);
    let expected = Ok(vec![pushed(Some(OLD), "", "ada")]);
    assert_eq!(
        read(Scheme::BitbucketDataCenter, "repo:refs_changed", &center),
        expected
    );
}

#[test]
fn new_refs_deletions_and_tags_are_told_apart() {
    let mut body = github_push();
    body["before"] = json!(NONE);
    let expected = Ok(vec![pushed(None, "fix", "ada")]);
    assert_eq!(read(Scheme::GitHub, "push", &body), expected);
    body["after"] = json!(NONE);
    body["ref"] = json!("refs/tags/v1");
    let ref_name = "refs/tags/v1".to_owned();
    assert_eq!(
        read(Scheme::GitHub, "push", &body),
        Ok(vec![HostEvent::Deleted { ref_name }])
    );
}

#[test]
fn a_pull_request_from_another_repository_is_a_fork() {
    let request = |head: serde_json::Value| {
        json!({"action": "opened", "repository": {"id": 7}, "pull_request": {"number": 3, "title": "t",
            "user": {"login": "eve"}, "head": {"ref": "main", "sha": NEW, "repo": head},
            "base": {"ref": "main", "repo": {"id": 7}}}})
    };
    let fork = |head| match read(Scheme::GitHub, "pull_request", &request(head)) {
        Ok(events) => match events.as_slice() {
            [HostEvent::PullRequest(PullRequest { fork, .. })] => *fork,
            other => panic!("{other:?}"),
        },
        Err(error) => panic!("{error}"),
    };
    assert!(!fork(json!({"id": 7})));
    assert!(fork(json!({"id": 8})));
    assert!(fork(json!(null)), "a deleted repository");
}

#[test]
fn intake_quarantine_not_4xx() {
    // Authentic but unreadable: the reason is recorded; an unknown event is ignored.
    for body in [
        &b"{\"ref\": \"refs/heads"[..],
        b"[]",
        b"{\"ref\":1}",
        b"\xff",
    ] {
        let got = events(&hook(Scheme::GitHub), &delivery("push", body));
        assert!(matches!(got, Err(Unusable::Parse(_))), "{got:?}");
    }
    let unknown = read(Scheme::GitHub, "star", &json!({}));
    assert!(matches!(unknown.as_deref(), Ok([HostEvent::Ignored(_)])));
}

#[test]
fn hostile_a5_a_payload_about_another_repository_is_quarantined() {
    let mut body = github_push();
    body["repository"]["id"] = json!(8);
    let got = read(Scheme::GitHub, "push", &body);
    assert_eq!(got, Err(Unusable::WrongRepository("8".to_owned())));
}

#[test]
fn hostile_h011_a_form_is_read_by_its_single_payload() {
    let mut form = delivery("push", b"");
    form.headers = json!({"content-type": "application/x-www-form-urlencoded"}).to_string();
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let payload = encode(&github_push().to_string());
    form.body = format!("payload={payload}").into_bytes();
    assert_eq!(
        events(&hook(Scheme::Gitea), &form),
        Ok(vec![pushed(Some(OLD), "fix", "ada")])
    );
    form.body = format!("payload={payload}&payload={payload}").into_bytes();
    assert!(events(&hook(Scheme::Gitea), &form).is_err());
}

#[test]
fn hostile_h013_a_huge_message_is_cut_and_never_breaks_a_character() {
    let mut body = github_push();
    body["head_commit"]["message"] = json!("é".repeat(1_000_000));
    match read(Scheme::GitHub, "push", &body).as_deref() {
        Ok([HostEvent::Push(push)]) => assert!(push.message.len() <= 8 * 1024),
        other => panic!("{other:?}"),
    }
}
