//! A cluster's API as far as pods and secrets of a namespace go, in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use slipway_dispatcher::fleet::FleetProvider as _;
use slipway_dispatcher::fleet::contract::{keeps_the_contract, order};
use slipway_dispatcher::fleet::kubernetes::{Pods, Template};
use slipway_kubernetes::Cluster;

type Objects = Arc<Mutex<BTreeMap<(String, String), Value>>>;
type Answer = (StatusCode, Json<Value>);

fn status(code: u16, reason: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
        "code": code, "reason": reason, "message": format!("{reason} by the test")});
    (StatusCode::from_u16(code).expect("good"), Json(body))
}

/// Two to a page, so that a listing has several.
async fn list(
    State(objects): State<Objects>,
    Path((namespace, kind)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer {
    if namespace != "builds" {
        return status(403, "Forbidden");
    }
    let wanted: Vec<(String, String)> = query.get("labelSelector").map_or(vec![], |all| {
        let pairs = all.split(',').filter_map(|one| one.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    });
    let objects = objects.lock().expect("good");
    let all: Vec<Value> = objects
        .iter()
        .filter(|((k, _), object)| {
            let has = |(k, v): &(String, String)| object["metadata"]["labels"][k] == **v;
            *k == kind && wanted.iter().all(has)
        })
        .map(|(_, object)| object.clone())
        .collect();
    let from: usize = query
        .get("continue")
        .map_or(0, |t| t.parse().expect("good"));
    let next = (from + 2 < all.len()).then(|| (from + 2).to_string());
    let page: Vec<Value> = all.into_iter().skip(from).take(2).collect();
    let kind = if kind == "pods" {
        "PodList"
    } else {
        "SecretList"
    };
    let body = json!({"kind": kind, "apiVersion": "v1", "items": page,
        "metadata": {"continue": next.unwrap_or_default()}});
    (StatusCode::OK, Json(body))
}

async fn create(
    State(objects): State<Objects>,
    Path((_, kind)): Path<(String, String)>,
    Json(mut object): Json<Value>,
) -> Answer {
    let name = object["metadata"]["name"]
        .as_str()
        .expect("good")
        .to_owned();
    let mut objects = objects.lock().expect("good");
    if objects.contains_key(&(kind.clone(), name.clone())) {
        return status(409, "AlreadyExists");
    }
    if kind == "pods" {
        let volume = &object["spec"]["volumes"][1]["secret"]["secretName"];
        let secret = (
            "secrets".to_owned(),
            volume.as_str().expect("good").to_owned(),
        );
        assert!(objects.contains_key(&secret), "a pod without its settings");
        object["status"] = json!({"phase": "Running"});
    }
    objects.insert((kind, name), object.clone());
    (StatusCode::CREATED, Json(object))
}

async fn show(
    State(objects): State<Objects>,
    Path((_, kind, name)): Path<(String, String, String)>,
) -> Answer {
    match objects.lock().expect("good").get(&(kind, name)) {
        Some(object) => (StatusCode::OK, Json(object.clone())),
        None => status(404, "NotFound"),
    }
}

async fn delete(
    State(objects): State<Objects>,
    Path((_, kind, name)): Path<(String, String, String)>,
) -> Answer {
    match objects.lock().expect("good").remove(&(kind, name)) {
        Some(object) => (StatusCode::OK, Json(object)),
        None => status(404, "NotFound"),
    }
}

async fn serve() -> (String, Objects) {
    slipway_daemon::start::install_crypto();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("good");
    let address = listener.local_addr().expect("good");
    let objects = Objects::default();
    let one = "/api/v1/namespaces/{namespace}/{kind}/{name}";
    let router = Router::new()
        .route(
            "/api/v1/namespaces/{namespace}/{kind}",
            get(list).post(create),
        )
        .route(one, get(show).delete(delete))
        .with_state(Arc::clone(&objects));
    slipway_daemon::spawn(
        "cluster",
        async move { axum::serve(listener, router).await },
    );
    (format!("http://{address}"), objects)
}

fn pods(address: &str, namespace: &str) -> Pods {
    let cluster = Cluster::at(address, namespace).expect("good");
    Pods::of(cluster, "here", "contract", Template::default())
}

#[tokio::test]
async fn pods_keep_the_contract_and_leave_no_secret() {
    let (address, objects) = serve().await;
    let dir = tempfile::tempdir().expect("good");
    let config = super::config(dir.path());
    keeps_the_contract(
        &pods(&address, "builds"),
        &pods(&address, "builds"),
        &config,
    )
    .await;
    assert_eq!(
        objects.lock().expect("good").len(),
        0,
        "pods or secrets that are gone"
    );
}

#[tokio::test]
async fn every_page_is_read_and_a_refusal_is_told() {
    let (address, objects) = serve().await;
    let dir = tempfile::tempdir().expect("good");
    let config = super::config(dir.path());
    let provider = pods(&address, "builds");
    for n in 0..5 {
        provider.start(&order(&config, n)).await.expect("good");
    }
    assert_eq!(provider.list().await.expect("good").machines.len(), 5);
    let text = format!(
        "{:?}",
        objects
            .lock()
            .expect("good")
            .iter()
            .filter(|((k, _), _)| k == "pods")
            .collect::<Vec<_>>()
    );
    assert!(
        !text.contains("slpj_"),
        "the join token is in the secret alone"
    );
    let error = pods(&address, "elsewhere")
        .list()
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("403"), "{error}");
}
