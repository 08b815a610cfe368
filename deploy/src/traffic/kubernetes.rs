//! Traffic in a cluster without our router: a Service's selector, or the weights of an HTTPRoute.
//!
//! The fence and the table lie beside them as annotations; what is read back are the weights in the
//! object itself. Nothing counts requests here, no version is taken out by itself, and a weight has no
//! lease: gates that need counters are blind.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use slipway_core::traffic::{FULL_BP, Fence, FenceAnswer, Seen, Share, TrafficTable, judge};
use slipway_kubernetes::{Claim, Cluster, ClusterError, Object, ObjectKind};

use super::{Reading, Traffic, TrafficError};
use crate::places::KubernetesPlace;
use crate::targets::kubernetes::{
    LOOK_EVERY, MANIFESTS, OWNER, PORT as PORT_LABEL, PORT_NAME, Reach, SEEN_LIMIT, TOKEN, TRIES,
    VERSION, name_of, token_of, words,
};

const GENERATION: &str = "slipway.dev/generation";
const TABLE: &str = "slipway.dev/table";
/// Every node has heard of a change of a Service after this, in a cluster that is not overloaded; nobody
/// can be asked.
const SPREAD: Duration = Duration::from_secs(15);
/// Longest name of a Service.
const NAME_MAX: usize = 63;
/// The port of Services, where none is set.
const PORT: u16 = 80;

/// The Service or the HTTPRoute of each service of an environment.
pub struct KubernetesTraffic {
    reach: Reach,
    /// Empty: named after its service.
    route: String,
    /// `name` or `namespace/name`; empty: by selector.
    gateway: String,
    port: u16,
}

fn refusal(error: ClusterError, kind: ObjectKind) -> TrafficError {
    match &error {
        ClusterError::NotFound(_) if kind == ObjectKind::HttpRoute => {
            TrafficError::Refused(format!(
                "{}: is the Gateway API installed, and the namespace there?",
                words(&error)
            ))
        }
        ClusterError::Refused { status, .. } if *status >= 500 || matches!(*status, 0 | 429) => {
            TrafficError::Unknown(words(&error))
        }
        ClusterError::Config(_) | ClusterError::NotFound(_) | ClusterError::Refused { .. } => {
            TrafficError::Refused(words(&error))
        }
        _ => TrafficError::Unknown(words(&error)),
    }
}

fn stored(object: &Object) -> Option<(Fence, TrafficTable)> {
    let fence = Fence {
        token: token_of(object)?,
        generation: object.annotations.get(GENERATION)?.parse().ok()?,
    };
    let table = serde_json::from_str(object.annotations.get(TABLE)?).ok()?;
    Some((fence, table))
}

/// The weights that the object itself has, whatever is written beside it.
fn weights(kind: ObjectKind, object: &Object, table: &TrafficTable) -> Vec<(String, u32)> {
    let body = &object.body;
    if kind == ObjectKind::Service {
        let serving = body.pointer("/spec/selector").and_then(|s| s.get(VERSION));
        let serving = serving.and_then(Value::as_str);
        return serving
            .map(|v| (v.to_owned(), FULL_BP))
            .into_iter()
            .collect();
    }
    let backends = body.pointer("/spec/rules/0/backendRefs");
    let backends = backends.and_then(Value::as_array).into_iter().flatten();
    backends
        .filter_map(|backend| {
            let name = backend.get("name")?.as_str()?;
            let weight = backend.get("weight").map_or(Some(1), Value::as_u64)?;
            let known = table.versions.iter().find(|v| name_of(&v.version) == name);
            let version = known.map_or(name, |share| share.version.as_str());
            Some((version.to_owned(), u32::try_from(weight).ok()?))
        })
        .collect()
}

/// The table with the weights that are in use.
fn in_use(kind: ObjectKind, object: &Object, mut table: TrafficTable) -> TrafficTable {
    let found = weights(kind, object, &table);
    for share in &mut table.versions {
        let weight = found.iter().find(|(version, _)| *version == share.version);
        share.weight_bp = weight.map_or(0, |(_, weight)| *weight);
    }
    for (version, weight_bp) in found {
        if table.versions.iter().all(|share| share.version != version) {
            table.versions.push(Share {
                version,
                weight_bp,
                instances: vec![],
            });
        }
    }
    // Nobody here would keep one.
    table.lease = None;
    table
}

