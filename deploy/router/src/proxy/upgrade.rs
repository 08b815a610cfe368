//! WebSockets and other upgrades: a tunnel between client and instance, counted apart, closed some
//! time after its version lost its weight.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::client::Peer;
use super::forward::{Place, Proxy};
use super::{Body, full, headers, refuse};
use crate::counters::{Outcome, VersionState};
use crate::services::Service;
use crate::table::{self, Client, Target};

/// Instances that one upgrade is tried at.
const TRIES: usize = 3;
/// How often a tunnel looks whether its version drains.
const LOOK: Duration = Duration::from_secs(1);

/// Who asks, and for what.
pub(super) struct Asking<'a> {
    pub(super) client: Client,
    pub(super) peer: &'a Peer,
    pub(super) protocol: HeaderValue,
}

/// Passes an upgrade request on; when the instance agrees, the two connections become a tunnel.
pub(super) async fn tunnel(
    proxy: &Proxy,
    service: &Arc<Service>,
    place: Place,
    mut request: Request<Incoming>,
    asking: Asking<'_>,
) -> Response<Body> {
    let Asking {
        client: who,
        peer,
        protocol,
    } = asking;
    let client = hyper::upgrade::on(&mut request);
    headers::strip_hop_by_hop(request.headers_mut());
    headers::forwarded(request.headers_mut(), peer);
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
    let (head, _no_body) = request.into_parts();
    let mut avoid = Vec::new();
    while avoid.len() < TRIES {
        let now_ms = proxy.services.now_ms();
        let Some(Target { ticket, backend }) = table::choose(&service.live, &who, &avoid, now_ms)
        else {
            break;
        };
        let connected = backend
            .connect(proxy.limits.connect_timeout(), now_ms)
            .await;
        let Ok(mut lease) = connected else {
            ticket.settle(Outcome::ConnectFailed);
            avoid.push(backend.address.clone());
            continue;
        };
        let mut out = Request::new(full(""));
        *out.method_mut() = head.method.clone();
        *out.uri_mut() = headers::origin_form(&head.uri).unwrap_or_default();
        *out.headers_mut() = head.headers.clone();
        lease.upstream.detach();
        let Ok(mut response) = lease.upstream.send(out).await else {
            ticket.settle(Outcome::Reset);
            return refuse(
                StatusCode::BAD_GATEWAY,
                "the instance closed the connection",
            );
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return proxy.pass_on(response, ticket, backend, lease, place);
        }
        proxy.note(response.extensions_mut(), &ticket, &backend, &place);
        let instance = hyper::upgrade::on(&mut response);
        let version = Arc::clone(ticket.version());
        ticket.settle(Outcome::Answered(101));
        let carried = carry(proxy.clone(), version, client, instance);
        slipway_daemon::spawn("tunnel", async move {
            carried.await;
            drop(place);
        });
        let (head, _) = response.into_parts();
        return Response::from_parts(head, full(""));
    }
    refuse(StatusCode::BAD_GATEWAY, "no instance could be reached")
}

async fn carry(proxy: Proxy, version: Arc<VersionState>, client: OnUpgrade, instance: OnUpgrade) {
    let (Ok(client), Ok(instance)) = tokio::join!(client, instance) else {
        return;
    };
    version.long_lived.fetch_add(1, Ordering::Relaxed);
    let (mut client, mut instance): (TokioIo<Upgraded>, TokioIo<Upgraded>) =
        (TokioIo::new(client), TokioIo::new(instance));
    tokio::select! {
        _ended = tokio::io::copy_bidirectional(&mut client, &mut instance) => {}
        () = grace_is_over(&proxy, &version) => {
            tracing::info!("a long-lived connection was closed at the end of its grace");
        }
    }
    version.long_lived.fetch_sub(1, Ordering::Relaxed);
}

async fn grace_is_over(proxy: &Proxy, version: &VersionState) {
    let grace = i64::try_from(proxy.limits.long_lived_grace().as_millis()).unwrap_or(i64::MAX);
    loop {
        if let Some(since) = version.draining_since()
            && proxy.services.now_ms().saturating_sub(since) >= grace
        {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}
