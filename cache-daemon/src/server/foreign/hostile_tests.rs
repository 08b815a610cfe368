//! The same doors, asked by whoever means harm.
use base64::Engine as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::tests::*;
use super::*;

#[tokio::test]
async fn hostile_h061_a_fork_reads_upwards_and_what_it_writes_is_its_own() {
    let world = world();
    let own = "r/outside:refs/pull/7/head";
    let main = world.open("A-1", trusted(), false).await;
    main.put("/cache/of-main", b"main").await;
    world.passed(&main).await;
    let fork = world
        .open("F-1", scope(&[own, "r/trusted"], own), false)
        .await;
    assert_eq!(fork.ask("GET", "/cache/of-main").await.body, b"main");
    for key in ["poison", "of-main"] {
        fork.put(&format!("/cache/{key}"), b"poison").await;
    }
    world.passed(&fork).await;
    let main = world.open("A-2", trusted(), false).await;
    assert_eq!(main.status("/cache/poison").await, 404);
    assert_eq!(main.ask("GET", "/cache/of-main").await.body, b"main");
    let again = world
        .open("F-2", scope(&[own, "r/trusted"], own), false)
        .await;
    assert_eq!(again.ask("GET", "/cache/poison").await.body, b"poison");
    let other = "r/outside:refs/pull/8/head";
    let other = world
        .open("G-1", scope(&[other, "r/trusted"], other), false)
        .await;
    assert_eq!(other.status("/cache/poison").await, 404);
    let project = world
        .open("H-1", scope(&["q/trusted"], "q/trusted"), false)
        .await;
    assert_eq!(project.status("/cache/of-main").await, 404);
}

#[tokio::test]
async fn hostile_without_the_attempts_own_token_nothing_is_answered() {
    let world = world();
    let (mine, other) = (
        world.open("A-1", trusted(), false).await,
        world.open("B-1", trusted(), false).await,
    );
    mine.put("/cache/k", b"mine").await;
    let bare =
        |line: &str| format!("GET /cache/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{line}\r\n");
    let basic = |user: &str, password: &str| {
        let pair = format!("{user}:{password}");
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        format!("Authorization: Basic {pair}\r\n")
    };
    let short = mine.token.get(1..).unwrap().to_owned();
    let wrong = [
        String::new(),
        "Authorization: Bearer \r\n".to_owned(),
        "Authorization: Bearer wrong\r\n".to_owned(),
        format!("Authorization: Bearer {short}\r\n"),
        format!("Authorization: Bearer {}x\r\n", mine.token),
        format!("Authorization: Bearer {}\r\n", other.token),
        format!("Authorization: Digest {}\r\n", mine.token),
        format!("Authorization: {}\r\n", mine.token),
        basic(&mine.token, ""),
        basic("slipway", &other.token),
        "Authorization: Basic !!!\r\n".to_owned(),
        format!("X-Token: {}\r\n", mine.token),
    ];
    for line in wrong {
        let answer = exchange(mine.at, bare(&line).as_bytes()).await;
        assert_eq!(answer.status, 401, "{line}");
        assert!(!answer.text().contains("mine"));
    }
    let known = exchange(mine.at, bare(&basic("any", &mine.token)).as_bytes()).await;
    assert_eq!((known.status, known.body.as_slice()), (200, &b"mine"[..]));
    for path in ["/", "/v8/artifacts/status", "/nothing/here", "/metrics"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert_eq!(
            exchange(mine.at, request.as_bytes()).await.status,
            401,
            "{path}"
        );
    }
}

#[tokio::test]
async fn hostile_h073_keys_that_lead_elsewhere_are_refused_and_reach_no_file() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let long = "a".repeat(600);
    let paths = [
        "/cache/..%2f..%2fetc%2fpasswd",
        "/cache/%2e%2e",
        "/cache/a%00b",
        "/cache/a%0ab",
        "/cache/%ff",
        "/cache/a%5cb",
        "/ccache/../../etc/passwd",
        "/ccache/%2e%2e/%2e%2e/etc/passwd",
        "/ccache//etc/passwd",
        "/ccache/./x",
        "/sccache/../x",
        "/v8/artifacts/..%2fx",
        "/v1/cache/..",
        "/bazel/cas/../../etc/passwd",
        "/bazel/ac/..",
        "/bazel/../cas/x",
        &format!("/cache/{long}"),
        &format!("/ccache/{long}"),
    ];
    for path in paths {
        let put = key.put(path, b"x").await;
        assert!(matches!(put.status, 400 | 404), "{path}: {}", put.status);
        let got = key.ask("GET", path).await;
        assert!(matches!(got.status, 400 | 404), "{path}: {}", got.status);
    }
    assert_eq!(world.doors.close("A-1").unwrap().entries, 0);
}

