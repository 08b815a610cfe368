//! Who asks: what a client is known by while two versions share traffic.
//!
//! A browser that navigates is given a random id as a cookie, and only then: once one version has all
//! traffic, nobody is given or asked for anything.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderValue};
use slipway_core::traffic::{Stickiness, second_half};

use crate::services::Service;
use crate::table::Client;

/// Its name.
const COOKIE: &str = "slipway_id";
/// A day: longer than any rollout shares traffic.
const MAX_AGE_S: u32 = 86_400;
/// Ids are ours and this long; anything longer is somebody else's.
const ID_MAX: usize = 64;

/// The other end of a connection, looked at once.
pub(super) struct Peer {
    pub(super) ip: IpAddr,
    /// Whether it speaks TLS to us.
    pub(super) secure: bool,
    /// In which half of all clients its address is.
    second_half: bool,
    /// Its address as a header says it.
    pub(super) forwarded_for: HeaderValue,
}

impl Peer {
    pub(super) fn new(ip: IpAddr, secure: bool) -> Self {
        let second_half = match ip {
            IpAddr::V4(ip) => second_half(&ip.octets()),
            IpAddr::V6(ip) => second_half(&ip.octets()),
        };
        // An address is made of digits, letters, dots and colons.
        let forwarded_for = HeaderValue::from_str(&ip.to_string());
        Self {
            ip,
            secure,
            second_half,
            forwarded_for: forwarded_for.unwrap_or(HeaderValue::from_static("unknown")),
        }
    }
}

/// A client, and the cookie that it is to be given.
pub(super) struct Known {
    pub(super) client: Client,
    pub(super) cookie: Option<HeaderValue>,
}

/// Looks at a request. `fresh` makes a new id.
pub(super) fn known(
    service: &Service,
    headers: &HeaderMap,
    peer: &Peer,
    is_get: bool,
    fresh: impl FnOnce() -> String,
) -> Known {
    let mut known = Known {
        client: Client {
            second_half: peer.second_half,
            sticky: None,
        },
        cookie: None,
    };
    let live = service.live.load();
    let Some(live) = live.as_ref().filter(|live| live.is_shared()) else {
        return known;
    };
    known.client.sticky = match &live.table.stickiness {
        Stickiness::None => None,
        Stickiness::Ip => Some(peer.ip.to_string().into_bytes()),
        Stickiness::Header(name) => headers.get(name.as_str()).map(|v| v.as_bytes().to_vec()),
        Stickiness::Auto => match id_of(headers) {
            Some(id) => Some(id.to_vec()),
            None if is_get && navigates(headers) => {
                let id = fresh();
                known.cookie = cookie(&id, peer.secure || came_by_https(headers));
                Some(id.into_bytes())
            }
            None => None,
        },
    };
    if let Some(id) = &known.client.sticky {
        known.client.second_half = second_half(id);
    }
    known
}

fn id_of(headers: &HeaderMap) -> Option<&[u8]> {
    let all = headers.get_all(header::COOKIE);
    let pairs = all
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let mut ids = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        pair.strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"=")
    });
    ids.find(|id| !id.is_empty() && id.len() <= ID_MAX)
}

/// Whether a person opens a page: only browsers say so.
fn navigates(headers: &HeaderMap) -> bool {
    match headers.get("sec-fetch-mode") {
        Some(mode) => mode.as_bytes() == b"navigate",
        None => false,
    }
}

/// By the word of something before us: all that hangs on it is an attribute of the client's own cookie.
fn came_by_https(headers: &HeaderMap) -> bool {
    let proto = headers.get("x-forwarded-proto");
    proto.is_some_and(|proto| proto.as_bytes() == b"https")
}

/// Over plain http a browser would throw a `Secure` cookie away.
fn cookie(id: &str, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let text =
        format!("{COOKIE}={id}; Path=/; Max-Age={MAX_AGE_S}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_out_of_other_cookies_and_a_long_one_is_not_ours() {
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_str(text).unwrap());
            id_of(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(with("a=b; slipway_id=01X; c=d"), Some(b"01X".to_vec()));
        assert_eq!(with("xslipway_id=1"), None);
        assert_eq!(with("slipway_id="), None);
        assert_eq!(with(&format!("slipway_id={}", "x".repeat(65))), None);
    }
}
