//! One request: choose an instance, send, pass the answer on. Repeats only what may be repeated.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use slipway_daemon::Rng;

use super::headers;
use super::logged::Served;
use super::pool::{Backend, Lease};
use super::{Body, BodyError, client, full, refuse, upgrade};
use crate::access_log::AccessLog;
use crate::config::Limits;
use crate::counters::{Outcome, Ticket};
use crate::services::{Service, Services};
use crate::table::{self, Client, Target};

/// Instances that one request is tried at.
const TRIES: usize = 3;
/// The largest body that is read whole before it is sent: it can be repeated where that is allowed, and a slow
/// client holds no connection to an instance.
const KEPT_MAX: u64 = 64 * 1024;

/// The data plane.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) services: Arc<Services>,
    pub(crate) limits: Limits,
    pub(crate) rng: Rng,
    pub(crate) log: AccessLog,
}

/// One request among those of its service.
pub(super) struct Place(Arc<Service>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's body between tries.
enum Payload {
    /// Small and kept: may be sent again.
    Kept(Bytes),
    /// Streamed: can be sent once.
    Streamed(Body),
    /// It was sent.
    Spent,
}

impl Payload {
    fn take(&mut self) -> Option<Body> {
        match std::mem::replace(self, Self::Spent) {
            Self::Kept(bytes) => {
                *self = Self::Kept(bytes.clone());
                Some(full(bytes))
            }
            Self::Streamed(body) => Some(body),
            Self::Spent => None,
        }
    }

    /// Puts back a body that was never sent.
    fn give_back(&mut self, body: Body) {
        if matches!(self, Self::Spent) {
            *self = Self::Streamed(body);
        }
    }
}

/// What a try came to.
enum Tried {
    Answered(Response<Incoming>, Lease),
    /// Nothing was sent. The request comes back, unless it is kept anyway.
    NotSent,
    /// The connection ended after something was sent.
    Broken,
    TimedOut,
}

impl Proxy {
    /// Answers one request that came in on `listen`.
    pub(super) async fn answer(
        &self,
        listen: &str,
        peer: &client::Peer,
        mut request: Request<Incoming>,
    ) -> Response<Body> {
        if let Some(trouble) = headers::framing_trouble(request.headers()) {
            let mut response = refuse(StatusCode::BAD_REQUEST, trouble);
            let close = header::HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            return response;
        }
        if request
            .uri()
            .path_and_query()
            .is_some_and(|pq| pq.as_str().len() > headers::URI_MAX)
        {
            return refuse(
                StatusCode::URI_TOO_LONG,
                "the request target is longer than 16 KiB",
            );
        }
        headers::as_http1(&mut request);
        if request.headers().len() > headers::COUNT_MAX {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return refuse(status, "the request has more than 100 headers");
        }
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let host = host.or(request.uri().host()).unwrap_or_default();
        let Some(service) = self.services.find(listen, host) else {
            let reason = format!("no service with a traffic table answers to `{host}` here");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, &reason);
        };
        let is_get = request.method() == http::Method::GET;
        let known = client::known(&service, request.headers(), peer, is_get, || {
            self.rng.ulid(self.services.clock.now())
        });
        let Some(place) = self.place(&service) else {
            return refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests in flight",
            );
        };
        if let Some(protocol) = headers::upgrade(request.headers()) {
            let asking = upgrade::Asking {
                client: known.client,
                peer,
                protocol,
            };
            return upgrade::tunnel(self, &service, place, request, asking).await;
        }
        headers::strip_hop_by_hop_but_framing(request.headers_mut());
        headers::forwarded(request.headers_mut(), peer);
        let mut response = self.forward(&service, place, &known.client, request).await;
        if let Some(cookie) = known.cookie {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }

    fn place(&self, service: &Arc<Service>) -> Option<Place> {
        let place = Place(Arc::clone(service));
        let before = service.in_flight.fetch_add(1, Ordering::Relaxed);
        (before < self.limits.in_flight).then_some(place)
    }

    async fn forward(
        &self,
        service: &Arc<Service>,
        place: Place,
        client: &Client,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let idempotent = headers::is_idempotent(&head.method);
        let mut payload = match keep(&mut head, body).await {
            Ok(payload) => payload,
            Err(response) => return *response,
        };
        let mut avoid: Vec<String> = Vec::new();
        let mut fresh = false;
        let mut last = "no instance has weight";
        // Stale idle connections do not count as tries: each one is closed by being found.
        let mut stale_left = TRIES;
        while avoid.len() < TRIES {
            let now_ms = self.services.now_ms();
            let chosen = table::choose(&service.live, client, &avoid, now_ms);
            let Some(Target { ticket, backend }) = chosen else {
                break;
            };
            let lease = match self.lease(&backend, idempotent, fresh).await {
                Ok(lease) => lease,
                Err(error) => {
                    tracing::debug!(address = backend.address, %error, "cannot connect");
                    ticket.settle(Outcome::ConnectFailed);
                    avoid.push(backend.address.clone());
                    last = "no instance could be reached";
                    continue;
                }
            };
            let Some(body) = payload.take() else { break };
            let idle_ms = lease.idle_ms;
            let timeout_ms = timeout_of(service);
            let sent = self.services.clock.monotonic();
            match attempt(lease, &head, body, &mut payload, timeout_ms).await {
                Tried::Answered(response, lease) => {
                    if !headers::is_long_lived(response.headers()) {
                        let took = self.services.clock.monotonic().saturating_sub(sent);
                        ticket.answered_after(took, self.services.now_ms());
                    }
                    return self.pass_on(response, ticket, backend, lease, place);
                }
                Tried::NotSent => {
                    backend.broke(idle_ms);
                    ticket.withdraw();
                    fresh = true;
                    stale_left -= 1;
                    if stale_left == 0 {
                        avoid.push(backend.address.clone());
                        stale_left = TRIES;
                    }
                    last = "connections ended before the request could be sent";
                }
                Tried::Broken => {
                    backend.broke(idle_ms);
                    ticket.settle(Outcome::Reset);
                    last = "the instance closed the connection before it answered";
                    // It may have been executed: only what may be executed twice is sent again.
                    if !idempotent || !matches!(payload, Payload::Kept(_)) {
                        break;
                    }
                    fresh = true;
                    avoid.push(backend.address.clone());
                }
                Tried::TimedOut => {
                    ticket.settle(Outcome::TimedOut);
                    let reason = "the instance did not answer in time";
                    return refuse(StatusCode::GATEWAY_TIMEOUT, reason);
                }
            }
        }
        refuse(StatusCode::BAD_GATEWAY, last)
    }

    async fn lease(
        &self,
        backend: &Backend,
        idempotent: bool,
        fresh: bool,
    ) -> std::io::Result<Lease> {
        let now_ms = self.services.now_ms();
        if !fresh && let Some(lease) = backend.reuse(idempotent, now_ms).await {
            return Ok(lease);
        }
        backend.connect(self.limits.connect_timeout(), now_ms).await
    }

    /// Who answers, for the access log.
    pub(super) fn note(
        &self,
        extensions: &mut http::Extensions,
        ticket: &Ticket,
        backend: &Backend,
        place: &Place,
    ) {
        if self.log.is_open() {
            extensions.insert(Served {
                service: place.0.name.clone(),
                version: ticket.version().name.clone(),
                instance: backend.address.clone(),
            });
        }
    }

    pub(super) fn pass_on(
        &self,
        response: Response<Incoming>,
        ticket: Ticket,
        backend: Arc<Backend>,
        lease: Lease,
        place: Place,
    ) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        if let Some(seconds) = headers::keep_alive_seconds(&head.headers) {
            backend.keeps_for(seconds);
        }
        headers::strip_hop_by_hop(&mut head.headers);
        self.note(&mut head.extensions, &ticket, &backend, &place);
        let counted = Counted {
            inner: body,
            status: head.status.as_u16(),
            open: Some(Open {
                ticket,
                backend,
                lease,
                _place: place,
            }),
            services: Arc::clone(&self.services),
        };
        Response::from_parts(head, Body::streamed(counted.started()))
    }
}

