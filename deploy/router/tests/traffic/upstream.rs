//! Connections to instances: what moves them while nobody, or only a slow client, waits for them.

use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::ALL;
use crate::harness::{Router, free_address, table};

const SOON: Duration = Duration::from_secs(20);
/// More than the kernel keeps between two sockets.
const MUCH: usize = 24 * 1024 * 1024;

async fn before(instance: &TcpListener) -> (tempfile::TempDir, Router, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::start(dir.path()).await;
    let listen = free_address();
    let address = instance.local_addr().unwrap().to_string();
    let only = table(&listen, &[("v1", ALL, &[&address])]);
    router.switch(1, 1, &only).await.unwrap();
    (dir, router, listen)
}

/// Reads until what was read ends with this.
async fn until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut read = Vec::new();
    let all = async {
        while !read.ends_with(end.as_bytes()) {
            read.push(stream.read_u8().await.unwrap());
        }
    };
    timeout(SOON, all).await.unwrap();
    String::from_utf8(read).unwrap()
}

/// Reads a chunked body of `MUCH` to its end.
async fn much(stream: impl AsyncRead + Unpin) {
    let mut stream = BufReader::with_capacity(0x20000, stream);
    let (mut tail, mut count) = (Vec::new(), 0);
    let all = async {
        while !tail.ends_with(b"\r\n0\r\n\r\n") {
            let read = stream.fill_buf().await.unwrap();
            assert!(!read.is_empty(), "it ended after {count} bytes");
            tail.extend(read);
            let read = read.len();
            count += read;
            tail.drain(..tail.len().saturating_sub(16));
            stream.consume(read);
        }
    };
    timeout(SOON, all).await.unwrap();
    assert!(count > MUCH, "{count} bytes came");
}

fn chunk() -> Vec<u8> {
    let mut chunk = b"10000\r\n".to_vec();
    chunk.resize(chunk.len() + 0x10000, b'x');
    chunk.extend(b"\r\n");
    chunk
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_while_nobody_reads_its_answer() {
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_dir, router, listen) = before(&instance).await;
    // The instance answers before it has read, and does both at once.
    let served = slipway_daemon::spawn("instance", async move {
        let (mut stream, _) = instance.accept().await.unwrap();
        until(&mut stream, "\r\n\r\n").await;
        let (reading, mut writing) = stream.into_split();
        let answer = slipway_daemon::spawn("answer", async move {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            writing.write_all(head).await.unwrap();
            for _ in 0..MUCH / 0x10000 {
                writing.write_all(&chunk()).await.unwrap();
            }
            writing.write_all(b"0\r\n\r\n").await.unwrap();
            writing
        });
        much(reading).await;
        answer.await.unwrap().unwrap()
    });
    let mut client = TcpStream::connect(&listen).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(head).await.unwrap();
    let sending = async {
        for _ in 0..MUCH / 0x10000 {
            client.write_all(&chunk()).await.unwrap();
        }
        client.write_all(b"0\r\n\r\n").await.unwrap();
    };
    timeout(SOON, sending)
        .await
        .expect("the upload waits for somebody to read its answer");
    much(client).await;
    served.await.unwrap().unwrap();
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_its_instance_closed_is_let_go_though_nobody_asks() {
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_dir, router, listen) = before(&instance).await;
    let mut client = TcpStream::connect(&listen).await.unwrap();
    let asked = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(asked).await.unwrap();
    let (mut stream, _) = instance.accept().await.unwrap();
    until(&mut stream, "\r\n\r\n").await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    stream.write_all(answer).await.unwrap();
    until(&mut client, "ok").await;
    stream.shutdown().await.unwrap();
    let mut rest = [0; 1];
    let end = timeout(SOON, stream.read(&mut rest)).await;
    assert_eq!(end.expect("the router kept its half open").unwrap(), 0);
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_small_body_holds_no_instance() {
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_dir, router, listen) = before(&instance).await;
    let (seen, mut asked) = mpsc::channel(2);
    let serving = slipway_daemon::spawn("instance", async move {
        loop {
            let (mut stream, _) = instance.accept().await.unwrap();
            let seen = seen.clone();
            slipway_daemon::spawn("connection", async move {
                let head = until(&mut stream, "\r\n\r\n").await;
                if head.contains("content-length: 4") {
                    until(&mut stream, "slow").await;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
                seen.send(head).await.unwrap();
            });
        }
    });
    let mut slow = TcpStream::connect(&listen).await.unwrap();
    let begun = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nsl";
    slow.write_all(begun).await.unwrap();
    let mut quick = TcpStream::connect(&listen).await.unwrap();
    let asking = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    quick.write_all(asking).await.unwrap();
    until(&mut quick, "ok").await;
    slow.write_all(b"ow").await.unwrap();
    until(&mut slow, "ok").await;
    assert!(asked.recv().await.unwrap().starts_with("GET "));
    assert!(asked.recv().await.unwrap().starts_with("POST "));
    serving.abort();
    router.stop().await;
}
