//! Gates of the user's own, answered by a real Prometheus.

use serde_json::json;
use slipway_deploy::metrics::PrometheusPlace;
use slipway_tests::Prometheus;

use crate::rollout::{Service, image};

/// What the shop says of one version.
fn page(version: &str, failing: f64) -> String {
    format!(
        "# TYPE checkout_failing gauge\ncheckout_failing{{version=\"{version}\"}} {failing}\n\
         # TYPE checkout_total counter\ncheckout_total{{version=\"{version}\"}} 4000\n\
         checkout_total{{version=\"before\"}} 4000\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_prometheus_says_of_a_version_takes_it_back_or_lets_it_go_on() {
    let Some(prometheus) = Prometheus::start().await else {
        return;
    };
    let place = PrometheusPlace {
        url: format!("http://{}", prometheus.address),
        ..PrometheusPlace::default()
    };
    let Some(mut service) = Service::start_on(|target| target.prometheus = Some(place)).await
    else {
        return;
    };
    let gates = json!({ "custom": [{
        "name": "checkout", "prometheus": "max(checkout_failing{version=\"$version\"})",
        "pass": "value < 0.01", "interval": "5s", "failure_limit": 0, "error_limit": 10,
    }]});
    let bad = service.deploy(&image("two"), gates.clone()).await;
    let bad = bad.expect("started");
    prometheus.says(&page(&bad, 0.5));
    let row = service.ended(&bad).await;
    assert_eq!(row.status, "rolled_back", "{row:#?}");
    let why = row.reason.unwrap_or_default();
    let said = "Rolled back: `checkout` is 0.5 after 1 answer, `value < 0.01` is wanted";
    assert!(why.starts_with(said), "{why}");
    assert_eq!(service.serves().await, "one");
    let looks = service
        .db
        .rollout_health(&bad, 100)
        .await
        .expect("readable");
    let look = looks.iter().rfind(|look| look.metric_name == "checkout");
    assert_eq!(
        look.map(|look| look.verdict.as_str()),
        Some("abort"),
        "{looks:#?}"
    );
    let ticks = service
        .db
        .gate_ticks(&bad, 0, 1_000)
        .await
        .expect("readable");
    assert!(ticks.iter().any(|tick| tick.source == "gate:checkout"));

    let good = service
        .deploy(&image("three"), gates)
        .await
        .expect("started");
    prometheus.says(&page(&good, 0.0));
    let row = service.ended(&good).await;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(service.serves().await, "three");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_nobody_would_answer_is_refused_before_anything_starts() {
    let Some(mut service) = Service::start_on(|_| {}).await else {
        return;
    };
    let gates = json!({ "custom": [{ "name": "a", "prometheus": "up", "pass": "value > 0" }] });
    let refused = service.deploy(&image("two"), gates).await;
    let refused = refused.expect_err("no metric source");
    assert!(
        refused
            .message()
            .contains("gate `a` asks Prometheus, and environment `production` has none"),
        "{refused:?}"
    );
}
