//! Hands a build context to the engine.
//!
//! An engine with the containerd image store (26.x) cannot read a context from the body of the build
//! request: it looks for a host that does not exist. It can fetch one by address, so a context is
//! offered on a loopback port of its own, under a path that only this build knows, for as long as
//! the build takes.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Longest request head that is read.
const HEAD_MAX: usize = 16 * 1024;
/// One transfer of the context takes at most this long.
const TRANSFER_LIMIT: Duration = Duration::from_secs(300);

/// A context on offer.
pub(crate) struct Offer {
    listener: TcpListener,
    path: String,
    context: Bytes,
}

impl Offer {
    /// Opens a loopback port. `secret` names the path.
    pub(crate) async fn open(context: Bytes, secret: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let path = format!("/{secret}/context.tar");
        Ok(Self {
            listener,
            path,
            context,
        })
    }

    /// Where the engine finds it.
    pub(crate) fn address(&self) -> std::io::Result<String> {
        let at = self.listener.local_addr()?;
        Ok(format!("http://{at}{}", self.path))
    }

    /// Serves it, one request after the other, until dropped.
    pub(crate) async fn serve(&self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let transfer = tokio::time::timeout(TRANSFER_LIMIT, self.answer(stream));
                    if !matches!(transfer.await, Ok(Ok(()))) {
                        tracing::debug!("a transfer of a build context ended early");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot hand out a build context");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            let mut piece = [0; 2048];
            let read = stream.read(&mut piece).await?;
            if read == 0 || head.len() > HEAD_MAX {
                return Ok(());
            }
            head.extend_from_slice(piece.get(..read).unwrap_or_default());
        }
        let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
        let get = line == format!("GET {} HTTP/1.1", self.path).as_bytes();
        let look = line == format!("HEAD {} HTTP/1.1", self.path).as_bytes();
        if !get && !look {
            let refusal =
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return stream.write_all(refusal).await;
        }
        let length = self.context.len();
        let header = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(header.as_bytes()).await?;
        if get {
            stream.write_all(&self.context).await?;
        }
        stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(at: &str, request: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_who_knows_the_path_gets_the_context() {
        let offer = Offer::open(Bytes::from_static(b"tar"), "s3cret")
            .await
            .unwrap();
        let at = offer.listener.local_addr().unwrap().to_string();
        let asking = async {
            let other = ask(&at, "GET /context.tar HTTP/1.1\r\n\r\n").await;
            let right = ask(&at, "GET /s3cret/context.tar HTTP/1.1\r\n\r\n").await;
            (other, right)
        };
        let (other, right) = tokio::select! {
            got = asking => got,
            () = offer.serve() => unreachable!("serving has no end"),
        };
        assert!(other.starts_with(b"HTTP/1.1 404"));
        assert!(right.ends_with(b"\r\n\r\ntar"));
    }
}
