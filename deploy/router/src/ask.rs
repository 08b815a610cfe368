//! One request to an instance on behalf of a coordinator that cannot reach it: health and smoke checks of a host's
//! own instances.
//!
//! Judges nothing, follows nothing, and is not counted: what gates count are requests of clients.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use slipway_proto::v1;
use tokio::net::TcpStream;
use tonic::Status;

/// Of an answer's body.
const BODY_MAX: usize = 64 * 1024;
/// Of the path.
const PATH_MAX: usize = 2_048;
/// Longest wait, milliseconds.
const WITHIN_MAX_MS: u32 = 60_000;

/// Asks. What the instance does wrong is in the answer; an error is the caller's mistake.
pub(crate) async fn ask(wanted: v1::AskRequest) -> Result<v1::AskResponse, Status> {
    let bad = |text: &str| Status::invalid_argument(text.to_owned());
    let plain = |c: char| !c.is_control() && !c.is_whitespace();
    if !wanted.path.starts_with('/')
        || wanted.path.len() > PATH_MAX
        || !wanted.path.chars().all(plain)
    {
        return Err(bad("field `path` is no path of at most 2048 bytes"));
    }
    if !(1..=WITHIN_MAX_MS).contains(&wanted.within_ms) {
        return Err(bad("field `within_ms` must be within 1 … 60000"));
    }
    let request = http::Request::get(&wanted.path)
        .header(http::header::HOST, &wanted.address)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| bad("field `address` or `path` cannot be asked"))?;
    let limit = Duration::from_millis(u64::from(wanted.within_ms));
    let asked = tokio::time::timeout(limit, answer(&wanted.address, request)).await;
    let late = || Err(format!("no whole answer within {} ms", wanted.within_ms));
    Ok(match asked.unwrap_or_else(|_| late()) {
        Ok((status, body)) => v1::AskResponse {
            status: u32::from(status),
            body,
            trouble: String::new(),
        },
        Err(trouble) => v1::AskResponse {
            trouble,
            ..v1::AskResponse::default()
        },
    })
}

async fn answer(
    address: &str,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, Vec<u8>), String> {
    let refused = |_| "connection refused or unreachable".to_owned();
    let unreadable = |_| "the answer is not readable HTTP".to_owned();
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(unreadable)?;
    let asking = async {
        let answer = sender.send_request(request).await.map_err(unreadable)?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|_| "the answer is larger than 64 KiB, or cut".to_owned())?;
        Ok((status, body.to_bytes().to_vec()))
    };
    // The connection ends with the answer: nothing of it outlives the question.
    tokio::pin!(asking);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answered = &mut asking => answered,
        _ended = &mut connection => asking.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn instance(says: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        slipway_daemon::spawn("instance", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let _read = stream.read(&mut head).await;
                let _gone = stream.write_all(says.as_bytes()).await;
            }
        });
        address
    }

    fn of(address: &str, path: &str) -> v1::AskRequest {
        v1::AskRequest {
            address: address.to_owned(),
            path: path.to_owned(),
            within_ms: 2_000,
        }
    }

    #[tokio::test]
    async fn an_instance_is_asked_and_what_it_does_wrong_is_said() {
        let good =
            instance("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfine").await;
        let answer = ask(of(&good, "/health")).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"fine"[..]));
        let absurd = instance("hello\r\n\r\n").await;
        let answer = ask(of(&absurd, "/")).await.unwrap();
        assert_eq!((answer.status, answer.trouble.is_empty()), (0, false));
        let answer = ask(of("127.0.0.1:1", "/")).await.unwrap();
        assert_eq!(answer.trouble, "connection refused or unreachable");
    }

    #[tokio::test]
    async fn what_is_no_path_is_refused() {
        for path in ["", "x", "/a b", "/a\r\nx: y"] {
            assert!(ask(of("127.0.0.1:1", path)).await.is_err(), "{path:?}");
        }
    }
}
