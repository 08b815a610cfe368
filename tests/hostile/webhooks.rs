//! The webhook endpoint.

use std::time::Duration;

use serde_json::json;
use slipway_daemon::Clock;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};
use slipway_tests::deliveries::{SCHEMES, hex_mac};
use slipway_tests::{Cluster, Hook};

const SOON: Duration = Duration::from_secs(20);
const ZERO: &str = "0000000000000000000000000000000000000000";

async fn hook(cluster: &Cluster, scheme: &str) -> Hook {
    let repo = cluster
        .rest
        .add_repository(FAKE_URL)
        .await
        .expect("registered");
    cluster.rest.add_hook(&repo, scheme).await.expect("made")
}

/// A push that would be built.
fn push(cluster: &Cluster, hook: &Hook, number: u32) -> (String, Vec<u8>) {
    let sha = cluster.commit(number, ONE_STAGE);
    (sha.clone(), hook.push_body(ZERO, &sha))
}

async fn stored(cluster: &Cluster, hook: &Hook) -> usize {
    let rows = cluster
        .rest
        .get(&format!("/hooks/{}/deliveries", hook.id))
        .await
        .expect("listed");
    rows.as_array().map_or(0, Vec::len)
}

fn header(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

#[tokio::test]
async fn every_code_host_signs_in_its_own_way_and_is_built() {
    let cluster = Cluster::start().await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    for (number, scheme) in (1..).zip(SCHEMES) {
        let hook = cluster.rest.add_hook(&repo, scheme).await.unwrap();
        let (_, body) = push(&cluster, &hook, number);
        let answer = hook.deliver(&cluster.rest, scheme, body).await.unwrap();
        assert_eq!(answer.status, 202, "{scheme}: {}", answer.text);
        let row = cluster.rest.decided(&hook, scheme, SOON).await.unwrap();
        assert_eq!(row["state"], "built", "{scheme}: {row}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h001_no_signature_is_refused_and_not_stored() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let (_, body) = push(&cluster, &hook, 1);
    let headers = [
        header("x-github-event", "push"),
        header("x-github-delivery", "d"),
    ];
    let answer = hook.send(&cluster.rest, &headers, body).await.unwrap();
    assert_eq!((answer.status, answer.code()), (401, "not_authentic"));
    assert_eq!(stored(&cluster, &hook).await, 0);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h002_a_signature_of_zeros_or_given_twice_is_refused() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let (_, body) = push(&cluster, &hook, 1);
    let zeros = format!("sha256={}", "0".repeat(64));
    let good = hook.headers("d", &body);
    let mut twice = good.clone();
    twice.extend(
        good.iter()
            .filter(|(n, _)| n == "x-hub-signature-256")
            .cloned(),
    );
    let forged = vec![
        header("x-github-delivery", "d"),
        header("x-hub-signature-256", zeros),
    ];
    for headers in [forged, twice] {
        let answer = hook
            .send(&cluster.rest, &headers, body.clone())
            .await
            .unwrap();
        assert_eq!(answer.status, 401);
    }
    assert_eq!(stored(&cluster, &hook).await, 0);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h003_the_legacy_header_is_not_looked_at() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let (_, body) = push(&cluster, &hook, 1);
    // Even a good SHA-256 in the place of the old SHA-1 (where Bitbucket has its own).
    let value = format!("sha256={}", hex_mac(hook.secret.as_bytes(), &[&body]));
    let headers = [
        header("x-github-delivery", "d"),
        header("x-hub-signature", value),
    ];
    let answer = hook.send(&cluster.rest, &headers, body).await.unwrap();
    assert_eq!(answer.status, 401);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h004_one_byte_more_is_not_what_was_signed() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let (_, mut body) = push(&cluster, &hook, 1);
    let headers = hook.headers("d", &body);
    body.push(b'\n');
    let answer = hook.send(&cluster.rest, &headers, body).await.unwrap();
    assert_eq!(answer.status, 401);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h005_a_signed_time_outside_its_window_is_refused() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "gitlab_signed").await;
    let (_, body) = push(&cluster, &hook, 1);
    let now = Clock::system().now().as_millis() / 1_000;
    for wrong in [now - 3_600, now + 3_600, 1_000_000_000_000_000_000, -1] {
        let headers = hook.standard("d", &body, wrong);
        let answer = hook
            .send(&cluster.rest, &headers, body.clone())
            .await
            .unwrap();
        assert_eq!(answer.status, 401, "{wrong}");
    }
    let signature = hook.standard_signature("d", "NaN", &body);
    let headers = [
        header("webhook-id", "d"),
        header("webhook-timestamp", "NaN"),
        header("webhook-signature", signature),
    ];
    let answer = hook
        .send(&cluster.rest, &headers, body.clone())
        .await
        .unwrap();
    assert_eq!(answer.status, 401);
    // Two keys while one rotates: one good signature among several is enough.
    let mut headers = hook.standard("d", &body, now);
    let good = hook.standard_signature("d", &now.to_string(), &body);
    headers[2].1 = format!("v1,AAAA {good}");
    let answer = hook.send(&cluster.rest, &headers, body).await.unwrap();
    assert_eq!(answer.status, 202);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h006_a_good_weaker_signature_rescues_nothing() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "forgejo").await;
    let (_, body) = push(&cluster, &hook, 1);
    let good = hex_mac(hook.secret.as_bytes(), &[&body]);
    let headers = [
        header("x-forgejo-delivery", "d"),
        header("x-forgejo-signature", "0".repeat(64)),
        header("x-gitea-signature", good),
    ];
    let answer = hook.send(&cluster.rest, &headers, body).await.unwrap();
    assert_eq!(answer.status, 401);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h007_a_known_id_with_another_body_overwrites_nothing() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let (sha, body) = push(&cluster, &hook, 1);
    let first = hook.deliver(&cluster.rest, "same", body).await.unwrap();
    let row = cluster.rest.decided(&hook, "same", SOON).await.unwrap();
    let (_, other) = push(&cluster, &hook, 2);
    let second = hook.deliver(&cluster.rest, "same", other).await.unwrap();
    assert_eq!(second.status, 200);
    assert_eq!(second.json["state"], "quarantined");
    assert_eq!(second.json["delivery"], first.json["delivery"]);
    let build = row["build_id"].as_str().unwrap();
    let found = cluster.rest.build_ended(build, SOON).await.unwrap();
    assert_eq!(found["commit_sha"], sha);
    let all = cluster.rest.get("/builds").await.unwrap();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1));
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h008_one_event_through_two_hooks_is_one_build() {
    let cluster = Cluster::start().await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let own = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let organisation = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let (_, body) = push(&cluster, &own, 1);
    for hook in [&own, &organisation] {
        let answer = hook
            .deliver(&cluster.rest, "shared-guid", body.clone())
            .await
            .unwrap();
        assert_eq!(answer.status, 202);
    }
    let first = cluster
        .rest
        .decided(&own, "shared-guid", SOON)
        .await
        .unwrap();
    let second = cluster
        .rest
        .decided(&organisation, "shared-guid", SOON)
        .await
        .unwrap();
    assert_eq!(first["build_id"], second["build_id"]);
    let all = cluster.rest.get("/builds").await.unwrap();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1), "{all}");
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h009_a_compressed_body_is_not_opened() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let body = vec![0_u8; 1024];
    let mut headers = hook.headers("d", &body);
    headers.push(header("content-encoding", "gzip"));
    let answer = hook.send(&cluster.rest, &headers, body).await.unwrap();
    assert_eq!(
        (answer.status, answer.code()),
        (415, "unsupported_encoding")
    );
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h011_the_scheme_says_which_bytes_of_a_form_are_signed() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let (_, json) = push(&cluster, &hook, 1);
    let text = String::from_utf8(json).unwrap();
    let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
    let body = format!("payload={encoded}").into_bytes();
    let mut headers = hook.headers("form", &body);
    headers.retain(|(name, _)| name != "content-type");
    headers.push(header("content-type", "application/x-www-form-urlencoded"));
    let answer = hook.send(&cluster.rest, &headers, body).await.unwrap();
    assert_eq!(answer.status, 202);
    let row = cluster.rest.decided(&hook, "form", SOON).await.unwrap();
    assert_eq!(row["state"], "built", "{row}");
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h012_ambiguous_or_endless_json_is_quarantined_and_the_rest_goes_on() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let sha = "a".repeat(40);
    let bodies: Vec<Vec<u8>> = vec![
        "[".repeat(100_000).into_bytes(),
        format!(r#"{{"ref":"refs/heads/a","ref":"refs/heads/b","after":"{sha}"}}"#).into_bytes(),
        br#"{"ref": 1e400}"#.to_vec(),
        br#"{"ref": "\ud800"}"#.to_vec(),
        [b"{\"".as_slice(), &vec![b'k'; 10 * 1024 * 1024], b"\": 1}"].concat(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"{\"ref\": \"\xff\"}".to_vec(),
        Vec::new(),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let id = format!("bad-{number}");
        let answer = hook.deliver(&cluster.rest, &id, body).await.unwrap();
        assert!(
            (200..300).contains(&answer.status),
            "{id}: {}",
            answer.status
        );
        let row = cluster.rest.decided(&hook, &id, SOON).await.unwrap();
        assert_eq!(row["state"], "quarantined", "{id}: {row}");
    }
    let (_, body) = push(&cluster, &hook, 1);
    hook.deliver(&cluster.rest, "good", body).await.unwrap();
    let row = cluster.rest.decided(&hook, "good", SOON).await.unwrap();
    assert_eq!(row["state"], "built");
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h013_a_push_of_twenty_thousand_commits_is_built_and_cut() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let sha = cluster.commit(1, ONE_STAGE);
    let commits: Vec<_> = (0..20_000)
        .map(|n| json!({"id": sha, "message": n.to_string()}))
        .collect();
    let body = json!({
        "ref": "refs/heads/main", "before": ZERO, "after": sha, "commits": commits,
        "head_commit": {"id": sha, "message": "m".repeat(10 * 1024 * 1024)},
        "repository": {"id": 1}, "sender": {"login": "ada"},
    });
    let answer = hook
        .deliver(&cluster.rest, "big", body.to_string().into_bytes())
        .await
        .unwrap();
    assert_eq!(answer.status, 202);
    let row = cluster.rest.decided(&hook, "big", SOON).await.unwrap();
    assert_eq!(row["state"], "built");
    let found = cluster
        .rest
        .get(&format!("/builds/{}", row["build_id"].as_str().unwrap()))
        .await
        .unwrap();
    let message = found["commit_message"].as_str().unwrap_or_default();
    assert!(
        message.len() <= 8 * 1024 + 16,
        "{} bytes of message",
        message.len()
    );
    // Larger than any host sends: refused while it arrives.
    let answer = hook
        .deliver(&cluster.rest, "huge", vec![b' '; 26 * 1024 * 1024])
        .await;
    assert!(answer.is_err() || answer.is_ok_and(|a| a.status == 413));
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h014_a_name_in_a_payload_is_nobody() {
    let cluster = Cluster::start().await;
    let hook = hook(&cluster, "github").await;
    let sha = cluster.commit(1, ONE_STAGE);
    let body = json!({
        "ref": "refs/heads/main", "before": ZERO, "after": sha, "repository": {"id": 1},
        "sender": {"login": "admin"}, "pusher": {"name": "admin"},
    });
    hook.deliver(&cluster.rest, "d", body.to_string().into_bytes())
        .await
        .unwrap();
    cluster.rest.decided(&hook, "d", SOON).await.unwrap();
    // No token, no right and no record of a person came of it.
    let tokens = cluster.rest.get("/tokens").await.unwrap();
    let subjects: Vec<_> = tokens
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["subject"].clone())
        .collect();
    assert!(
        subjects.iter().all(|s| s == "admin" || s == "system"),
        "{subjects:?}"
    );
    let audit = cluster.rest.get("/audit").await.unwrap();
    let by_payload = audit
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["actor_type"] != "token");
    assert_eq!(by_payload.count(), 0);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h015_a_path_is_decoded_and_matched_once() {
    let cluster = Cluster::start().await;
    for path in [
        "//webhooks/..;/api/v1/agents",
        "/webhooks/%2e%2e/api/v1/agents",
        "/webhooks/..%2fapi%2fv1%2fagents",
        "/api/v1/agents;.jsp",
        "/api/v1/agents/.jsp",
        "/healthz/../api/v1/agents",
        "/healthz/..;/api/v1/agents",
        "/%61pi/v1/agents",
        "//api/v1/agents",
    ] {
        let (status, body) = raw(&cluster.rest.base, path, "evil.example").await;
        assert!(matches!(status, 400 | 401 | 404), "{path}: {status} {body}");
        assert!(!body.contains("agent-0"), "{path} answered {body}");
        let (status, _) = raw(&cluster.rest.intake, path, "evil.example").await;
        assert!(
            matches!(status, 400 | 401 | 404 | 405),
            "{path} at the intake: {status}"
        );
    }
    cluster.stop().await;
}

/// A request line as it is: clients tidy paths up.
async fn raw(base: &str, path: &str, host: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = base.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    (status, answer)
}