fn same_weights(a: &TrafficTable, b: &TrafficTable) -> bool {
    let of = |table: &TrafficTable| {
        let all = table.versions.iter().filter(|share| share.weight_bp > 0);
        let mut all: Vec<_> = all.map(|s| (s.version.clone(), s.weight_bp)).collect();
        all.sort();
        all
    };
    of(a) == of(b)
}

/// Whether every gateway took the route as it is now.
fn is_accepted(object: &Object) -> bool {
    let parents = object.body.pointer("/status/parents");
    let parents = parents.and_then(Value::as_array);
    let holds = |parent: &Value, wanted: &str| {
        let all = parent.get("conditions").and_then(Value::as_array);
        all.into_iter().flatten().any(|one| {
            one["type"] == wanted
                && one["status"] == "True"
                && one["observedGeneration"].as_i64().unwrap_or_default() >= object.generation
        })
    };
    parents.is_some_and(|all| {
        let taken = |parent| holds(parent, "Accepted") && holds(parent, "ResolvedRefs");
        !all.is_empty() && all.iter().all(taken)
    })
}

impl KubernetesTraffic {
    /// As an environment says, connected to when it is first used.
    #[must_use]
    pub fn new(place: &KubernetesPlace) -> Self {
        Self::over(Reach::new(place.clone()), place)
    }

    /// On a cluster that is connected to.
    #[must_use]
    pub fn on(cluster: Cluster, place: &KubernetesPlace) -> Self {
        Self::over(Reach::connected(cluster), place)
    }

    fn over(reach: Reach, place: &KubernetesPlace) -> Self {
        Self {
            reach,
            route: place.route.clone(),
            gateway: place.gateway.clone(),
            port: if place.port == 0 { PORT } else { place.port },
        }
    }

    const fn kind(&self) -> ObjectKind {
        if self.gateway.is_empty() {
            ObjectKind::Service
        } else {
            ObjectKind::HttpRoute
        }
    }

    /// The name of the object that carries `service` (`name/environment`).
    fn name(&self, service: &str) -> Result<String, TrafficError> {
        let own = service.split_once('/').map_or(service, |(name, _)| name);
        let name = if self.route.is_empty() {
            own
        } else {
            &self.route
        };
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let ends = name.ends_with('-') || !name.starts_with(|c: char| c.is_ascii_lowercase());
        if name.len() > NAME_MAX || ends || !name.chars().all(good) {
            return Err(TrafficError::Refused(format!(
                "`{name}` cannot name an object of a cluster (a-z, 0-9, -, at most {NAME_MAX}); set \
                 `kubernetes.route` of the environment"
            )));
        }
        Ok(name.to_owned())
    }

    async fn cluster(&self) -> Result<&Cluster, TrafficError> {
        let kind = self.kind();
        self.reach.cluster().await.map_err(|e| refusal(e, kind))
    }

    /// The object of a service, when it is there. One that is not ours is refused.
    async fn object(&self, service: &str) -> Result<Option<Object>, TrafficError> {
        let (kind, name) = (self.kind(), self.name(service)?);
        let found = self.cluster().await?.object(kind, &name).await;
        let found = found.map_err(|e| refusal(e, kind))?;
        if let Some(object) = &found {
            let ours = object.labels.get(OWNER.0).is_some_and(|v| v == OWNER.1);
            let other = stored(object).map(|(_, table)| table.service);
            let other = other.filter(|other| other != service);
            let whose = match (ours, other) {
                (true, None) => return Ok(found),
                (true, Some(other)) => format!("carries `{other}`"),
                (false, _) => "was not made by Slipway".to_owned(),
            };
            return Err(TrafficError::Refused(format!(
                "{kind:?} `{name}` {whose}; name another one in `kubernetes.route` of the environment"
            )));
        }
        Ok(found)
    }

