//! Names that are markup, where they are answered.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use slipway_tests::Cluster;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};
use slipway_tests::rest::Answer;

const SOON: Duration = Duration::from_secs(20);
const ZERO: &str = "0000000000000000000000000000000000000000";

/// Nothing that a browser would make a page of, whatever it guesses.
fn is_data(answer: &Answer) {
    let header = |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok());
    let kind = header("content-type").unwrap_or_default();
    let plain = ["application/json", "application/problem+json", "text/plain"];
    assert!(plain.iter().any(|good| kind.starts_with(good)), "{kind}");
    assert_eq!(header("x-content-type-options"), Some("nosniff"));
    let policy = header("content-security-policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("sandbox"));
    if kind.starts_with("text/plain") {
        let offered = header("content-disposition").unwrap_or_default();
        assert!(offered.starts_with("attachment"), "{offered}");
    }
}

#[tokio::test]
async fn hostile_h020_a_branch_that_is_markup_is_answered_as_data() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let repo = rest.add_repository(FAKE_URL).await.unwrap();
    let hook = rest.add_hook(&repo, "github").await.unwrap();
    let names = [
        "<script>alert(1)</script>",
        "\"><img/src=x/onerror=alert(1)>",
        "'onmouseover='alert(1)",
        "a\u{202e}niam",
    ];
    for (number, name) in (1..).zip(names) {
        let sha = cluster.commit(number, ONE_STAGE);
        let delivery = format!("d{number}");
        let body = hook.push_body_of(&format!("refs/heads/{name}"), ZERO, &sha);
        hook.deliver(rest, &delivery, body).await.unwrap();
        let row = rest.decided(&hook, &delivery, SOON).await.unwrap();
        let id = row["build_id"].as_str().unwrap_or_else(|| panic!("{row}"));
        let build = rest.build_ended(id, SOON).await.unwrap();
        // As it came: nothing is stripped, escaped twice or looked up as something else.
        assert_eq!(build["branch"], name);
        let query = url(name);
        for path in [
            format!("/builds/{id}"),
            format!("/builds/{id}/stages"),
            format!("/builds/{id}/logs"),
            format!("/builds?branch={query}"),
            format!("/builds/{query}"),
            format!("/builds?status={query}"),
            format!("/{query}"),
            format!("/hooks/{}/deliveries", hook.id),
        ] {
            for accepted in ["text/html", "image/svg+xml", "*/*", "text/plain"] {
                let request = rest.request(Method::GET, &path).header("accept", accepted);
                is_data(&rest.send(request).await.unwrap());
            }
        }
        let found = rest.get(&format!("/builds?branch={query}")).await.unwrap();
        assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{name}");
    }
    // One that git would not have is refused as an input, and told as data too.
    let body = json!({"repo_url": FAKE_URL, "branch": "\"><img src=x onerror=alert(1)>"});
    let answer = rest
        .call(Method::POST, "/builds", Some(body))
        .await
        .unwrap();
    assert!(matches!(answer.status, 404 | 422), "{}", answer.text);
    is_data(&answer);
    cluster.stop().await;
}

fn url(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