fn timeout_of(service: &Service) -> u64 {
    service
        .live
        .load()
        .as_ref()
        .map_or(60_000, |live| live.table.upstream_timeout_ms)
}

/// Reads a small body whole.
async fn keep(head: &mut Parts, body: Incoming) -> Result<Payload, Box<Response<Body>>> {
    let length = headers::content_length(&head.headers);
    // The framing to the instance is ours: hyper writes it from the body.
    head.headers.remove(header::TRANSFER_ENCODING);
    if length.unwrap_or(0) == 0 && body.is_end_stream() {
        return Ok(Payload::Kept(Bytes::new()));
    }
    if length.is_some_and(|length| length <= KEPT_MAX) {
        let limit = usize::try_from(KEPT_MAX).unwrap_or(usize::MAX);
        return match Limited::new(body, limit).collect().await {
            Ok(all) => Ok(Payload::Kept(all.to_bytes())),
            Err(_) => Err(Box::new(refuse(
                StatusCode::BAD_REQUEST,
                "the body ended early",
            ))),
        };
    }
    Ok(Payload::Streamed(Body::streamed(body)))
}

async fn attempt(
    mut lease: Lease,
    head: &Parts,
    body: Body,
    payload: &mut Payload,
    timeout_ms: u64,
) -> Tried {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = headers::origin_form(&head.uri).unwrap_or_default();
    *request.headers_mut() = head.headers.clone();
    if matches!(payload, Payload::Spent) {
        // It may have to move in both directions at once.
        lease.upstream.detach();
    }
    let sending = lease.upstream.send(request);
    match tokio::time::timeout(Duration::from_millis(timeout_ms), sending).await {
        Ok(Ok(response)) => Tried::Answered(response, lease),
        Ok(Err(mut error)) => match error.take_message() {
            Some(request) => {
                payload.give_back(request.into_body());
                Tried::NotSent
            }
            None => Tried::Broken,
        },
        Err(_) => Tried::TimedOut,
    }
}