    async fn body(
        &self,
        name: &str,
        fence: Fence,
        table: &TrafficTable,
    ) -> Result<Value, TrafficError> {
        let text = serde_json::to_string(table);
        let text = text.map_err(|e| TrafficError::Refused(e.to_string()))?;
        let metadata = json!({
            "name": name, "labels": {OWNER.0: OWNER.1},
            "annotations": {
                TOKEN: fence.token.to_string(), GENERATION: fence.generation.to_string(), TABLE: text,
            },
        });
        if self.gateway.is_empty() {
            let mut full = table.versions.iter().filter(|s| s.weight_bp == FULL_BP);
            let Some(serving) = full.next() else {
                return Err(TrafficError::Refused(
                    "a Service has one version at a time; set `kubernetes.gateway` of the environment \
                     for shares, or use blue-green"
                        .to_owned(),
                ));
            };
            let spec = self.service_spec(&serving.version).await?;
            return Ok(json!({"metadata": metadata, "spec": spec}));
        }
        let parent = match self.gateway.split_once('/') {
            Some((namespace, name)) => json!({"namespace": namespace, "name": name}),
            None => json!({"name": self.gateway}),
        };
        let backends: Vec<Value> = table
            .versions
            .iter()
            .map(|share| {
                json!({"name": name_of(&share.version), "port": self.port, "weight": share.weight_bp})
            })
            .collect();
        let mut spec = json!({"parentRefs": [parent], "rules": [{"backendRefs": backends}]});
        if !table.hosts.is_empty() {
            spec["hostnames"] = json!(table.hosts);
        }
        Ok(json!({"metadata": metadata, "spec": spec}))
    }

    /// The port by the name that Slipway's own pods give it, by its number in a user's manifests.
    async fn service_spec(&self, version: &str) -> Result<Value, TrafficError> {
        let kind = ObjectKind::Deployment;
        let found = self.cluster().await?.object(kind, &name_of(version)).await;
        let found = found.map_err(|e| refusal(e, kind))?;
        let theirs = found.filter(|one| one.annotations.contains_key(MANIFESTS));
        let number = theirs.and_then(|one| one.labels.get(PORT_LABEL)?.parse::<u16>().ok());
        let port = number.map_or_else(|| json!(PORT_NAME), |port| json!(port));
        Ok(json!({
            "selector": {VERSION: version},
            "ports": [{"name": PORT_NAME, "port": self.port, "targetPort": port, "protocol": "TCP"}],
        }))
    }

    /// Makes sure that each version of a route has a Service of its own.
    async fn backends(&self, table: &TrafficTable) -> Result<(), TrafficError> {
        let (cluster, kind) = (self.cluster().await?, ObjectKind::Service);
        for share in &table.versions {
            let name = name_of(&share.version);
            let known = cluster.object(kind, &name).await;
            if known.map_err(|e| refusal(e, kind))?.is_none() {
                let labels = json!({OWNER.0: OWNER.1, VERSION: share.version});
                let spec = self.service_spec(&share.version).await?;
                let body = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
                let made = cluster.apply(kind, body, None, Claim::Leave).await;
                made.map_err(|e| refusal(e, kind))?;
            }
        }
        Ok(())
    }

