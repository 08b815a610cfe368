//! Headers between the hops: what ends here, what is added.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Uri, Version};

use super::client::Peer;

const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FROM_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What says who asked.
const FORWARDED: [HeaderName; 5] = [
    FOR,
    FROM_HOST,
    PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("forwarded"),
];
/// Most headers of a request.
pub(super) const COUNT_MAX: usize = 100;
/// Longest request target.
pub(super) const URI_MAX: usize = 16 * 1024;

/// Removes what belongs to one hop only, and whatever the sender named in `Connection`.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove_all(headers, &HOP_BY_HOP);
}

/// Removes these. Few requests have any, so one look at what is there is less than a search for each.
fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    let there = headers.keys().filter(|name| names.contains(name));
    let there: Vec<HeaderName> = there.cloned().collect();
    for name in there {
        headers.remove(name);
    }
}

/// The same, but keeps what says how long the body is: it is needed until the body was taken.
pub(super) fn strip_hop_by_hop_but_framing(headers: &mut HeaderMap) {
    let chunked = headers.get(TRANSFER_ENCODING).cloned();
    strip_hop_by_hop(headers);
    if let Some(chunked) = chunked {
        headers.insert(TRANSFER_ENCODING, chunked);
    }
}

/// Says who asked. What the client says about that is dropped: it may be anybody.
pub(super) fn forwarded(headers: &mut HeaderMap, peer: &Peer) {
    let host = headers.get(HOST).cloned();
    remove_all(headers, &FORWARDED);
    headers.insert(FOR, peer.forwarded_for.clone());
    let proto = if peer.secure { "https" } else { "http" };
    headers.insert(PROTO, HeaderValue::from_static(proto));
    if let Some(host) = host {
        headers.insert(FROM_HOST, host);
    }
}

/// Makes an HTTP/2 request look as it would in HTTP/1.1, which is what instances speak: its authority is the
/// host (RFC 9113 §8.3.1), and cookies that came in pieces are one again (§8.2.3).
pub(super) fn as_http1<B>(request: &mut Request<B>) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    let authority = request.uri().authority().map(|a| a.as_str().to_owned());
    let headers = request.headers_mut();
    if let Some(host) = authority.and_then(|host| HeaderValue::from_str(&host).ok()) {
        headers.insert(HOST, host);
    }
    let pieces: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if pieces.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

/// What is wrong with a request's framing, so that no two readers disagree about its end.
pub(super) fn framing_trouble(headers: &HeaderMap) -> Option<&'static str> {
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if lengths > 0 && headers.contains_key(TRANSFER_ENCODING) {
        return Some("both Content-Length and Transfer-Encoding");
    }
    if lengths > 1 {
        return Some("more than one Content-Length");
    }
    if headers.get_all(HOST).iter().count() > 1 {
        return Some("more than one Host");
    }
    None
}

/// The declared length of a body; `None` = nobody said.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a request may be sent again after it may have been executed (RFC 9110 §9.2.2).
/// Whether an answer goes on for as long as somebody listens: its duration says nothing.
pub(super) fn is_long_lived(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(http::header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| {
        kind.starts_with(b"text/event-stream") || kind.starts_with(b"application/grpc")
    })
}

pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The protocol that a client wants to change to.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    asked.then(|| headers.get(UPGRADE).cloned()).flatten()
}

/// The seconds of `Keep-Alive: timeout=N`.
pub(super) fn keep_alive_seconds(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    value
        .split(',')
        .filter_map(|part| part.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("timeout"))
        .and_then(|(_, seconds)| seconds.trim().parse().ok())
}

/// The target of a request as an instance expects it: path and query only.
pub(super) fn origin_form(uri: &Uri) -> Option<Uri> {
    if uri.authority().is_none() && uri.scheme().is_none() && uri.path().starts_with('/') {
        return Some(uri.clone());
    }
    let path = uri.path_and_query().map_or("/", |pq| pq.as_str());
    path.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_belongs_to_one_hop_or_is_named_in_connection_ends_here() {
        let mut headers = map(&[
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-kept"]
        );
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=x"),
            ("host", "a"),
        ]);
        forwarded(&mut headers, &Peer::new([127, 0, 0, 1].into(), false));
        assert_eq!(headers["x-forwarded-proto"], "http");
        forwarded(&mut headers, &Peer::new([127, 0, 0, 1].into(), true));
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(headers["x-forwarded-host"], "a");
        assert!(!headers.contains_key("forwarded"));
    }

    #[test]
    fn ambiguous_framing_is_named() {
        let both = map(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        assert!(framing_trouble(&both).is_some());
        assert!(framing_trouble(&map(&[("host", "a"), ("host", "b")])).is_some());
        assert!(framing_trouble(&map(&[("host", "a"), ("content-length", "3")])).is_none());
        assert_eq!(
            keep_alive_seconds(&map(&[("keep-alive", "max=9, timeout=7")])),
            Some(7)
        );
    }
}