/// What is held while an answer is passed on.
struct Open {
    ticket: Ticket,
    backend: Arc<Backend>,
    lease: Lease,
    _place: Place,
}

/// An answer's body: counts how it ended, and gives the connection back.
struct Counted {
    inner: Incoming,
    status: u16,
    open: Option<Open>,
    services: Arc<Services>,
}

impl Counted {
    fn started(mut self) -> Self {
        self.close_at_end();
        self
    }

    /// hyper does not ask again after the last byte of a body of known length, so the end is looked
    /// for after each frame.
    fn close_at_end(&mut self) {
        if self.inner.is_end_stream() {
            self.close(true);
        }
    }

    fn close(&mut self, whole: bool) {
        let Some(open) = self.open.take() else { return };
        if whole {
            open.backend.give_back(open.lease, self.services.now_ms());
            open.ticket.settle(Outcome::Answered(self.status));
        } else {
            open.ticket.settle(Outcome::Reset);
        }
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_pending()
            && let Some(open) = &mut self.open
        {
            open.lease.upstream.drive(cx);
            polled = Pin::new(&mut self.inner).poll_frame(cx);
        }
        match &polled {
            Poll::Ready(None) => self.close(true),
            Poll::Ready(Some(Err(_))) => self.close(false),
            Poll::Ready(Some(Ok(_))) => self.close_at_end(),
            Poll::Pending => {}
        }
        polled.map(|frame| frame.map(|result| result.map_err(|e| Box::new(e) as BodyError)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
