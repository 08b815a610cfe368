//! Core's table (role, method) before every call.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use slipway_core::access::{Denied, may_call};
use slipway_daemon::Clock;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::incoming::Connection;

/// The layer of a gRPC server.
#[derive(Clone)]
pub struct Guard(Clock);

impl Guard {
    /// With the clock that says what has expired.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(clock)
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            clock: self.0.clone(),
        }
    }
}

/// A server behind the table.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    clock: Clock,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Answer<S::Error> {
        let connection = request.extensions().get::<Connection>();
        let peer = connection.and_then(|c| c.peer.as_ref());
        let shown = peer.map(|peer| peer.shown(self.clock.now()));
        match may_call(request.uri().path(), shown) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(denied) => {
                let answer = status(denied).into_http();
                Box::pin(std::future::ready(Ok(answer)))
            }
        }
    }
}

fn status(denied: Denied) -> Status {
    let words = denied.to_string();
    match denied {
        Denied::NoSuchMethod => Status::unimplemented(words),
        Denied::NoCertificate(_) | Denied::NothingToRenew | Denied::Expired => {
            Status::unauthenticated(words)
        }
        Denied::OtherRole { .. } => Status::permission_denied(words),
    }
}

/// Whose certificate a call's connection showed.
#[must_use]
pub fn peer_of<T>(request: &tonic::Request<T>) -> Option<&crate::Peer> {
    let connection = request.extensions().get::<Connection>()?;
    connection.peer.as_ref()
}
