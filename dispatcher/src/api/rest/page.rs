//! Pages of lists: `limit`, an opaque signed `cursor`, and a link to the next one.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::problem::Problem;
use crate::state::App;

/// Largest page.
pub const PAGE_MAX: u32 = 200;
const PAGE_DEFAULT: u32 = 50;

/// Which page.
#[derive(Debug, Default, Deserialize, IntoParams)]
pub struct Paging {
    /// Rows of a page, at most 200.
    pub limit: Option<u32>,
    /// Where the page before ended.
    pub cursor: Option<String>,
}

/// One page.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// For the next page; absent on the last one.
    pub next_cursor: Option<String>,
}

impl Paging {
    /// The page's size.
    ///
    /// # Errors
    /// 422 outside 1–200.
    pub fn limit(&self) -> Result<u32, Problem> {
        match self.limit {
            None => Ok(PAGE_DEFAULT),
            Some(n) if (1..=PAGE_MAX).contains(&n) => Ok(n),
            Some(_) => Err(Problem::invalid(
                "/limit",
                "out_of_range",
                "`limit` is 1 to 200",
            )),
        }
    }

    /// The id after which the page begins; empty for the first one.
    ///
    /// # Errors
    /// 422 when the cursor was not made here.
    pub fn after(&self, app: &App) -> Result<String, Problem> {
        let Some(cursor) = &self.cursor else {
            return Ok(String::new());
        };
        let refused = || Problem::invalid("/cursor", "bad_cursor", "this cursor was not made here");
        let sealed = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
        let bytes = app.seal.open("cursor", &sealed).map_err(|_| refused())?;
        String::from_utf8(bytes).map_err(|_| refused())
    }
}

/// Puts a page together out of one row more than it shows.
pub fn page<R, T: Serialize>(
    app: &App,
    path: &str,
    mut rows: Vec<R>,
    limit: u32,
    id: impl Fn(&R) -> &str,
    shown: impl Fn(R) -> T,
) -> Response {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next_cursor = rows.last().filter(|_| more).and_then(|last| {
        let sealed = app.seal.seal("cursor", id(last).as_bytes()).ok()?;
        Some(URL_SAFE_NO_PAD.encode(sealed))
    });
    let link = next_cursor.as_ref().and_then(|cursor| {
        HeaderValue::from_str(&format!(
            "<{path}?cursor={cursor}&limit={limit}>; rel=\"next\""
        ))
        .ok()
    });
    let items: Vec<T> = rows.into_iter().map(shown).collect();
    let mut response = axum::Json(Page { items, next_cursor }).into_response();
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}
