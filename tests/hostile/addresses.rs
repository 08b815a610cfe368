//! Repository addresses, where they are saved.

use reqwest::Method;
use serde_json::json;
use slipway_tests::Cluster;
use slipway_tests::cluster::FAKE_URL;

#[tokio::test]
async fn hostile_h016_h017_h023_an_address_that_leads_elsewhere_is_not_saved() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    for bad in [
        "ext::sh -c touch% pwned",
        "ext::sh",
        "--upload-pack=touch pwned;git-upload-pack",
        "--upload-pack=x",
        "-u./payload",
        "file:///etc",
        "/etc",
        "http://git.example/x",
        "https://user:canary-password@git.example/x",
        "https://git.example:22/x",
        "https://[::ffff:169.254.169.254]/x",
        "https://0x7f.1/x",
        "https://2130706433/x",
        "https://localhost./x",
        "ssh://-oProxyCommand=x@git.example/x",
    ] {
        for (path, body) in [
            ("/repositories", json!({"repo_url": bad})),
            ("/builds", json!({"repo_url": bad})),
        ] {
            let answer = rest.call(Method::POST, path, Some(body)).await.unwrap();
            let refused = matches!(answer.status, 404 | 422);
            assert!(refused, "{path} {bad}: {}", answer.text);
            assert!(!answer.text.contains("canary-password"), "{}", answer.text);
        }
    }
    assert_eq!(rest.get("/repositories").await.unwrap(), json!([]));
    rest.add_repository(FAKE_URL).await.unwrap();
    cluster.stop().await;
}
