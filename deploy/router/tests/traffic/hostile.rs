//! Requests that no honest client sends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ALL;
use crate::harness::{Backend, Router, free_address, table};

/// Sends raw bytes and reads until the connection ends or an answer head is there.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut got = Vec::new();
    let mut chunk = [0; 4_096];
    let reading = async {
        while !got.windows(4).any(|w| w == b"\r\n\r\n") {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(n) => got.extend_from_slice(&chunk[..n]),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("an end");
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_get_a_clear_refusal_and_reach_no_instance() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start_with(dir.path(), |c| c.limits.header_timeout_ms = 300).await;
    let (listen, a) = (free_address(), Backend::start("a").await);
    router
        .switch(1, 1, &table(&listen, &[("a", ALL, &[&a.address])]))
        .await
        .unwrap();
    let long_uri = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    let huge = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    for (bytes, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", "400"),
        (
            "GET / HTTP/1.1\r\nhost: x\r\na: b\r\n folded\r\n\r\n",
            "400",
        ),
        ("nonsense\r\n\r\n", "400"),
        (&long_uri, "414"),
        (&many, "431"),
        (&huge, "431"),
    ] {
        let answer = raw(&listen, bytes.as_bytes()).await;
        let head = bytes.get(..60).unwrap_or(bytes);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{head:?} got {answer:?}"
        );
    }
    // Two lengths: the chunked one counts, the other is dropped, and the connection ends, so that
    // nobody behind us can read the rest as another request (RFC 9112 §6.3).
    let two = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
               0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = raw(&listen, two.as_bytes()).await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("a POST 0"),
        "{answer}"
    );
    assert_eq!(
        a.served.load(Ordering::SeqCst),
        1,
        "the second request was read"
    );
    let slow = raw(&listen, b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    assert!(!slow.starts_with("HTTP/1.1 2"), "{slow}");
    assert_eq!(a.served.load(Ordering::SeqCst), 1);
    router.stop().await;
}
