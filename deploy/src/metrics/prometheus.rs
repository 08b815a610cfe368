//! Prometheus, and whatever answers like it (`/api/v1/query`): instant queries that give one number.
//!
//! Where it is is said on the server, never in a pipeline file: whoever may push must not choose whom the
//! coordinator calls. An answer is bounded: three seconds, 1 MiB, no redirects.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{MetricSource, NoNumber};

/// For a whole answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Of an answer.
const BODY_MAX: usize = 1024 * 1024;
/// Of its reason that people are shown.
const REASON_MAX: usize = 300;

/// Where a Prometheus is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusPlace {
    /// `http://host:9090`, with a path where it has one.
    pub url: String,
    /// A file on the coordinator's host that holds a bearer token; empty = none.
    #[serde(default)]
    pub token_file: PathBuf,
}

/// A client of one Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    client: reqwest::Client,
    url: Url,
    token_file: PathBuf,
}

impl Prometheus {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// A text, when the address is none.
    pub fn new(place: &PrometheusPlace) -> Result<Self, String> {
        let not = |why: String| format!("`prometheus.url` `{}`: {why}", place.url);
        let mut url = Url::parse(&place.url).map_err(|e| not(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
            return Err(not("must begin with http:// or https://".to_owned()));
        }
        let path = format!("{}/api/v1/query", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url.set_query(None);
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // A proxy of this process's environment must not see the token.
            .no_proxy()
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self {
            client,
            url,
            token_file: place.token_file.clone(),
        })
    }

    async fn answer(&self, query: &str) -> Result<Vec<u8>, String> {
        let mut form = self.url.clone();
        form.query_pairs_mut().append_pair("query", query);
        let body = form.query().unwrap_or_default().to_owned();
        let kind = "application/x-www-form-urlencoded";
        let mut request = self
            .client
            .post(self.url.clone())
            .header(reqwest::header::CONTENT_TYPE, kind)
            .body(body);
        if !self.token_file.as_os_str().is_empty() {
            // Read each time: tokens are renewed in place.
            let token = tokio::fs::read_to_string(&self.token_file).await;
            let token = token.map_err(|e| format!("the token file cannot be read: {e}"))?;
            request = request.bearer_auth(token.trim());
        }
        let response = request.send().await.map_err(|e| reason(&e))?;
        let status = response.status();
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(|e| reason(&e))?);
            if body.len() > BODY_MAX {
                return Err("the answer is larger than 1 MiB".to_owned());
            }
        }
        // Refused queries have a reason in the usual form.
        if status.is_success() || body.starts_with(b"{") {
            return Ok(body);
        }
        Err(format!("Prometheus answered {status}"))
    }
}

#[async_trait]
impl MetricSource for Prometheus {
    async fn ask(&self, query: &str) -> Result<f64, NoNumber> {
        let answer = tokio::time::timeout(LIMIT, self.answer(query)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer within 3 s".to_owned()));
        answer.and_then(|body| number(&body)).map_err(NoNumber)
    }
}

/// An error without the address, which may hold a password.
fn reason(error: &reqwest::Error) -> String {
    if error.is_connect() {
        return "Prometheus cannot be reached".to_owned();
    }
    "the conversation with Prometheus broke".to_owned()
}

#[derive(Deserialize)]
struct Answered {
    status: String,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
    Scalar(Point),
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Series {
    value: Point,
}

/// Time, and the number as a text.
#[derive(Deserialize)]
struct Point(serde::de::IgnoredAny, String);

/// The one number of an answer.
fn number(body: &[u8]) -> Result<f64, String> {
    let answered: Answered =
        serde_json::from_slice(body).map_err(|_| "the answer is none of Prometheus".to_owned())?;
    if answered.status != "success" {
        let why: String = answered.error.chars().take(REASON_MAX).collect();
        return Err(format!("Prometheus refused the query: {why}"));
    }
    let point = match answered.data {
        Some(Data::Scalar(point)) => point,
        Some(Data::Vector(series)) => {
            let count = series.len();
            let mut series = series.into_iter();
            match (series.next(), count) {
                (Some(one), 1) => one.value,
                (None, _) => return Err("the query gave no series".to_owned()),
                (Some(_), _) => {
                    return Err(format!(
                        "the query gave {count} series; make it one, for example with sum(…)"
                    ));
                }
            }
        }
        _ => return Err("the query gave no number; ask for an instant vector".to_owned()),
    };
    let value: f64 = point.1.parse().map_err(|_| "the value is no number")?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(format!("the query gave {value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[&str]) -> String {
        let series: Vec<String> = values
            .iter()
            .map(|value| format!(r#"{{"metric":{{"a":"b"}},"value":[1.5,"{value}"]}}"#))
            .collect();
        let series = series.join(",");
        format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{series}]}}}}"#)
    }

    #[test]
    fn one_finite_number_is_an_answer_and_nothing_else() {
        assert_eq!(number(vector(&["0.25"]).as_bytes()), Ok(0.25));
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"3"]}}"#;
        assert_eq!(number(scalar.as_bytes()), Ok(3.0));
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        let refused = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        for (body, said) in [
            (vector(&[]), "no series"),
            (vector(&["1", "2"]), "2 series"),
            (vector(&["NaN"]), "gave NaN"),
            (vector(&["+Inf"]), "gave inf"),
            (vector(&["x"]), "no number"),
            (matrix.to_owned(), "no number"),
            (refused.to_owned(), "refused the query: parse error"),
            ("<html>".to_owned(), "none of Prometheus"),
            (r#"{"status":"success"}"#.to_owned(), "no number"),
        ] {
            let error = number(body.as_bytes()).unwrap_err();
            assert!(error.contains(said), "{error} / {said}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for url in ["", "prometheus:9090", "file:///etc/passwd", "http://"] {
            let place = PrometheusPlace {
                url: url.to_owned(),
                ..PrometheusPlace::default()
            };
            assert!(Prometheus::new(&place).is_err(), "{url}");
        }
    }
}
