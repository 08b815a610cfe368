//! Requests on their way into the access log: written when the last byte of the answer went out, or nobody
//! wants it any more.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use slipway_daemon::Clock;

use super::client::Peer;
use super::{Body, BodyError};
use crate::access_log::{AccessLog, Line, path_of};

/// Who answered, noted at the answer.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) service: String,
    pub(super) version: String,
    pub(super) instance: String,
}

/// A request that is under way.
pub(super) struct Pending {
    log: AccessLog,
    clock: Clock,
    began: Duration,
    line: Line,
}

impl Pending {
    pub(super) fn begin<B>(
        log: &AccessLog,
        clock: &Clock,
        peer: &Peer,
        request: &Request<B>,
    ) -> Self {
        let named = request.headers().get(header::HOST);
        let named = named.and_then(|host| host.to_str().ok());
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let line = Line {
            at_ms: clock.now().as_millis(),
            client: peer.ip.to_string(),
            method: request.method().to_string(),
            host: named.or(authority).unwrap_or_default().to_owned(),
            path: path_of(request.uri()),
            protocol: format!("{:?}", request.version()),
            tls: peer.secure,
            status: 0,
            bytes: 0,
            ms: 0.0,
            whole: false,
            service: String::new(),
            version: String::new(),
            instance: String::new(),
        };
        Self {
            log: log.clone(),
            clock: clock.clone(),
            began: clock.monotonic(),
            line,
        }
    }

    /// Follows the answer to its end.
    pub(super) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        let (mut head, inner) = response.into_parts();
        self.line.status = head.status.as_u16();
        if let Some(served) = head.extensions.remove::<Served>() {
            self.line.service = served.service;
            self.line.version = served.version;
            self.line.instance = served.instance;
        }
        let logged = Logged {
            ended: false,
            inner,
            pending: self,
        };
        Response::from_parts(head, Body::streamed(logged))
    }
}

struct Logged {
    inner: Body,
    ended: bool,
    pending: Pending,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.pending.line.bytes += bytes as u64;
            }
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let pending = &mut self.pending;
        let took = pending.clock.monotonic().saturating_sub(pending.began);
        pending.line.ms = took.as_secs_f64() * 1_000.0;
        // Nobody asks again after the last byte of a body of known length.
        pending.line.whole = self.ended || self.inner.is_end_stream();
        pending.log.write(pending.line.clone());
    }
}
