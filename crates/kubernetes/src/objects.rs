//! Objects that are declared: Deployments, Services and HTTPRoutes, by server-side apply.
//!
//! A field that another manager owns is a conflict, and is taken only by [`Claim::Take`]. Every change of
//! something that exists names the resource version that was read.

use std::collections::BTreeMap;

use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    Preconditions, PropagationPolicy, ValidationDirective,
};
use serde_json::{Value, json};

use crate::{Cluster, ClusterError, within};

/// Who owns the fields that are applied here.
pub const FIELD_MANAGER: &str = "slipway";
/// Objects of one page of a listing.
const PAGE: u32 = 500;
/// Pages of one listing: 10 000 objects with the same labels are no place of ours.
const PAGES_MAX: u32 = 20;

/// What can be declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// `apps/v1`.
    Deployment,
    /// `v1`.
    Service,
    /// `v1`.
    ConfigMap,
    /// `v1`.
    ServiceAccount,
    /// `gateway.networking.k8s.io/v1`: there where the Gateway API is installed.
    HttpRoute,
}

/// What becomes of a field that another manager owns and has otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is left alone: [`ClusterError::Owned`].
    Leave,
    /// It is ours from now on.
    Take,
}

/// An object as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Changes with every change; a change that names an older one is refused.
    pub resource_version: String,
    /// Changes with every change of what is wanted.
    pub generation: i64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is being removed.
    pub ending: bool,
    /// `spec` and `status`.
    pub body: Value,
}

impl Object {
    /// Whether its controller has seen what is wanted now.
    #[must_use]
    pub fn is_seen(&self) -> bool {
        let seen = self.body.pointer("/status/observedGeneration");
        seen.and_then(Value::as_i64)
            .is_some_and(|seen| seen >= self.generation)
    }
}

impl ObjectKind {
    fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::Deployment => ("apps", "v1", "Deployment"),
            Self::Service => ("", "v1", "Service"),
            Self::ConfigMap => ("", "v1", "ConfigMap"),
            Self::ServiceAccount => ("", "v1", "ServiceAccount"),
            Self::HttpRoute => ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }

    const fn calls(self) -> [&'static str; 5] {
        match self {
            Self::Deployment => [
                "read a Deployment",
                "list Deployments",
                "apply a Deployment",
                "change a Deployment",
                "delete a Deployment",
            ],
            Self::Service => [
                "read a Service",
                "list Services",
                "apply a Service",
                "change a Service",
                "delete a Service",
            ],
            Self::ConfigMap => [
                "read a ConfigMap",
                "list ConfigMaps",
                "apply a ConfigMap",
                "change a ConfigMap",
                "delete a ConfigMap",
            ],
            Self::ServiceAccount => [
                "read a ServiceAccount",
                "list ServiceAccounts",
                "apply a ServiceAccount",
                "change a ServiceAccount",
                "delete a ServiceAccount",
            ],
            Self::HttpRoute => [
                "read an HTTPRoute",
                "list HTTPRoutes",
                "apply an HTTPRoute",
                "change an HTTPRoute",
                "delete an HTTPRoute",
            ],
        }
    }
}

fn view(object: DynamicObject) -> Object {
    let metadata = object.metadata;
    Object {
        name: metadata.name.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        labels: metadata.labels.unwrap_or_default(),
        annotations: metadata.annotations.unwrap_or_default(),
        ending: metadata.deletion_timestamp.is_some(),
        body: object.data,
    }
}

/// Every item of a listing, page by page.
pub(crate) async fn every<K>(
    api: &Api<K>,
    call: &'static str,
    labels: &[(&str, &str)],
) -> Result<Vec<K>, ClusterError>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut parameters = ListParams::default().labels(&wanted.join(",")).limit(PAGE);
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = within(call, api.list(&parameters)).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(found),
        }
    }
    Err(ClusterError::Refused {
        call,
        status: 0,
        words: "more of them than any place of ours has".to_owned(),
    })
}

impl Cluster {
    fn objects_api(&self, kind: ObjectKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource())
    }

    /// An object by its name; `None` when it is not there.
    ///
    /// # Errors
    /// When the cluster does not answer, or refuses.
    pub async fn object(
        &self,
        kind: ObjectKind,
        name: &str,
    ) -> Result<Option<Object>, ClusterError> {
        let [call, ..] = kind.calls();
        within(call, self.objects_api(kind).get_opt(name))
            .await
            .map(|found| found.map(view))
    }

    /// Every object with all of these labels.
    ///
    /// # Errors
    /// When the cluster does not answer, or does not list all of them.
    pub async fn objects(
        &self,
        kind: ObjectKind,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Object>, ClusterError> {
        let [_, call, ..] = kind.calls();
        let found = every(&self.objects_api(kind), call, labels).await?;
        Ok(found.into_iter().map(view).collect())
    }

    /// Declares the whole of what is ours in an object: `metadata` and `spec`. With a resource
    /// version, only if the object still has it.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] when it changed since, [`ClusterError::Owned`] when another manager
    /// owns a field.
    pub async fn apply(
        &self,
        kind: ObjectKind,
        mut body: Value,
        resource_version: Option<&str>,
        claim: Claim,
    ) -> Result<Object, ClusterError> {
        if let Some(version) = resource_version {
            body["metadata"]["resourceVersion"] = json!(version);
        }
        let parameters = PatchParams {
            force: claim == Claim::Take,
            ..PatchParams::apply(FIELD_MANAGER)
        };
        self.declare(kind, body, &parameters).await
    }

    /// Asks whether [`Cluster::apply`] would be accepted, with its admission and with no field that the
    /// cluster does not know. Changes nothing.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] with the cluster's words.
    pub async fn judge(&self, kind: ObjectKind, body: Value) -> Result<(), ClusterError> {
        let parameters = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply(FIELD_MANAGER)
        };
        self.declare(kind, body, &parameters).await.map(drop)
    }

    async fn declare(
        &self,
        kind: ObjectKind,
        mut body: Value,
        parameters: &PatchParams,
    ) -> Result<Object, ClusterError> {
        let [_, _, call, ..] = kind.calls();
        let resource = kind.resource();
        body["apiVersion"] = json!(resource.api_version);
        body["kind"] = json!(resource.kind);
        let name = body.pointer("/metadata/name").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        let api = self.objects_api(kind);
        within(call, api.patch(&name, parameters, &Patch::Apply(&body)))
            .await
            .map(view)
    }

    /// Changes some fields of an object that still has this resource version.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] when it changed since.
    pub async fn change(
        &self,
        kind: ObjectKind,
        object: &Object,
        mut fields: Value,
    ) -> Result<Object, ClusterError> {
        let [_, _, _, call, _] = kind.calls();
        fields["metadata"]["resourceVersion"] = json!(object.resource_version);
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.objects_api(kind);
        within(
            call,
            api.patch(&object.name, &parameters, &Patch::Merge(&fields)),
        )
        .await
        .map(view)
    }

    /// Removes an object that still has this resource version, after everything that it owns. Gone
    /// is success.
    ///
    /// # Errors
    /// [`ClusterError::Conflict`] when it changed since.
    pub async fn remove(&self, kind: ObjectKind, object: &Object) -> Result<(), ClusterError> {
        let [_, _, _, _, call] = kind.calls();
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                resource_version: Some(object.resource_version.clone()),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        let api = self.objects_api(kind);
        match within(call, api.delete(&object.name, &parameters)).await {
            Ok(_) | Err(ClusterError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
