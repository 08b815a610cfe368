//! A cluster's API as far as Deployments, Services, HTTPRoutes and pods of a namespace go, in memory,
//! with controllers that see a change one look late.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use slipway_kubernetes::Cluster;

/// Whose rights reach no further.
pub(super) const NAMESPACE: &str = "shop";

#[derive(Default)]
pub(super) struct Objects {
    pub(super) all: BTreeMap<(String, String), Value>,
    /// So many of the next changes meet another one.
    pub(super) races: u32,
    /// Another manager owns what is applied.
    pub(super) foreign: bool,
    /// What is deleted is still there for so many looks.
    pub(super) lingers: u64,
    /// What a dry run is answered: a status, and words.
    pub(super) refuses: Option<(u16, String)>,
    /// Kinds that nothing may be changed of, for lack of a right.
    pub(super) forbidden: Vec<String>,
    /// Controllers are not running.
    pub(super) stopped: bool,
    writes: u64,
}

pub(super) type Shared = Arc<Mutex<Objects>>;
type Answer = (StatusCode, Json<Value>);

pub(super) fn locked<T>(objects: &Shared, act: impl FnOnce(&mut Objects) -> T) -> T {
    act(&mut objects.lock().unwrap_or_else(PoisonError::into_inner))
}

fn status(code: u16, reason: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
        "code": code, "reason": reason, "message": "hunter2 by the test"});
    (StatusCode::from_u16(code).unwrap(), Json(body))
}

/// As a real one says whose field it is.
fn owned() -> Answer {
    let (code, Json(mut body)) = status(409, "Conflict");
    body["details"] = json!({"causes": [{"reason": "FieldManagerConflict", "field": ".spec.rules",
        "message": "conflict with \"kubectl-edit\" using v1"}]});
    (code, Json(body))
}

