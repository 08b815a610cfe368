//! The REST API: bodies, filters, cursors, secrets, flags.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use slipway_agent::sandbox::fake::Script;
use slipway_tests::Cluster;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};

const NOWHERE: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_gets_a_clear_answer() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let send = |body: Vec<u8>, kind: &'static str| {
        let request = rest.request(Method::POST, "/feature-flags");
        rest.send(request.header("content-type", kind).body(body))
    };
    let cases: [(&[u8], &str, u16); 6] = [
        (b"{\"name\":", "application/json", 400),
        (b"{\"name\": 7}", "application/json", 422),
        (
            b"{\"name\": \"a\", \"owner\": \"x\"}",
            "application/json",
            422,
        ),
        (b"{\"name\": \"a\"}", "text/plain", 415),
        (b"[[[[", "application/json", 422),
        (b"\xff\xfe", "application/json", 400),
    ];
    for (body, kind, status) in cases {
        let answer = send(body.to_vec(), kind).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text);
        let is_problem = answer.headers["content-type"] == "application/problem+json";
        assert!(is_problem && !answer.code().is_empty(), "{}", answer.text);
    }
    let deep = "[".repeat(500_000).into_bytes();
    let answer = send(deep, "application/json").await.unwrap();
    assert!(matches!(answer.status, 400 | 422), "{}", answer.text);
    let large = send(vec![b' '; 2 * 1024 * 1024], "application/json").await;
    assert!(large.is_err() || large.is_ok_and(|a| a.status == 413));
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h076_what_is_not_there_and_what_is_no_id_look_the_same() {
    let cluster = Cluster::start().await;
    let read = |path| (Method::GET, path, None);
    let ask = |method, path| (method, path, Some(json!({"reason": "because"})));
    for (method, path, body) in [
        read("/builds/ID"),
        read("/builds/ID/stages"),
        read("/builds/ID/tests"),
        read("/builds/ID/logs"),
        read("/artifacts/ID"),
        read("/artifacts/ID/ID"),
        read("/deployments/ID"),
        read("/deployments/ID/events"),
        read("/repositories/ID/secrets"),
        read("/hooks/ID/deliveries"),
        read("/feature-flags/ID/status"),
        (Method::POST, "/builds/ID/cancel", None),
        (Method::POST, "/builds/ID/retry", Some(json!({}))),
        (Method::POST, "/agents/ID/drain", None),
        (Method::POST, "/agents/ID/resume", None),
        read("/queue/ID"),
        (Method::POST, "/hooks/ID/deliveries/ID/replay", None),
        (
            Method::POST,
            "/repositories/ID/hooks",
            Some(json!({"scheme": "github"})),
        ),
        (
            Method::PUT,
            "/repositories/ID/secrets/A",
            Some(json!({"value": "v"})),
        ),
        (
            Method::PATCH,
            "/feature-flags/ID",
            Some(json!({"enabled": true})),
        ),
        (Method::DELETE, "/tokens/ID", None),
        (Method::PUT, "/deployments/ID/approve", Some(json!({}))),
        ask(Method::PUT, "/deployments/ID/reject"),
        ask(Method::PUT, "/deployments/ID/rollback"),
        ask(Method::PUT, "/deployments/ID/abort"),
        ask(Method::PUT, "/deployments/ID/pause"),
    ] {
        let mut answers = Vec::new();
        for id in [
            NOWHERE,
            "..%2f..%2fetc%2fpasswd",
            "%00",
            "'%20OR%201=1",
            &"x".repeat(5_000),
        ] {
            let at = path.replace("ID", id);
            let answer = cluster.rest.call(method.clone(), &at, body.clone());
            let answer = answer.await.unwrap();
            let told: String = answer.text.chars().take(300).collect();
            assert_eq!(answer.status, 404, "{method} {path} {id}: {told}");
            answers.push(answer.text);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{method} {path}: {answers:?}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h076_what_belongs_to_another_repository_is_not_there() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let mut hooks = Vec::new();
    for (number, name) in (1..).zip(["ours", "theirs"]) {
        let url = format!("https://git.example/demo/{name}.git");
        let repo = rest.add_repository(&url).await.unwrap();
        let hook = rest.add_hook(&repo, "github").await.unwrap();
        let pipeline = ONE_STAGE.replace("  test:", &format!("  {name}:"));
        let sha = cluster.commit(number, &pipeline);
        let body = hook.push_body(&"0".repeat(40), &sha);
        hook.deliver(rest, name, body).await.unwrap();
        let row = rest.decided(&hook, name, Duration::from_secs(20)).await;
        let row = row.unwrap();
        let build = row["build_id"].as_str().unwrap().to_owned();
        hooks.push((hook.id, row["id"].as_str().unwrap().to_owned(), build));
    }
    let [(ours, _, build), (theirs, delivery, _)] = hooks.try_into().unwrap();
    // The same row, by its own way and by another's: only the second is "not there".
    let replay = |hook: &str| format!("/hooks/{hook}/deliveries/{delivery}/replay");
    for (path, status) in [(replay(&theirs), 409), (replay(&ours), 404)] {
        let answer = rest.call(Method::POST, &path, None).await.unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    for (stage, status) in [("ours", 200), ("theirs", 404), ("nobodys", 404)] {
        let path = format!("/builds/{build}/logs?stage={stage}");
        let answer = rest.call(Method::GET, &path, None).await.unwrap();
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h077_a_secrets_value_is_never_answered() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let repo = rest.add_repository(FAKE_URL).await.unwrap();
    let canary = "canary-9f8e7d6c5b4a";
    let path = |name: &str| format!("/repositories/{repo}/secrets/{name}");
    rest.put(&path("TOKEN"), json!({"value": canary}))
        .await
        .unwrap();
    let long = canary.repeat(10_000);
    let refused = [
        ("TOKEN", json!({"value": format!("{canary}\0")})),
        ("TOKEN", json!({"value": long})),
        ("TOKEN", json!({"value": ""})),
        ("TOKEN", json!({"value": [canary]})),
        ("TOKEN", json!({"value": "v", "other": canary})),
        ("a%20b", json!({"value": canary})),
        ("..%2fx", json!({"value": canary})),
    ];
    for (name, body) in refused {
        let answer = rest
            .call(Method::PUT, &path(name), Some(body))
            .await
            .unwrap();
        assert_eq!(answer.status, 422, "{}", answer.text);
        assert!(!answer.text.contains(canary), "{}", answer.text);
    }
    for path in [
        format!("/repositories/{repo}/secrets"),
        "/audit".into(),
        "/repositories".into(),
    ] {
        let answer = rest.call(Method::GET, &path, None).await.unwrap();
        assert!(!answer.text.contains(canary), "{path}: {}", answer.text);
    }
    let names = rest
        .get(&format!("/repositories/{repo}/secrets"))
        .await
        .unwrap();
    assert_eq!(names, json!(["TOKEN"]));
    let read = rest.call(Method::GET, &path("TOKEN"), None).await.unwrap();
    assert_eq!(
        read.status, 405,
        "there is no way to read a secret: {}",
        read.text
    );
    // Nor does it lie in the store as it was given.
    let folder = cluster.dir().join("data");
    for name in ["slipway.db", "slipway.db-wal"] {
        let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
        let found = bytes.windows(canary.len()).any(|w| w == canary.as_bytes());
        assert!(!found, "the secret lies in {name}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h078_filters_are_values_and_cursors_are_ours() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    rest.add_repository(FAKE_URL).await.unwrap();
    for number in 1..=3 {
        let sha = cluster.commit(number, ONE_STAGE);
        cluster.source.set_head(FAKE_URL, "refs/heads/main", &sha);
        rest.post("/builds", json!({"repo_url": FAKE_URL}))
            .await
            .unwrap();
    }
    for word in [
        "%27%3B%20DROP%20TABLE%20builds%3B--",
        "%25",
        "_",
        "%5C",
        "%00",
        "%F0%9F%92%A3",
    ] {
        for field in ["branch", "status", "author", "event", "repo"] {
            let path = format!("/builds?{field}={word}");
            let answer = rest.call(Method::GET, &path, None).await.unwrap();
            let empty = answer.json["items"].as_array().is_some_and(Vec::is_empty);
            assert!(
                answer.status == 422 || (answer.status == 200 && empty),
                "{path}: {}",
                answer.text
            );
        }
    }
    let refused = [
        "limit=1000000000",
        "limit=0",
        "limit=-1",
        "limit=x",
        "commit=%25",
        "since=yesterday",
        "cursor=AAAA",
        "cursor=%27%20OR%201%3D1",
    ];
    for query in refused {
        let answer = rest
            .call(Method::GET, &format!("/builds?{query}"), None)
            .await
            .unwrap();
        assert!(
            matches!(answer.status, 400 | 422),
            "{query}: {} {}",
            answer.status,
            answer.text
        );
    }
    // Too long for a request line: refused by the listener, whatever it says.
    let search = format!("/builds?branch={}", "x".repeat(1024 * 1024));
    let answer = rest.call(Method::GET, &search, None).await;
    assert!(answer.is_err() || answer.is_ok_and(|a| matches!(a.status, 400 | 414 | 431)));
    a_changed_cursor_is_refused(rest).await;
    let all = rest.get("/builds").await.unwrap();
    assert_eq!(
        all["items"].as_array().map(Vec::len),
        Some(3),
        "nothing was dropped"
    );
    cluster.stop().await;
}

async fn a_changed_cursor_is_refused(rest: &slipway_tests::Rest) {
    let first = rest.get("/builds?limit=2").await.expect("answered");
    let cursor = first["next_cursor"].as_str().expect("answered").to_owned();
    let rest_of = rest
        .get(&format!("/builds?limit=2&cursor={cursor}"))
        .await
        .expect("answered");
    assert_eq!(rest_of["items"].as_array().map(Vec::len), Some(1));
    let mut changed = cursor.into_bytes();
    let middle = changed.len() / 2;
    changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("answered");
    let answer = rest
        .call(Method::GET, &format!("/builds?cursor={changed}"), None)
        .await
        .expect("answered");
    assert_eq!((answer.status, answer.code()), (422, "bad_cursor"));
}

#[tokio::test]
async fn hostile_h079_a_value_that_looks_like_a_file_is_a_value() {
    let cluster = Cluster::start().await;
    let body = json!({"repo_url": "@/etc/passwd"});
    let answer = cluster
        .rest
        .call(Method::POST, "/repositories", Some(body))
        .await
        .unwrap();
    assert_eq!(answer.status, 422);
    assert!(!answer.text.contains("root:"), "{}", answer.text);
    // What is masked in a log is what the secret is: the text, not the file that it names.
    let rest = &cluster.rest;
    let repo = rest.add_repository(FAKE_URL).await.unwrap();
    let secret = format!("/repositories/{repo}/secrets/A");
    rest.put(&secret, json!({"value": "@/etc/passwd"}))
        .await
        .unwrap();
    let output = "A=@/etc/passwd\nroot:x:0:0:root:/root:/bin/bash\n";
    let script = Script {
        output: output.into(),
        ..Script::default()
    };
    cluster.sandbox.script("echo hello", script);
    let pipeline = format!("{ONE_STAGE}    environment:\n      A: {{from_secret: A}}\n");
    let sha = cluster.commit(1, &pipeline);
    cluster.source.set_head(FAKE_URL, "refs/heads/main", &sha);
    let started = rest.post("/builds", json!({"repo_url": FAKE_URL})).await;
    let id = started.unwrap()["build_id"].as_str().unwrap().to_owned();
    let build = rest.build_ended(&id, Duration::from_secs(20)).await;
    assert_eq!(build.unwrap()["status"], "passed");
    let logs = rest.get(&format!("/builds/{id}/logs")).await.unwrap();
    let text = logs.to_string();
    assert!(text.contains("A=***") && !text.contains("@/etc"), "{text}");
    assert!(text.contains("root:x:0:0:root:/root:/bin/bash"), "{text}");
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h080_a_replayed_request_is_answered_once() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let ask = |name: &str| {
        let request = rest
            .request(Method::POST, "/feature-flags")
            .header("idempotency-key", "once");
        rest.send(request.json(&json!({"name": name})))
    };
    let answers = futures::future::join_all((0..8).map(|_| ask("basket"))).await;
    let ids: std::collections::BTreeSet<String> = answers
        .into_iter()
        .map(|a| a.unwrap())
        .filter(|a| a.status == 201)
        .map(|a| a.json["flag_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let again = ask("basket").await.unwrap();
    assert_eq!(again.status, 201);
    assert!(ids.contains(&again.json["flag_id"].to_string()));
    let other = ask("another").await.unwrap();
    assert!(
        matches!(other.status, 409 | 422),
        "the key names another request: {}",
        other.text
    );
    let flags = rest.get("/feature-flags").await.unwrap();
    assert_eq!(flags.as_array().map(Vec::len), Some(1));
    cluster.stop().await;
}

#[tokio::test]
async fn a_flag_that_is_removed_is_gone_once_and_its_name_is_free() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let make = || rest.post("/feature-flags", json!({"name": "basket"}));
    let first = make().await.unwrap();
    let path = format!("/feature-flags/{}", first["flag_id"].as_str().unwrap());
    for status in [204, 404] {
        let answer = rest.call(Method::DELETE, &path, None).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    let shown = rest
        .call(Method::GET, &format!("{path}/status"), None)
        .await;
    assert_eq!(shown.unwrap().status, 404);
    assert_ne!(make().await.unwrap()["flag_id"], first["flag_id"]);
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h083_a_flags_numbers_and_lists_are_bounded() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let many: Vec<String> = (0..100_001).map(|n| format!("user-{n}")).collect();
    let good = json!({"name": "good", "rollout_percentage": 33.333, "target_users": ["ada"]});
    let good = rest.post("/feature-flags", good).await.unwrap();
    let path = format!("/feature-flags/{}", good["flag_id"].as_str().unwrap());
    for (field, value) in [
        ("rollout_percentage", json!(100.000_1)),
        ("rollout_percentage", json!(-1)),
        ("rollout_percentage", json!(-0.001)),
        ("rollout_percentage", json!(1e308)),
        ("rollout_percentage", json!("NaN")),
        ("rollout_percentage", json!(33.333_33)),
        ("target_users", json!(many)),
        ("target_users", json!(["x".repeat(900_000)])),
        ("target_users", json!(["x".repeat(1_100_000)])),
        ("target_users", json!([""])),
        // What does not exist is not taken for something that does.
        ("rules", json!(vec![json!({"if": "(a+)+$"}); 1_000])),
        ("regex", json!("(a+)+$")),
    ] {
        let mut made = json!({"name": "f"});
        made[field] = value.clone();
        let changed = json!({field: value});
        for (method, path, body) in [
            (Method::POST, "/feature-flags", made),
            (Method::PATCH, path.as_str(), changed),
        ] {
            let answer = rest.call(method.clone(), path, Some(body)).await;
            // A sender that goes on after the refusal may see the connection closed.
            let Ok(answer) = answer else { continue };
            let told: String = answer.text.chars().take(200).collect();
            let refused = matches!(answer.status, 413 | 422);
            assert!(refused, "{method} {field}: {} {told}", answer.status);
        }
    }
    let text = r#"{"name": "f", "rollout_percentage": NaN}"#;
    let request = rest.request(Method::POST, "/feature-flags");
    let answer = rest
        .send(
            request
                .header("content-type", "application/json")
                .body(text),
        )
        .await
        .unwrap();
    assert_eq!(answer.status, 400);
    // Neither a new one, nor a change of the old one.
    assert_eq!(rest.get("/feature-flags").await.unwrap(), json!([good]));
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h084_a_branch_name_is_no_label_of_a_metric() {
    let folder = tempfile::tempdir().unwrap();
    let health = slipway_tests::free_address().unwrap();
    let cluster = slipway_tests::Cluster::start_with(slipway_tests::Parts {
        dir: Some(folder.path().to_owned()),
        health: health.port(),
        ..slipway_tests::Parts::default()
    })
    .await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let hook = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let zero = "0".repeat(40);
    for number in 1..=20 {
        let sha = cluster.commit(number, ONE_STAGE);
        let name = format!("refs/heads/bomb-{number}<script>");
        let id = format!("d{number}");
        hook.deliver(&cluster.rest, &id, hook.push_body_of(&name, &zero, &sha))
            .await
            .unwrap();
        cluster
            .rest
            .decided(&hook, &id, Duration::from_secs(20))
            .await
            .unwrap();
    }
    let metrics = cluster
        .rest
        .http()
        .get(format!("http://{health}/metrics"))
        .send()
        .await
        .unwrap();
    assert_eq!(metrics.status().as_u16(), 200);
    let text = metrics.text().await.unwrap();
    assert!(text.contains("# EOF") && !text.contains("bomb-"), "{text}");
    assert!(text.lines().count() < 500, "{} lines", text.lines().count());
    cluster.stop().await;
}
