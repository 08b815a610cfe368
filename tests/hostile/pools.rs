//! Pools of agents over REST, and KEDA's questions about them: what is refused, and what is told.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use slipway_proto::keda::external_scaler_client::ExternalScalerClient;
use slipway_proto::keda::{GetMetricsRequest, ScaledObjectRef};
use slipway_tests::cluster::FAKE_URL;
use slipway_tests::{Cluster, eventually};
use tokio_stream::StreamExt as _;
use tonic::Code;

const SOON: Duration = Duration::from_secs(20);
const ZERO: &str = "0000000000000000000000000000000000000000";
/// Only an agent of pool `keda` takes it.
const WAITS: &str = "version: 1\non:\n  push:\nstages:\n  test:\n    image: slipway-busybox:1\n    labels: {pool: keda}\n    commands: [make]\n";

#[expect(
    clippy::too_many_lines,
    reason = "a table: one row per pool that is refused"
)]
#[tokio::test]
async fn hostile_only_pools_that_this_host_allows_are_made() {
    let cluster = Cluster::start().await;
    let put = async |pool: &str, body: Value| {
        let path = format!("/pools/{pool}");
        let answer = cluster
            .rest
            .call(Method::PUT, &path, Some(body))
            .await
            .unwrap();
        (answer.status, answer.text)
    };
    let key = "k".repeat(32);
    for (pool, body, words) in [
        (
            "..%2Fx",
            json!({"provider": {"kind": "process"}, "max": 1}),
            "pool's name",
        ),
        ("x", json!({}), "provider"),
        (
            "x",
            json!({"provider": {"kind": "magic"}, "max": 1}),
            "magic",
        ),
        (
            "x",
            json!({"provider": {"kind": "process"}, "max": 101}),
            "max",
        ),
        (
            "x",
            json!({"provider": {"kind": "process"}, "max": 1, "mim": 1}),
            "mim",
        ),
        (
            "x",
            json!({"provider": {"kind": "exec", "program": "/bin/sh"}, "max": 1}),
            "fleet.programs",
        ),
        (
            "x",
            json!({"provider": {"kind": "webhook", "url": "http://169.254.169.254/"}, "max": 1,
                     "signing_key": key}),
            "fleet.webhooks",
        ),
        (
            "x",
            json!({"provider": {"kind": "process"}, "max": 1, "signing_key": key}),
            "webhook",
        ),
    ] {
        let (status, text) = put(pool, body).await;
        assert!(
            status == 422 && text.contains(words),
            "{pool}: {status} {text}"
        );
        assert!(!text.contains(&key), "a key is never said again");
    }
    assert_eq!(cluster.rest.get("/pools").await.unwrap(), json!([]));
    let external = json!({"provider": {"kind": "external"}, "max": 3});
    for _ in 0..2 {
        assert_eq!(put("linux", external.clone()).await.0, 200);
    }
    let gone = cluster
        .rest
        .call(Method::DELETE, "/pools/linux", None)
        .await
        .unwrap();
    assert_eq!(gone.status, 202);
    let forgotten = eventually("an empty pool is forgotten", SOON, || async {
        let pools = cluster.rest.get("/pools").await.ok()?;
        (pools == json!([])).then_some(())
    });
    forgotten.await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn a_drained_agent_takes_work_again_when_it_is_resumed() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let joined = eventually("the agent is there", SOON, || async {
        let agents = rest.get("/agents").await.ok()?;
        Some(agents[0]["agent_id"].as_str()?.to_owned())
    });
    let id = joined.await.unwrap();
    let state = async || rest.get("/agents").await.unwrap()[0]["state"].clone();
    for (verb, then) in [
        ("drain", "draining"),
        ("resume", "ready"),
        ("resume", "ready"),
    ] {
        let answer = rest
            .call(Method::POST, &format!("/agents/{id}/{verb}"), None)
            .await
            .unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text);
        assert_eq!(state().await, then);
    }
    let repo = rest.add_repository(FAKE_URL).await.unwrap();
    let hook = rest.add_hook(&repo, "github").await.unwrap();
    let sha = cluster.commit(1, slipway_tests::cluster::ONE_STAGE);
    let body = hook.push_body(ZERO, &sha);
    hook.deliver(rest, "d", body).await.unwrap();
    let row = rest.decided(&hook, "d", SOON).await.unwrap();
    let ended = rest
        .build_ended(row["build_id"].as_str().unwrap(), SOON)
        .await
        .unwrap();
    assert_eq!(ended["status"], "passed", "{ended}");
    cluster.stop().await;
}

