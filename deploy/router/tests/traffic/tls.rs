//! Clients that speak TLS, and HTTP/2 within it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::ALL;
use crate::harness::{Backend, Router, free_address, table};

const NAME: &str = "shop.example";
/// Longest that anything here takes on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

/// Files of a certificate for the service; the certificate.
fn certified(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    std::fs::write(dir.join("shop.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("shop.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// A router whose listener speaks TLS, and what a client must trust.
async fn router(dir: &Path, listen: &str) -> (Router, CertificateDer<'static>) {
    let certificate = certified(dir);
    let settings = format!(
        "[[tls]]\nlisten = '{listen}'\ncertificate = '{0}/shop.pem'\nkey = '{0}/shop.key'\n",
        dir.display()
    );
    let file = dir.join("router.toml");
    std::fs::write(&file, settings).unwrap();
    let router = Router::start_with(dir, |config| {
        config.tls = slipway_router::Config::load(Some(&file)).unwrap().tls;
        config.limits.header_timeout_ms = 500;
        config.limits.idle_timeout_ms = 1_500;
    });
    (router.await, certificate)
}

async fn connect(
    listen: &str,
    trusted: &CertificateDer<'static>,
    protocol: &str,
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(listen).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

type Sender = http2::SendRequest<http_body_util::combinators::BoxBody<Bytes, std::io::Error>>;

/// An HTTP/2 client, and the end of its connection.
async fn h2(
    listen: &str,
    trusted: &CertificateDer<'static>,
) -> (Sender, tokio::task::JoinHandle<Option<bool>>) {
    let stream = TokioIo::new(connect(listen, trusted, "h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    (
        sender,
        slipway_daemon::spawn("client", async move { connection.await.is_ok() }),
    )
}

fn asking(
    method: Method,
    body: Bytes,
) -> Request<http_body_util::combinators::BoxBody<Bytes, std::io::Error>> {
    Request::builder()
        .method(method)
        .uri(format!("https://{NAME}/a?b=c"))
        .body(Full::new(body).map_err(|never| match never {}).boxed())
        .unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_of_either_protocol_is_served_and_the_instance_hears_what_it_spoke() {
    let (dir, listen) = (tempfile::tempdir().unwrap(), free_address());
    let (mut router, trusted) = router(dir.path(), &listen).await;
    let a = Backend::start("a").await;
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&a.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();

    let stream = TokioIo::new(connect(&listen, &trusted, "http/1.1").await);
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    slipway_daemon::spawn("client", connection);
    let request = Request::get("/").header("host", NAME);
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["echo-x-forwarded-proto"], "https");
    assert_eq!(text(response).await, "a GET 0");

    let (mut sender, _connection) = h2(&listen, &trusted).await;
    let mut request = asking(Method::POST, Bytes::from_static(b"12345"));
    for piece in ["one=1", "two=2"] {
        request
            .headers_mut()
            .append("cookie", piece.parse().unwrap());
    }
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let heard = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(heard("echo-x-forwarded-proto"), "https");
    assert_eq!(heard("echo-x-forwarded-host"), NAME);
    assert_eq!(heard("echo-cookie"), "one=1; two=2");
    assert_eq!(text(response).await, "a POST 5");
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_no_declared_length_arrives_whole_over_http2_whatever_the_method() {
    let (dir, listen) = (tempfile::tempdir().unwrap(), free_address());
    let (mut router, trusted) = router(dir.path(), &listen).await;
    let a = Backend::start("a").await;
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&a.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let (mut sender, _connection) = h2(&listen, &trusted).await;
    for method in [Method::PUT, Method::POST] {
        let pieces = (0..40).map(|_| Ok(Frame::data(Bytes::from(vec![7_u8; 10_000]))));
        let mut request = asking(method.clone(), Bytes::new());
        *request.body_mut() = StreamBody::new(futures::stream::iter(pieces)).boxed();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(text(response).await, format!("a {method} 400000"));
    }
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_of_an_http2_connection_fails_over_a_switch_with_the_old_instance_killed() {
    let (dir, listen) = (tempfile::tempdir().unwrap(), free_address());
    let (mut router, trusted) = router(dir.path(), &listen).await;
    let mut old = Backend::start("v0").await;
    let shares: [(&str, u32, &[&str]); 1] = [("v0", ALL, &[&old.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let (sender, _connection) = h2(&listen, &trusted).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let clients = (0..64).map(|n| {
        let (mut sender, stop) = (sender.clone(), Arc::clone(&stop));
        let answered = Arc::clone(&answered);
        slipway_daemon::spawn("client", async move {
            while !stop.load(Ordering::Relaxed) {
                let method = if n % 2 == 0 {
                    Method::GET
                } else {
                    Method::POST
                };
                let request = asking(method, Bytes::from_static(b"x"));
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                text(response).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let more = async || {
        let before = answered.load(Ordering::Relaxed);
        let more = async {
            while answered.load(Ordering::Relaxed) < before + 128 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, more).await.expect("answers");
    };
    for round in 1..=10_u64 {
        more().await;
        let new = Backend::start("next").await;
        let (from, to) = (format!("v{}", round - 1), format!("v{round}"));
        let shares: [(&str, u32, &[&str]); 2] =
            [(&from, 0, &[&old.address]), (&to, ALL, &[&new.address])];
        router
            .switch(1, round + 1, &table(&listen, &shares))
            .await
            .unwrap();
        assert_eq!(router.drain(&from, 5_000).await, 0);
        std::mem::replace(&mut old, new).kill().await;
    }
    more().await;
    stop.store(true, Ordering::Relaxed);
    for client in join_all(clients).await {
        client.unwrap().expect("no request failed");
    }
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_a_client_that_speaks_no_tls_or_none_in_time_reaches_nothing_and_an_idle_one_is_let_go()
 {
    let (dir, listen) = (tempfile::tempdir().unwrap(), free_address());
    let (mut router, trusted) = router(dir.path(), &listen).await;
    let a = Backend::start("a").await;
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&a.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n"[..],
        b"\x16\x03\x01",
        b"",
    ] {
        let mut stream = TcpStream::connect(&listen).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(SOON, stream.read_to_end(&mut got)).await;
        read.expect("an end").unwrap_or_default();
        assert!(!String::from_utf8_lossy(&got).contains("HTTP/1"), "{got:?}");
    }
    assert_eq!(a.served.load(Ordering::SeqCst), 0);
    let (mut sender, ended) = h2(&listen, &trusted).await;
    // One that is under way for longer than an idle one may stay is not idle.
    let mut request = asking(Method::GET, Bytes::new());
    request.headers_mut().insert("x-delay-ms", 1_900.into());
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(text(response).await, "a GET 0");
    let gone = tokio::time::timeout(SOON, ended).await;
    assert!(gone.expect("let go").unwrap().unwrap(), "politely");
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_too_many_headers_over_http2_are_refused() {
    let (dir, listen) = (tempfile::tempdir().unwrap(), free_address());
    let (mut router, trusted) = router(dir.path(), &listen).await;
    let a = Backend::start("a").await;
    let shares: [(&str, u32, &[&str]); 1] = [("a", ALL, &[&a.address])];
    router.switch(1, 1, &table(&listen, &shares)).await.unwrap();
    let (mut sender, _connection) = h2(&listen, &trusted).await;
    let mut request = asking(Method::GET, Bytes::new());
    for n in 0..101 {
        let name: http::HeaderName = format!("x-{n}").parse().unwrap();
        request.headers_mut().insert(name, n.into());
    }
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(
        response.status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    assert_eq!(a.served.load(Ordering::SeqCst), 0);
    router.stop().await;
}