#[tokio::test]
async fn hostile_h060_content_that_is_not_what_its_digest_says_is_refused() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let name = sha256(b"content");
    let large = vec![7_u8; MIB];
    for body in [&b"other"[..], b"", b"contents", &large] {
        let put = key.put(&format!("/bazel/cas/{name}"), body).await;
        assert_eq!(put.status, 400);
    }
    let upper = name.to_uppercase();
    for bad in [&upper, &name[1..], &format!("{name}0"), "zz", "sha256:00"] {
        let put = key.put(&format!("/bazel/cas/{bad}"), b"content").await;
        assert_eq!(put.status, 400, "{bad}");
    }
    assert_eq!(key.status(&format!("/bazel/cas/{name}")).await, 404);
    let put = key
        .put(&format!("/bazel/x/cas/{}", sha256(&large)), &large)
        .await;
    assert_eq!(put.status, 200);
    let got = key
        .ask("GET", &format!("/bazel/cas/{}", sha256(&large)))
        .await;
    assert!(got.status == 200 && got.body == large);
}

#[tokio::test]
async fn hostile_a_body_over_the_limit_is_refused_announced_or_not() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    // Told by its length, before anything is sent.
    let length = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", 5 * MIB);
    let told = exchange(key.at, key.head("PUT", "/cache/k", &length).as_bytes()).await;
    assert_eq!(told.status, 413);
    // Not told.
    let mut request = key
        .head("PUT", "/cache/k", "Transfer-Encoding: chunked\r\n")
        .into_bytes();
    for _ in 0..5 {
        request.extend_from_slice(format!("{MIB:x}\r\n").as_bytes());
        request.extend_from_slice(&vec![1; MIB]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let came = exchange(key.at, &request).await;
    assert!(matches!(came.status, 413 | 0), "{}", came.status);
    assert_eq!(key.status("/cache/k").await, 404);
}

#[tokio::test]
async fn hostile_a_body_that_stops_or_breaks_off_is_cut_and_leaves_nothing() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let head = key.head("PUT", "/cache/k", "Content-Length: 100\r\n");
    let mut slow = TcpStream::connect(key.at).await.unwrap();
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(b"begin").await.unwrap();
    assert_eq!(answer(&mut slow).await.status, 408);
    let mut cut = TcpStream::connect(key.at).await.unwrap();
    cut.write_all(head.as_bytes()).await.unwrap();
    cut.write_all(b"begin").await.unwrap();
    cut.shutdown().await.unwrap();
    assert!(matches!(answer(&mut cut).await.status, 400 | 0));
    assert_eq!(key.status("/cache/k").await, 404);
    // Always something, and never enough of it.
    let mut drip = TcpStream::connect(key.at).await.unwrap();
    drip.write_all(head.as_bytes()).await.unwrap();
    drip.write_all(b"b").await.unwrap();
    world.clock.advance(Duration::from_secs(120));
    drip.write_all(b"b").await.unwrap();
    assert_eq!(answer(&mut drip).await.status, 408);
    assert_eq!(world.doors.close("A-1").unwrap().entries, 0);
}

#[tokio::test]
async fn hostile_an_attempt_brings_no_more_than_its_share() {
    // A tenth of 20 MiB.
    let world = world_with(short(), 20 << 20);
    let key = world.open("A-1", trusted(), false).await;
    let body = vec![3; MIB - 1];
    assert_eq!(key.put("/cache/a", &body).await.status, 201);
    assert_eq!(key.put("/cache/b", &body).await.status, 201);
    assert_eq!(key.put("/cache/c", &body).await.status, 507);
    let other = world.open("B-1", trusted(), false).await;
    assert_eq!(other.put("/cache/a", b"x").await.status, 201);
}

#[tokio::test]
async fn hostile_one_that_asks_for_everything_at_once_waits_its_turn() {
    let world = world();
    let key = world.open("A-1", trusted(), false).await;
    let mut slow = Vec::new();
    for n in 0..4 {
        let mut stream = TcpStream::connect(key.at).await.unwrap();
        let head = key.head("PUT", &format!("/cache/{n}"), "Content-Length: 9\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    // Those four hold the places until they are cut for their silence.
    let asked = key.ask("GET", "/cache/k").await;
    assert!(matches!(asked.status, 404 | 503), "{}", asked.status);
    for mut stream in slow {
        assert_eq!(answer(&mut stream).await.status, 408);
    }
    assert_eq!(key.status("/cache/k").await, 404);
}
