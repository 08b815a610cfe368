//! Floods of HTTP/2 frames, written by hand over TLS: no client library would send them. Nobody who sends
//! them needs a certificate, so these come without one.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use slipway_core::access::PeerRole;
use slipway_tests::{BareAgent, Cluster, Parts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const SOON: Duration = Duration::from_secs(20);

// RFC 9113 §6.
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
/// The window that each stream begins with.
const INITIAL_WINDOW: u8 = 0x4;

struct Raw {
    read: ReadHalf<TlsStream<TcpStream>>,
    write: WriteHalf<TlsStream<TcpStream>>,
}

/// One frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a call (RFC 7541, literals without indexing).
fn call(path: &str, token: &str) -> Vec<u8> {
    // `:method POST` and `:scheme https` are in the static table.
    let mut block = vec![0x83, 0x87];
    let bearer = format!("Bearer {token}");
    let literals: [(&[u8], &str); 4] = [
        (&[0x04], path),
        (&[0x01], "x"),
        (&[0x0f, 0x10], "application/grpc"),
        (&[0x0f, 0x08], &bearer),
    ];
    for (name, value) in literals {
        block.extend(name);
        block.push(u8::try_from(value.len()).expect("short"));
        block.extend(value.as_bytes());
    }
    // `te: trailers`, by its name.
    block.extend(b"\x00\x02te\x08trailers");
    block
}

impl Raw {
    async fn open(cluster: &Cluster, settings: &[u8]) -> Self {
        let own = BareAgent::identity(cluster, "agent").await;
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from(own.now().authority().to_vec());
        roots.add(authority).expect("a certificate");
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = PeerRole::Dispatcher.server_name().expect("it is called");
        let name = ServerName::try_from(name).expect("a name");
        let stream = TcpStream::connect(cluster.up.grpc)
            .await
            .expect("listening");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let (read, write) = tokio::io::split(tls.await.expect("shaken hands"));
        let mut raw = Self { read, write };
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.send(&frame(SETTINGS, 0, 0, settings)).await;
        raw
    }

    /// Whether it could be sent.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok() && self.write.flush().await.is_ok()
    }
}

/// The next frame: its kind and payload. `None` when the connection is over.
async fn next_frame(read: &mut ReadHalf<TlsStream<TcpStream>>) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).expect("short")];
    read.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

/// Reads until the server says goodbye or hangs up.
async fn thrown_out(read: &mut ReadHalf<TlsStream<TcpStream>>, what: &str) {
    let reading = async {
        while let Some((kind, _)) = next_frame(read).await {
            if kind == GOAWAY {
                break;
            }
        }
    };
    let over = tokio::time::timeout(SOON, reading).await;
    assert!(over.is_ok(), "{what}: it was served on");
}

async fn cluster() -> Cluster {
    let parts = Parts {
        agents: 0,
        ..Parts::default()
    };
    Cluster::start_with(parts).await
}

/// Somebody else is served meanwhile.
async fn others_are_served(cluster: &Cluster) {
    let joined = tokio::time::timeout(SOON, BareAgent::join(cluster)).await;
    assert!(joined.is_ok(), "others wait");
}

#[tokio::test]
async fn hostile_h046_streams_that_are_reset_as_fast_as_they_are_opened_end_the_connection() {
    let cluster = cluster().await;
    let mut raw = Raw::open(&cluster, &[]).await;
    let block = call("/slipway.v1.Agents/Link", "x");
    let mut flood = Vec::new();
    for number in 0..20_000 {
        let stream = 2 * number + 1;
        flood.extend(frame(HEADERS, END_HEADERS, stream, &block));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let (flooding, thrown_out) = (
        raw.write.write_all(&flood),
        thrown_out(&mut raw.read, "twenty thousand resets"),
    );
    // What the server says meanwhile is read, or it could not say it.
    let (_cut_off, ()) = tokio::join!(flooding, thrown_out);
    others_are_served(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h046_a_header_block_that_never_ends_ends_the_connection() {
    let cluster = cluster().await;
    let mut raw = Raw::open(&cluster, &[]).await;
    raw.send(&frame(HEADERS, 0, 1, &[0x83, 0x87])).await;
    // A literal of 16 kB, again and again: 16 MB of one request's headers.
    let mut literal = b"\x00\x01x\x7f\x81\x7c".to_vec();
    literal.extend(vec![b'y'; 16_000]);
    let mut sent = 0;
    while sent < 1_000 && raw.send(&frame(CONTINUATION, 0, 1, &literal)).await {
        sent += 1;
    }
    thrown_out(&mut raw.read, "a header block of megabytes").await;
    others_are_served(&cluster).await;
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h046_questions_whose_answers_nobody_reads_are_not_kept_in_memory() {
    let cluster = cluster().await;
    for question in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        let mut raw = Raw::open(&cluster, &[]).await;
        let many = question.repeat(4_096);
        let mut sent = 0;
        let flood = async {
            while sent < 256 << 20 && raw.send(&many).await {
                sent += many.len();
            }
        };
        // It stops reading once its answers are not taken; or it hangs up.
        let stalled = tokio::time::timeout(Duration::from_secs(3), flood).await;
        assert!(
            sent < 256 << 20,
            "{sent} bytes of questions, all taken: {stalled:?}"
        );
        others_are_served(&cluster).await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h046_readers_that_take_a_byte_at_a_time_keep_nobody_waiting() {
    let cluster = cluster().await;
    let mut slow = Vec::new();
    let block = call("/slipway.v1.Admin/ListBuilds", &cluster.rest.token);
    for _ in 0..20 {
        let mut settings = vec![0, INITIAL_WINDOW];
        settings.extend(1_u32.to_be_bytes());
        let mut raw = Raw::open(&cluster, &settings).await;
        for stream in [1, 3, 5] {
            raw.send(&frame(HEADERS, END_HEADERS, stream, &block)).await;
            raw.send(&frame(DATA, END_STREAM, stream, &[0; 5])).await;
        }
        slow.push(raw);
    }
    let mut answered = None;
    let reading = async {
        while let Some((kind, payload)) = next_frame(&mut slow[0].read).await {
            if kind == DATA {
                answered = Some(payload.len());
                break;
            }
        }
    };
    let _read = tokio::time::timeout(SOON, reading).await;
    assert_eq!(answered, Some(1), "no more than its window");
    others_are_served(&cluster).await;
    let stopped = tokio::time::timeout(SOON, cluster.stop()).await;
    assert!(stopped.is_ok(), "the slow ones hold up the end");
}