fn merge(into: &mut Value, from: &Value) {
    match (into.as_object_mut(), from.as_object()) {
        (Some(into), Some(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        _ => *into = from.clone(),
    }
}

fn has(object: &Value, labels: &[(String, String)]) -> bool {
    let is = |(k, v): &(String, String)| object["metadata"]["labels"][k] == **v;
    labels.iter().all(is)
}

impl Objects {
    fn version(&mut self) -> String {
        self.writes += 1;
        self.writes.to_string()
    }

    /// What the Deployment controller and the nodes do.
    fn reconcile(&mut self, name: &str) {
        let key = ("deployments".to_owned(), name.to_owned());
        let deployment = self.all.get(&key).cloned().unwrap_or_default();
        let want = deployment["spec"]["replicas"].as_u64().unwrap_or(0);
        let want = usize::try_from(want).unwrap();
        let mine = |(kind, pod): &&(String, String)| kind == "pods" && pod.starts_with(name);
        let mut pods: Vec<_> = self.all.keys().filter(mine).cloned().collect();
        let cost = |objects: &Self, key: &(String, String)| {
            let cost = &objects.all[key]["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
            cost.as_str().and_then(|text| text.parse::<i64>().ok())
        };
        // What was not marked goes first, the oldest of it: unlike what is hoped for.
        pods.sort_by_key(|key| cost(self, key).unwrap_or(0));
        while pods.len() > want {
            self.all.remove(&pods.remove(0));
        }
        for _ in pods.len()..want {
            let number = self.version();
            let pod = format!("{name}-{number:0>4}");
            let mut object = deployment["spec"]["template"].clone();
            merge(
                &mut object,
                &json!({
                    "metadata": {"name": pod, "resourceVersion": number},
                    "status": {"phase": "Running", "podIP": "10.1.2.3",
                        "conditions": [{"type": "Ready", "status": "True"}],
                        "containerStatuses": [{"name": "service", "image": "x", "imageID": "x",
                            "ready": true, "restartCount": 2,
                            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]},
                }),
            );
            self.all.insert(("pods".to_owned(), pod), object);
        }
    }

    /// Its controller looks at an object.
    fn look(&mut self, key: &(String, String)) {
        if self.stopped {
            return;
        }
        let version = self.version();
        if let Some(object) = self.all.get_mut(key) {
            let before = object["status"].clone();
            let generation = object["metadata"]["generation"].clone();
            let condition = |kind: &str| json!({"type": kind, "status": "True", "observedGeneration": generation});
            object["status"] = match key.0.as_str() {
                "httproutes" => json!({"parents": [{
                    "conditions": [condition("Accepted"), condition("ResolvedRefs")]}]}),
                _ => json!({"observedGeneration": generation}),
            };
            if before != object["status"] {
                object["metadata"]["resourceVersion"] = json!(version);
            }
        }
    }

    /// The garbage collector looks at an object that was deleted.
    fn collect(&mut self, key: &(String, String)) {
        let looks = self
            .all
            .get(key)
            .and_then(|object| object["looks"].as_u64());
        match (looks, self.all.get_mut(key)) {
            (Some(0 | 1), _) => drop(self.all.remove(key)),
            (Some(looks), Some(object)) => object["looks"] = json!(looks - 1),
            _ => {}
        }
    }

    /// Somebody else writes an object.
    fn touch(&mut self, key: &(String, String)) {
        let version = self.version();
        if let Some(object) = self.all.get_mut(key) {
            object["metadata"]["resourceVersion"] = json!(version);
        }
    }
}

/// Two to a page, so that a listing has several.
async fn list(
    State(objects): State<Shared>,
    Path((namespace, kind)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer {
    if namespace != NAMESPACE {
        return status(403, "Forbidden");
    }
    let wanted: Vec<(String, String)> = query.get("labelSelector").map_or(vec![], |all| {
        let pairs = all.split(',').filter_map(|one| one.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    });
    let all: Vec<Value> = locked(&objects, |objects| {
        let mine =
            |((k, _), object): &(&(String, String), &Value)| *k == kind && has(object, &wanted);
        let found = objects.all.iter().filter(mine);
        found.map(|(_, object)| object.clone()).collect()
    });
    let from: usize = query.get("continue").map_or(0, |t| t.parse().unwrap());
    let next = (from + 2 < all.len()).then(|| (from + 2).to_string());
    let page: Vec<Value> = all.into_iter().skip(from).take(2).collect();
    let body = json!({"kind": "List", "apiVersion": "v1", "items": page,
        "metadata": {"continue": next.unwrap_or_default()}});
    (StatusCode::OK, Json(body))
}

async fn show(
    State(objects): State<Shared>,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Answer {
    if namespace != NAMESPACE {
        return status(403, "Forbidden");
    }
    let key = (kind, name);
    locked(&objects, |objects| {
        let found = objects.all.get(&key).cloned();
        objects.look(&key);
        objects.collect(&key);
        match found {
            Some(object) => (StatusCode::OK, Json(object)),
            None => status(404, "NotFound"),
        }
    })
}

async fn patch(
    State(objects): State<Shared>,
    Path((_, kind, name)): Path<(String, String, String)>,
    Query(query): Query<HashMap<String, String>>,
    headers: axum::http::HeaderMap,
    body: String,
) -> Answer {
    assert_eq!(query["fieldManager"], "slipway");
    let force = query.get("force").is_some_and(|force| force == "true");
    let sent: Value = serde_json::from_str(&body).unwrap();
    let applied = headers["content-type"] == "application/apply-patch+yaml";
    let key = (kind.clone(), name.clone());
    locked(&objects, |objects| {
        if objects.forbidden.contains(&kind) {
            let (code, Json(mut body)) = status(403, "Forbidden");
            body["message"] = json!(format!(
                "{kind} \"{name}\" is forbidden: User \"system:serviceaccount:slipway:x\" \
                cannot patch resource \"{kind}\" in API group \"apps\" in the namespace \"shop\""
            ));
            return (code, Json(body));
        }
        if query.get("dryRun").is_some_and(|all| all == "All") {
            assert_eq!(query["fieldValidation"], "Strict");
            return match &objects.refuses {
                None => (StatusCode::OK, Json(sent)),
                Some((code, words)) => {
                    let (code, Json(mut body)) = status(*code, "Invalid");
                    body["message"] = json!(words);
                    (code, Json(body))
                }
            };
        }
        let known = objects.all.get(&key).cloned();
        let named = sent["metadata"]["resourceVersion"].as_str();
        if named.is_some() && objects.races > 0 {
            objects.races -= 1;
            objects.touch(&key);
        }
        let is = objects
            .all
            .get(&key)
            .map(|o| o["metadata"]["resourceVersion"].clone());
        if named.is_some_and(|named| is != Some(json!(named))) {
            return status(409, "Conflict");
        }
        if applied && objects.foreign && !force {
            return owned();
        }
        objects.foreign &= !force;
        let Some(mut object) = known.or_else(|| applied.then(|| json!({"metadata": {}}))) else {
            return status(404, "NotFound");
        };
        let before = object["spec"].clone();
        if applied {
            object["spec"] = sent["spec"].clone();
        }
        merge(&mut object, &sent);
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        let changed = i64::from(before != object["spec"]);
        object["metadata"]["generation"] = json!(generation + changed);
        object["metadata"]["resourceVersion"] = json!(objects.version());
        objects.all.insert(key, object.clone());
        if kind == "deployments" {
            objects.reconcile(&name);
        }
        (StatusCode::OK, Json(object))
    })
}

async fn delete(
    State(objects): State<Shared>,
    Path((_, kind, name)): Path<(String, String, String)>,
    Json(options): Json<Value>,
) -> Answer {
    assert_eq!(options["propagationPolicy"], "Foreground");
    let key = (kind, name);
    locked(&objects, |objects| {
        let Some(object) = objects.all.get(&key).cloned() else {
            return status(404, "NotFound");
        };
        if options["preconditions"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return status(409, "Conflict");
        }
        objects.all.remove(&key);
        objects.reconcile(&key.1);
        if objects.lingers > 0 {
            let mut ending = object.clone();
            ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            ending["looks"] = json!(objects.lingers);
            objects.all.insert(key, ending);
        }
        (StatusCode::OK, Json(object))
    })
}

/// Its objects, and a client of each namespace.
pub(super) async fn serve() -> (Shared, impl Fn(&str) -> Cluster) {
    slipway_daemon::start::install_crypto();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let objects = Shared::default();
    let mut router = Router::new();
    for group in [
        "/api/v1",
        "/apis/apps/v1",
        "/apis/gateway.networking.k8s.io/v1",
    ] {
        let all = format!("{group}/namespaces/{{namespace}}/{{kind}}");
        router = router
            .route(
                &format!("{all}/{{name}}"),
                get(show).patch(patch).delete(delete),
            )
            .route(&all, get(list));
    }
    let router = router.with_state(Arc::clone(&objects));
    slipway_daemon::spawn(
        "cluster",
        async move { axum::serve(listener, router).await },
    );
    (objects, move |namespace: &str| {
        Cluster::at(&address, namespace).unwrap()
    })
}