#[expect(
    clippy::too_many_lines,
    reason = "one conversation, from beginning to end"
)]
#[tokio::test]
async fn keda_is_told_how_many_agents_a_pool_wants_and_a_stranger_is_not() {
    let cluster = Cluster::start().await;
    let rest = &cluster.rest;
    let external = json!({"provider": {"kind": "external"}, "max": 3});
    let made = rest
        .call(Method::PUT, "/pools/keda", Some(external))
        .await
        .unwrap();
    assert_eq!(made.status, 200, "{}", made.text);
    let viewer = rest
        .post("/tokens", json!({"subject": "keda", "roles": ["viewer"]}))
        .await
        .unwrap();
    let viewer = viewer["token"].as_str().unwrap().to_owned();
    let trigger = |pool: &str, token: &str| ScaledObjectRef {
        name: "agents".to_owned(),
        namespace: "builds".to_owned(),
        scaler_metadata: HashMap::from([
            ("pool".to_owned(), pool.to_owned()),
            ("token".to_owned(), token.to_owned()),
        ]),
    };
    let mut keda = ExternalScalerClient::new(cluster.channel());
    for (of, code) in [
        (trigger("keda", ""), Code::Unauthenticated),
        (trigger("keda", "slp_nobody"), Code::Unauthenticated),
        (trigger("keda", "a\nb"), Code::Unauthenticated),
        (ScaledObjectRef::default(), Code::Unauthenticated),
        (trigger("other", &viewer), Code::NotFound),
    ] {
        let refused = [
            keda.is_active(of.clone()).await.err(),
            keda.stream_is_active(of.clone()).await.err(),
            keda.get_metric_spec(of.clone()).await.err(),
            keda.stream_metric_spec(of.clone()).await.err(),
            keda.get_metrics(GetMetricsRequest {
                scaled_object_ref: Some(of.clone()),
                metric_name: String::new(),
            })
            .await
            .err(),
        ];
        for status in refused {
            assert_eq!(status.map(|s| s.code()), Some(code), "{of:?}");
        }
    }
    let of = trigger("keda", &viewer);
    let spec = keda.get_metric_spec(of.clone()).await.unwrap().into_inner();
    let spec = &spec.metric_specs[0];
    assert_eq!((spec.target_size, spec.target_size_float), (1, 1.0));
    let mut pushed = keda
        .stream_is_active(of.clone())
        .await
        .unwrap()
        .into_inner();
    let mut next = async || {
        let told = tokio::time::timeout(SOON, pushed.next()).await;
        told.expect("told in time").expect("open").unwrap().result
    };
    assert!(!next().await, "nothing waits");
    let repo = rest.add_repository(FAKE_URL).await.unwrap();
    let hook = rest.add_hook(&repo, "github").await.unwrap();
    let sha = cluster.commit(1, WAITS);
    hook.deliver(rest, "d", hook.push_body(ZERO, &sha))
        .await
        .unwrap();
    assert!(next().await, "pushed without being asked");
    assert!(
        keda.is_active(of.clone())
            .await
            .unwrap()
            .into_inner()
            .result
    );
    let asked = GetMetricsRequest {
        scaled_object_ref: Some(of),
        metric_name: spec.metric_name.clone(),
    };
    let value = keda
        .get_metrics(asked)
        .await
        .unwrap()
        .into_inner()
        .metric_values;
    assert_eq!(
        (value[0].metric_value, value[0].metric_value_float),
        (1, 1.0)
    );
    let plain = rest.get("/pools/keda/metric").await.unwrap();
    assert_eq!(plain, json!({"desired": 1, "queued": 1}));
    let why = rest.get("/pools/keda/explain").await.unwrap();
    assert!(
        why["reasons"][0]
            .as_str()
            .unwrap()
            .starts_with("1 agents are wanted"),
        "{why}"
    );
    cluster.stop().await;
}
