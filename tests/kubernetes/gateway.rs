//! Stands in for a gateway's controller: there is none. It accepts every route at once, and says that a
//! route's references are resolved when each of its Services is there. It carries no traffic. A route of
//! the gateway `deaf` is never answered.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Between two looks at all routes.
const LOOK: Duration = Duration::from_millis(50);

/// HTTPRoutes, as the API server knows them.
pub(crate) fn routes() -> ApiResource {
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    ApiResource::from_gvk(&kind)
}

/// Looks after routes for ever.
pub(crate) async fn live(client: Client) {
    loop {
        let all = Api::<DynamicObject>::all_with(client.clone(), &routes());
        if let Ok(found) = all.list(&ListParams::default()).await {
            for route in &found.items {
                let _next_time = look_at(&client, route).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn look_at(client: &Client, route: &DynamicObject) -> anyhow::Result<()> {
    let metadata = &route.metadata;
    let (Some(name), Some(namespace)) = (&metadata.name, &metadata.namespace) else {
        return Ok(());
    };
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let backends = route.data.pointer("/spec/rules/0/backendRefs");
    let backends = backends.and_then(Value::as_array).into_iter().flatten();
    let mut resolved = true;
    for backend in backends {
        let service = backend["name"].as_str().unwrap_or_default();
        resolved &= services.get_opt(service).await?.is_some();
    }
    let condition = |kind: &str, holds: bool| {
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": kind,
            "message": "", "observedGeneration": metadata.generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let parents = route.data.pointer("/spec/parentRefs");
    let parents = parents.and_then(Value::as_array).into_iter().flatten();
    let parents: Vec<Value> = parents
        .filter(|parent| parent["name"] != "deaf")
        .map(|parent| {
            json!({"parentRef": parent, "controllerName": "slipway.dev/stand-in",
                "conditions": [condition("Accepted", true), condition("ResolvedRefs", resolved)]})
        })
        .collect();
    let known = route.data.pointer("/status/parents");
    let parents = json!(parents);
    if known.unwrap_or(&json!([])) == &parents {
        return Ok(());
    }
    let all = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &routes());
    let status = json!({"status": {"parents": parents}});
    let patch = Patch::Merge(&status);
    all.patch_status(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}
