//! A newer process of the router takes the sockets over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use tokio::net::UnixStream;

use super::ALL;
use super::harness::{Backend, Client, Load, Router, free_address, request, table};

async fn under_load(method: Method) {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, one) = (free_address(), Backend::start("one").await);
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&one.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let load = Load::start(&listen, 64, &method);
    for _ in 0..5 {
        load.more(500).await;
        let next = router.start_over(dir.path()).await;
        load.more(500).await;
        router.ended().await;
        router = next;
    }
    let good = load.good.load(Ordering::SeqCst);
    let failed = load.stop().await;
    let first = failed.first();
    assert!(
        failed.is_empty(),
        "{} of {good} failed: {first:?}",
        failed.len()
    );
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_process_takes_the_sockets_and_no_get_fails() {
    under_load(Method::GET).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_process_takes_the_sockets_and_no_post_fails() {
    under_load(Method::POST).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_one_before_has_in_flight_ends_and_a_drain_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let listen = free_address();
    let first: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&one.address])];
    router.switch(1, 1, &table(&listen, &first)).await.unwrap();
    let asking = {
        let listen = listen.clone();
        slipway_daemon::spawn("slow", async move {
            request(&listen, Method::POST, &[("x-delay-ms", "1500")], b"order").await
        })
    };
    while router.counters("a").await.in_flight == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut next = router.start_over(dir.path()).await;
    let shares: [(&str, u32, &[&str]); 2] =
        [("a", 0, &[&one.address]), ("b", ALL, &[&two.address])];
    next.switch(1, 2, &table(&listen, &shares)).await.unwrap();
    assert!(
        request(&listen, Method::GET, &[], b"")
            .await
            .body()
            .starts_with(b"two"),
        "the newer one serves its own table"
    );
    assert_eq!(
        next.drain("a", 50).await,
        1,
        "it is in flight in the one before"
    );
    assert_eq!(next.drain("a", 10_000).await, 0);
    assert_eq!(
        one.served.load(Ordering::SeqCst),
        1,
        "the drain waited for its end"
    );
    let answer = asking.await.unwrap().unwrap();
    assert_eq!(answer.body().as_ref(), b"one POST 5");
    router.ended().await;
    assert_eq!(next.drain("a", 10_000).await, 0, "the one before is gone");
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_before_says_good_bye_with_its_next_answer_and_its_coordinator_goes_on_with_the_newer_one()
 {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, one) = (free_address(), Backend::start("one").await);
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&one.address])];
    router.switch(3, 1, &table(&listen, &shares)).await.unwrap();
    let mut idle = Client::connect(&listen).await;
    let before = idle.send(Method::GET, &[], b"").await.unwrap();
    assert!(!before.headers().contains_key("connection"));
    let mut next = router.start_over(dir.path()).await;
    // Its connection was idle over the hand-over, and is not cut under its feet.
    let after = idle.send(Method::POST, &[], b"order").await.unwrap();
    assert_eq!(after.headers().get("connection").unwrap(), "close");
    // A conversation with the one before goes on with the newer one.
    router.switch(3, 2, &table(&listen, &shares)).await.unwrap();
    assert_eq!(router.boot_id().await, next.boot_id().await);
    let stale = next.switch(2, 9, &table(&listen, &shares)).await;
    assert!(stale.is_err(), "the fence came along");
    router.ended().await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_and_leaves_before_it_is_ready_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let (listen, one) = (free_address(), Backend::start("one").await);
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&one.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let asks = [
        &b"{\"ask\":\"listeners\",\"protocol\":1,\"from\":0}\n"[..],
        b"{\"ask\":\"listeners\",\"protocol\":2,\"from\":0}\n",
        b"{\"ask\":\"in_flight\",\"service\":\"shop\",\"version\":\"a\"}\n",
        b"hello\n",
        &[b'x'; 100_000],
        b"",
    ];
    for ask in asks {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = UnixStream::connect(dir.path().join("hand-over.sock"))
            .await
            .unwrap();
        let _it_may_hang_up_first = stream.write_all(ask).await;
        drop(stream);
    }
    router.switch(1, 2, &table(&listen, &shares)).await.unwrap();
    let answer = request(&listen, Method::GET, &[], b"").await;
    assert_eq!(answer.status(), 200);
    // And the next one still can.
    let next = router.start_over(dir.path()).await;
    router.ended().await;
    next.stop().await;
}
