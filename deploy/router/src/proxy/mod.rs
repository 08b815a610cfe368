//! The data plane: from a client's connection to an instance and back.

mod client;
mod forward;
mod headers;
mod idle;
mod listen;
mod logged;
mod pool;
mod upgrade;

pub(crate) use forward::Proxy;
pub(crate) use listen::TcpListeners;
pub(crate) use pool::Backend;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};

/// Any error of a body.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A streamed body.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer of the router itself: its reason is in the body, and in a header so that nobody takes
/// it for the service's own.
pub(crate) fn refuse(status: StatusCode, reason: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{reason}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert("x-slipway-router", HeaderValue::from_static("refused"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
