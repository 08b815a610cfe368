//! One connection to an instance, moved on by the request that is on it: an answer needs no second task and
//! no way between two. Owns the connection, not when it may be used.
//!
//! hyper gives a connection as two halves: one that sends requests, and one that has to be polled for
//! anything to move. Usually that second half is a task of its own, which costs two wake-ups and often a way to another
//! thread for each request. Here whoever waits for the answer polls it. While it is idle nobody does: then its
//! end is seen by [`Upstream::is_open`]. What streams in both directions at once must not depend on who reads
//! the answer, and is given its own task ([`Upstream::detach`]).

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Body;

/// The largest answer head of an instance.
const HEAD_MAX: usize = 64 * 1024;

/// A connection to an instance.
pub(super) struct Upstream {
    sender: SendRequest<Body>,
    /// `None`: it ended, or a task of its own moves it.
    driven: Option<Box<Connection<TokioIo<TcpStream>, Body>>>,
}

impl Upstream {
    /// Begins HTTP/1.1 on a stream.
    pub(super) async fn begin(stream: TcpStream) -> io::Result<Self> {
        let (sender, connection) = Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let mut upstream = Self {
            sender,
            driven: Some(Box::new(connection)),
        };
        poll_fn(|cx| upstream.poll_ready(cx))
            .await
            .then_some(upstream)
            .ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// Moves on what is on it, as far as it goes now.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.driven else {
            return;
        };
        if let Poll::Ready(ended) = pin!(connection).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "upstream connection ended early");
            }
            self.driven = None;
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.drive(cx);
        self.sender.poll_ready(cx).map(|ready| ready.is_ok())
    }

    /// Waits until it takes a request; `false` = it ended.
    pub(super) async fn ready(&mut self) -> bool {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Whether its end was seen.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it may still be used, as far as is known without waiting.
    pub(super) fn is_open(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.sender.is_closed()
    }

    /// Sends a request and waits for the head of its answer. One that was never sent comes back with the error.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// From now on a task of its own moves it.
    pub(super) fn detach(&mut self) {
        if let Some(connection) = self.driven.take() {
            slipway_daemon::spawn("upstream connection", async move {
                if let Err(error) = (*connection).with_upgrades().await {
                    tracing::debug!(%error, "upstream connection ended early");
                }
            });
        }
    }
}
