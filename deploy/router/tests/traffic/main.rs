//! The router with real sockets: what a client sees while tables change and instances die.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod hand_over;
mod harness;
mod hostile;
mod logged;
mod sharing;
mod tls;
mod upstream;

use std::sync::atomic::Ordering;
use std::time::Duration;

use harness::{Backend, Client, Load, Router, free_address, request, table};
use http::Method;
use slipway_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ALL: u32 = 10_000;

async fn switch_under_load(method: Method, switches: u64, drain_first: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let listen = free_address();
    let mut old = Backend::start("v0").await;
    router
        .switch(1, 1, &table(&listen, &[("v0", ALL, &[&old.address])]))
        .await
        .unwrap();
    let load = Load::start(&listen, 16, &method);
    load.more(200).await;
    for round in 1..=switches {
        let new = Backend::start("next").await;
        let (from, to) = (format!("v{}", round - 1), format!("v{round}"));
        let shares: [(&str, u32, &[&str]); 2] =
            [(&from, 0, &[&old.address]), (&to, ALL, &[&new.address])];
        router
            .switch(1, round + 1, &table(&listen, &shares))
            .await
            .unwrap();
        if drain_first {
            assert_eq!(router.drain(&from, 5_000).await, 0);
        }
        old.kill().await;
        load.more(200).await;
        old = new;
    }
    let good = load.good.load(Ordering::SeqCst);
    let failed = load.stop().await;
    assert!(
        failed.is_empty(),
        "{} of {good} failed: {:?}",
        failed.len(),
        failed.first()
    );
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_killed_right_after_the_commit_costs_no_get() {
    switch_under_load(Method::GET, 20, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_killed_right_after_the_commit_costs_no_short_post() {
    switch_under_load(Method::POST, 20, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_version_killed_after_its_drain_costs_no_post() {
    switch_under_load(Method::POST, 20, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_answers_when_the_last_slow_request_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let listen = free_address();
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    router
        .switch(1, 1, &table(&listen, &[("old", ALL, &[&old.address])]))
        .await
        .unwrap();
    let slow = {
        let listen = listen.clone();
        let headers = [("x-delay-ms", "1500")];
        slipway_daemon::spawn("slow", async move {
            request(&listen, Method::POST, &headers, b"x").await
        })
    };
    while router.counters("old").await.in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let shares: [(&str, u32, &[&str]); 2] =
        [("old", 0, &[&old.address]), ("new", ALL, &[&new.address])];
    router.switch(1, 2, &table(&listen, &shares)).await.unwrap();
    // New requests go to the new version while the slow one goes on.
    let answer = request(&listen, Method::GET, &[], b"").await;
    assert!(answer.body().starts_with(b"new "));
    assert_eq!(
        router.drain("old", 10).await,
        1,
        "cut at the deadline, with the number"
    );
    assert_eq!(router.drain("old", 5_000).await, 0);
    old.kill().await;
    let answer = slow.await.unwrap().unwrap();
    assert!(answer.body().starts_with(b"old POST"));
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_weight_is_not_drained() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, old) = (free_address(), Backend::start("old").await);
    router
        .switch(1, 1, &table(&listen, &[("old", ALL, &[&old.address])]))
        .await
        .unwrap();
    let drain = v1::DrainRequest {
        service: "shop".to_owned(),
        version: "old".to_owned(),
        deadline_ms: 1,
    };
    let refused = router.control.drain(drain).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_coordinator_is_refused_and_the_same_change_again_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, one, two) = (
        free_address(),
        Backend::start("1").await,
        Backend::start("2").await,
    );
    let first = table(&listen, &[("a", ALL, &[&one.address])]);
    let second = table(&listen, &[("b", ALL, &[&two.address])]);
    let state = router.switch(5, 2, &first).await.unwrap();
    assert_eq!((state.token, state.generation), (5, 2));
    assert_eq!(
        router.switch(5, 2, &first).await.unwrap(),
        state,
        "the same again"
    );

    let reason = |status: tonic::Status| {
        status
            .metadata()
            .get("slipway-reason")
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let refused = router.switch(4, 99, &second).await.unwrap_err();
    assert_eq!(refused.metadata().get("slipway-seen").unwrap(), "5");
    assert_eq!(reason(refused).as_deref(), Some("stale_token"));
    let refused = router.switch(5, 1, &second).await.unwrap_err();
    assert_eq!(reason(refused).as_deref(), Some("stale_generation"));
    let refused = router.switch(5, 2, &second).await.unwrap_err();
    assert_eq!(reason(refused).as_deref(), Some("conflict"));
    // A prepared change of a new owner shuts the old owner out before it is committed.
    let fence = Some(v1::Fence {
        token: 6,
        generation: 1,
        idempotency_key: String::new(),
    });
    let prepare = v1::PrepareRequest {
        fence,
        table: Some(harness::wire(&second)),
    };
    router.control.prepare(prepare).await.unwrap();
    let refused = router.switch(5, 3, &second).await.unwrap_err();
    assert_eq!(reason(refused).as_deref(), Some("stale_token"));

    let answer = request(&listen, Method::GET, &[], b"").await;
    assert!(
        answer.body().starts_with(b"1 "),
        "a refused change moved traffic"
    );
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tables_and_unprepared_commits_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let listen = free_address();
    for bad in [
        table(&listen, &[("a", 9_999, &["127.0.0.1:1"])]),
        table(&listen, &[("a", ALL, &[])]),
        table("nowhere", &[("a", ALL, &["127.0.0.1:1"])]),
    ] {
        let refused = router.switch(1, 1, &bad).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
    }
    let good = table(&listen, &[("a", ALL, &["127.0.0.1:1"])]);
    let commit = v1::CommitRequest {
        service: "shop".to_owned(),
        fence: Some(v1::Fence {
            token: 1,
            generation: 1,
            idempotency_key: String::new(),
        }),
        table_hash: good.hash().to_string(),
    };
    assert_eq!(
        router.control.commit(commit).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_router_serves_from_its_state_file_and_from_the_previous_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, one) = (free_address(), Backend::start("one").await);
    router
        .switch(3, 1, &table(&listen, &[("a", ALL, &[&one.address])]))
        .await
        .unwrap();
    router
        .switch(3, 2, &table(&listen, &[("b", ALL, &[&one.address])]))
        .await
        .unwrap();
    router.stop().await;

    let mut router = Router::start(dir.path()).await;
    let answer = request(&listen, Method::GET, &[], b"").await;
    assert!(answer.body().starts_with(b"one GET"));
    let refused = router
        .switch(2, 9, &table(&listen, &[("a", ALL, &[&one.address])]))
        .await;
    assert!(refused.is_err(), "the fence was forgotten");
    router.stop().await;

    let state = std::fs::read(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state"), &state[..state.len() / 2]).unwrap();
    let router = Router::start(dir.path()).await;
    let answer = request(&listen, Method::GET, &[], b"").await;
    assert!(answer.body().starts_with(b"one GET"), "{answer:?}");
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_retried_elsewhere_for_any_method() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, alive) = (free_address(), Backend::start("alive").await);
    let dead = free_address();
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&dead, &alive.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    for _ in 0..20 {
        let answer = request(&listen, Method::POST, &[], b"order").await;
        assert_eq!(answer.body().as_ref(), b"alive POST 5");
    }
    let counters = router.counters("a").await;
    assert!(counters.connect_failed > 0, "{counters:?}");
    assert_eq!(
        alive.served.load(Ordering::SeqCst),
        20,
        "a POST was executed twice"
    );
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_survives_an_instance_that_closes_idle_connections() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let listen = free_address();
    let idle = Duration::from_millis(100);
    let instance = Backend::start_with("a", Some(idle)).await;
    router
        .switch(1, 1, &table(&listen, &[("a", ALL, &[&instance.address])]))
        .await
        .unwrap();
    let mut sent = 0;
    let mut client = Client::connect(&listen).await;
    for round in 0..60_u64 {
        let answer = client.send(Method::POST, &[], b"x").await.unwrap();
        assert_eq!(answer.status(), 200, "round {round}: {answer:?}");
        sent += 1;
        // Around the instance's own limit, where the race is.
        tokio::time::sleep(Duration::from_millis(95 + round % 10)).await;
    }
    assert_eq!(instance.served.load(Ordering::SeqCst), sent);
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_exact_and_failures_are_counted_per_version() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, a, b) = (
        free_address(),
        Backend::start("a").await,
        Backend::start("b").await,
    );
    let shares: [(&str, u32, &[&str]); 2] =
        [("a", 9_000, &[&a.address]), ("b", 1_000, &[&b.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let mut client = Client::connect(&listen).await;
    for _ in 0..100 {
        client
            .send(Method::GET, &[("x-status", "503")], b"")
            .await
            .unwrap();
    }
    let (a, b) = (router.counters("a").await, router.counters("b").await);
    assert_eq!((a.completed, b.completed), (90, 10));
    assert_eq!((a.status_5xx, b.status_5xx), (90, 10));
    assert_eq!((a.in_flight, b.in_flight), (0, 0));
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_headers_end_here_and_the_client_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, a) = (free_address(), Backend::start("a").await);
    router
        .switch(1, 1, &table(&listen, &[("a", ALL, &[&a.address])]))
        .await
        .unwrap();
    let headers = [
        ("x-forwarded-for", "6.6.6.6"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "secret"),
        ("x-kept", "yes"),
    ];
    let answer = request(&listen, Method::GET, &headers, b"").await;
    let echo = |name: &str| answer.headers().get(format!("echo-{name}"));
    assert_eq!(echo("x-forwarded-for").unwrap(), "127.0.0.1");
    assert_eq!(echo("x-forwarded-host").unwrap(), "shop");
    assert_eq!(echo("x-kept").unwrap(), "yes");
    assert!(echo("x-hop").is_none());
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_instance_is_a_504_and_a_full_service_a_503() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start_with(dir.path(), |c| c.limits.in_flight = 1).await;
    let (listen, a) = (free_address(), Backend::start("a").await);
    let mut slow = table(&listen, &[("a", ALL, &[&a.address])]);
    slow.upstream_timeout_ms = 300;
    router.switch(1, 1, &slow).await.unwrap();
    let waiting = {
        let listen = listen.clone();
        slipway_daemon::spawn("waiting", async move {
            request(&listen, Method::GET, &[("x-delay-ms", "5000")], b"")
                .await
                .status()
        })
    };
    while router.counters("a").await.in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let full = request(&listen, Method::GET, &[], b"").await;
    assert_eq!(full.status(), 503);
    assert_eq!(full.headers()["retry-after"], "1");
    assert_eq!(waiting.await.unwrap().unwrap(), 504);
    assert_eq!(router.counters("a").await.timed_out, 1);
    router.stop().await;
}

/// An instance that agrees to every upgrade and echoes what it gets.
async fn echo_instance() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    slipway_daemon::spawn("echo", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            slipway_daemon::spawn("echo connection", async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                assert!(head.contains("upgrade: websocket"), "{head}");
                let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                              upgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n";
                stream.write_all(agreed.as_bytes()).await.unwrap();
                let (mut from, mut to) = stream.split();
                let _ended = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_lives_across_a_switch_and_ends_with_its_grace() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start_with(dir.path(), |c| c.limits.long_lived_grace_ms = 1_500).await;
    let (listen, old, new) = (
        free_address(),
        echo_instance().await,
        Backend::start("n").await,
    );
    router
        .switch(1, 1, &table(&listen, &[("old", ALL, &[&old])]))
        .await
        .unwrap();
    let mut socket = tokio::net::TcpStream::connect(&listen).await.unwrap();
    let ask = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    socket.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    let mut echoed = [0; 5];
    socket.write_all(b"first").await.unwrap();
    socket.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"first");

    let shares: [(&str, u32, &[&str]); 2] = [("old", 0, &[&old]), ("new", ALL, &[&new.address])];
    router.switch(1, 2, &table(&listen, &shares)).await.unwrap();
    assert_eq!(
        router.drain("old", 1_000).await,
        0,
        "a tunnel is no request in flight"
    );
    socket.write_all(b"again").await.unwrap();
    socket.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"again");
    let end = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut echoed)).await;
    assert_eq!(end.expect("closed after the grace").unwrap_or(0), 0);
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_is_closed_to_others_and_has_one_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let router = Router::start(dir.path()).await;
    let mode = std::fs::metadata(dir.path().join("router.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // One that cannot take the sockets over must not share the state file.
    std::fs::remove_file(dir.path().join("hand-over.sock")).unwrap();
    let config = slipway_router::Config::in_dir(dir.path());
    let second = slipway_router::run(config, slipway_daemon::Shutdown::new()).await;
    assert!(format!("{:#}", second.unwrap_err()).contains("another router answers there"));
    router.stop().await;
}
