//! A webhook that keeps its machines in memory, and refuses what is not signed as it should be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use slipway_daemon::Clock;
use slipway_dispatcher::fleet::FleetProvider as _;
use slipway_dispatcher::fleet::contract::keeps_the_contract;
use slipway_dispatcher::fleet::webhook::{Webhook, signature};

const KEY: &[u8] = b"a key of more than thirty-two characters";

type Machines = Arc<Mutex<BTreeMap<String, String>>>;

async fn answer(
    State(machines): State<Machines>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
    };
    let seconds: i64 = header("x-slipway-timestamp").parse().unwrap_or(0);
    let now = Clock::system().now().as_millis() / 1_000;
    let expected = format!("sha256={}", signature(KEY, seconds, &body));
    if header("x-slipway-signature") != expected || (now - seconds).abs() > 300 {
        return (StatusCode::UNAUTHORIZED, "not signed by Slipway".to_owned());
    }
    let question: Value = serde_json::from_slice(&body).expect("good");
    let agent = question["agent_id"].as_str().unwrap_or_default().to_owned();
    let mut machines = machines.lock().expect("good");
    let answer = match question["verb"].as_str().expect("good") {
        "start" => {
            assert_eq!(header("idempotency-key"), format!("start/{agent}"));
            assert_eq!(
                question["environment"]["SLIPWAY_AGENT_JOIN_TOKEN"],
                format!("slpj_secret.{}", "0".repeat(64))
            );
            let count = machines.len();
            let known = machines
                .entry(agent)
                .or_insert_with(|| format!("vm-{count}"));
            json!({"machine": known})
        }
        "stop" => {
            machines.remove(&agent);
            json!({})
        }
        _ => {
            let all = machines.iter();
            let all: Vec<Value> = all
                .map(|(agent, machine)| json!({"agent_id": agent, "machine": machine}))
                .collect();
            json!({"machines": all, "complete": true})
        }
    };
    (StatusCode::OK, answer.to_string())
}

async fn serve() -> String {
    slipway_daemon::start::install_crypto();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("good");
    let address = listener.local_addr().expect("good");
    let router = Router::new()
        .route("/machines", post(answer))
        .with_state(Machines::default());
    slipway_daemon::spawn(
        "webhook",
        async move { axum::serve(listener, router).await },
    );
    format!("http://{address}/machines")
}

fn webhook(url: &str, key: &[u8]) -> Webhook {
    Webhook::new(url, key.to_vec(), "here", "contract", Clock::system()).expect("good")
}

#[tokio::test]
async fn a_webhook_keeps_the_contract() {
    let url = serve().await;
    let dir = tempfile::tempdir().expect("good");
    let config = super::config(dir.path());
    keeps_the_contract(&webhook(&url, KEY), &webhook(&url, KEY), &config).await;
}

#[tokio::test]
async fn a_call_that_another_key_signed_is_refused_and_the_answer_is_told() {
    let url = serve().await;
    let error = webhook(&url, b"another")
        .list()
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("401") && error.contains("not signed"),
        "{error}"
    );
    let nobody = webhook("http://127.0.0.1:1/", KEY).list().await;
    assert!(nobody.is_err());
}