    /// One try; false when the object changed at the same time.
    async fn declare(
        &self,
        fence: Fence,
        table: &TrafficTable,
        claim: Claim,
    ) -> Result<bool, TrafficError> {
        let kind = self.kind();
        let known = self.object(&table.service).await?;
        let last = known.as_ref().and_then(stored);
        let seen = last.as_ref().map(|(fence, table)| Seen {
            fence: *fence,
            hash: table.hash(),
        });
        match judge(seen, fence, table.hash()) {
            FenceAnswer::Apply => {}
            FenceAnswer::Already => {
                let intact = known.as_ref().zip(last).is_some_and(|(object, (_, last))| {
                    same_weights(&in_use(kind, object, last), table)
                });
                if intact {
                    return Ok(true);
                }
            }
            FenceAnswer::StaleToken { seen } => return Err(TrafficError::StaleToken { seen }),
            FenceAnswer::StaleGeneration { seen } => {
                let text = format!("the cluster has a table of generation {seen}, which is newer");
                return Err(TrafficError::Refused(text));
            }
            FenceAnswer::Conflict => {
                let text = "the cluster has another table under the same fence";
                return Err(TrafficError::Refused(text.to_owned()));
            }
        }
        let body = self.body(&self.name(&table.service)?, fence, table).await?;
        if kind == ObjectKind::HttpRoute {
            self.backends(table).await?;
        }
        let version = known
            .as_ref()
            .map(|object| object.resource_version.as_str());
        let applied = self.cluster().await?.apply(kind, body, version, claim);
        match applied.await {
            Ok(_) => Ok(true),
            Err(ClusterError::Conflict(_)) => Ok(false),
            Err(ClusterError::Owned { managers, .. }) => Err(TrafficError::Foreign(format!(
                "{kind:?} `{}` was changed by `{managers}`, which owns what was changed; leave its \
                 selector, weights and annotations to Slipway",
                self.name(&table.service)?
            ))),
            Err(error) => Err(refusal(error, kind)),
        }
    }

    async fn claimed(
        &self,
        fence: Fence,
        table: &TrafficTable,
        claim: Claim,
    ) -> Result<(), TrafficError> {
        table
            .check()
            .map_err(|e| TrafficError::Refused(e.to_string()))?;
        for _ in 0..TRIES {
            if self.declare(fence, table, claim).await? {
                return self.accepted(&table.service).await;
            }
        }
        Err(TrafficError::Unknown(format!(
            "{:?} `{}` changed each time it was read",
            self.kind(),
            self.name(&table.service)?
        )))
    }

    /// Waits until the gateways took the route.
    async fn accepted(&self, service: &str) -> Result<(), TrafficError> {
        if self.gateway.is_empty() {
            return Ok(());
        }
        let waiting = async {
            loop {
                if self
                    .object(service)
                    .await?
                    .as_ref()
                    .is_some_and(is_accepted)
                {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = |_| {
            let (gateway, limit) = (&self.gateway, SEEN_LIMIT.as_secs());
            Err(TrafficError::Unknown(format!(
                "gateway `{gateway}` did not take the route within {limit} s (conditions Accepted and \
                 ResolvedRefs); is it there, and does it allow routes of this namespace?"
            )))
        };
        tokio::time::timeout(SEEN_LIMIT, waiting)
            .await
            .unwrap_or_else(late)
    }
}

#[async_trait]
impl Traffic for KubernetesTraffic {
    async fn apply(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        self.claimed(fence, table, Claim::Leave).await
    }

    async fn take_back(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        self.claimed(fence, table, Claim::Take).await
    }

    async fn read(&self, service: &str) -> Result<Reading, TrafficError> {
        let Some(object) = self.object(service).await? else {
            return Ok(Reading::default());
        };
        let Some((fence, table)) = stored(&object) else {
            return Ok(Reading::default());
        };
        Ok(Reading {
            fence,
            table: Some(in_use(self.kind(), &object, table)),
            ..Reading::default()
        })
    }

    async fn renew(&self, fence: Fence, service: &str) -> Result<(), TrafficError> {
        let reading = self.read(service).await?;
        if reading.fence.token > fence.token {
            let seen = reading.fence.token;
            return Err(TrafficError::StaleToken { seen });
        }
        Ok(())
    }

    async fn drain(
        &self,
        service: &str,
        version: &str,
        deadline: Duration,
    ) -> Result<u32, TrafficError> {
        let weighs = |reading: &Reading| {
            let table = reading.table.as_ref();
            table.is_some_and(|table| table.weight_of(version) > 0)
        };
        if weighs(&self.read(service).await?) {
            let text = format!("version `{version}` still has weight");
            return Err(TrafficError::Refused(text));
        }
        // What is in flight is not known: its pods linger for it when they are ended.
        tokio::time::sleep(deadline.min(SPREAD)).await;
        Ok(0)
    }
}
