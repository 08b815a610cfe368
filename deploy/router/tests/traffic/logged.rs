//! The access log.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ALL;
use crate::harness::{Backend, Router, free_address, table};

/// The lines of a file, once there are so many.
async fn lines(file: &Path, count: usize) -> Vec<Value> {
    for _ in 0..1_000 {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        if lines.len() >= count {
            return lines;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", std::fs::read_to_string(file));
}

async fn ask(listen: &str, text: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(listen).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_a_line_without_its_query_and_a_renamed_file_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let mut router = Router::start_with(dir.path(), |c| c.access_log.clone_from(&file)).await;
    let (listen, a) = (free_address(), Backend::start("a").await);
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&a.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let head = "host: shop.example\r\nconnection: close\r\nx-status: 503\r\n";
    ask(
        &listen,
        &format!("POST /pay?card=4711 HTTP/1.1\r\n{head}content-length: 2\r\n\r\nhi"),
    )
    .await;
    let first = lines(&file, 1).await.remove(0);
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("host", "shop.example"),
        ("path", "/pay"),
        ("protocol", "HTTP/1.1"),
        ("service", "shop"),
        ("version", "a"),
        ("instance", &a.address),
    ] {
        assert_eq!(first[field], value, "{first}");
    }
    assert_eq!(
        (&first["status"], &first["whole"]),
        (&503.into(), &true.into())
    );
    assert_eq!(first["bytes"], "a POST 2".len());
    assert_eq!(first["tls"], false);
    assert!(first["ms"].as_f64().unwrap() >= 0.0 && first["at_ms"].as_i64().unwrap() > 0);
    assert!(!std::fs::read_to_string(&file).unwrap().contains("4711"));

    std::fs::rename(&file, dir.path().join("access.log.1")).unwrap();
    // What the router answers by itself is there, too.
    let long = "a".repeat(20_000);
    ask(
        &listen,
        &format!("GET /{long} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await;
    let refused = lines(&file, 1).await.remove(0);
    assert_eq!(
        (&refused["status"], &refused["service"]),
        (&414.into(), &"".into())
    );
    assert_eq!(refused["path"].as_str().unwrap().len(), 1_024, "cut");
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_a_line_of_what_it_got() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let mut router = Router::start_with(dir.path(), |c| c.access_log.clone_from(&file)).await;
    let listen = free_address();
    // Declares more than it sends, and waits.
    let slow = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = slow.local_addr().unwrap().to_string();
    let instance = slipway_daemon::spawn("instance", async move {
        let (mut stream, _) = slow.accept().await.unwrap();
        let mut seen = [0; 4_096];
        let _asked = stream.read(&mut seen).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789";
        stream.write_all(answer).await.unwrap();
        let _until_closed = stream.read(&mut seen).await;
    });
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(&listen).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"0123456789") {
        let mut chunk = [0; 512];
        let n = stream.read(&mut chunk).await.unwrap();
        assert!(n > 0, "an answer");
        got.extend_from_slice(&chunk[..n]);
    }
    drop(stream);
    let line = lines(&file, 1).await.remove(0);
    assert_eq!(
        (&line["status"], &line["bytes"], &line["whole"]),
        (&200.into(), &10.into(), &false.into()),
        "{line}"
    );
    router.stop().await;
    instance.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = slipway_router::Config::in_dir(dir.path());
    config.access_log = dir.path().join("nowhere/access.log");
    let ran = slipway_router::run(config, slipway_daemon::Shutdown::new()).await;
    let error = format!("{:#}", ran.unwrap_err());
    assert!(error.contains("nowhere/access.log"), "{error}");
}
