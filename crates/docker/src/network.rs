//! Networks and volumes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bollard::models::{NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    InspectNetworkOptions, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveVolumeOptions,
};

use crate::container::label_filter;
use crate::engine::{LONG, SHORT, within};
use crate::spec::to_hash_map;
use crate::{DockerError, Engine};

/// A bridge network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Nothing outside is reached from it.
    pub internal: bool,
    /// Name of its interface on the host, at most 15 characters; empty = the engine's choice.
    pub interface: String,
    /// Containers on it do not reach each other.
    pub apart: bool,
}

impl Engine {
    /// Creates a bridge network and returns its id. Containers on it find each other by name.
    ///
    /// # Errors
    /// `Conflict` when the name is taken.
    pub async fn create_network(&self, spec: &BridgeSpec) -> Result<String, DockerError> {
        let mut options = HashMap::new();
        if !spec.interface.is_empty() {
            let option = "com.docker.network.bridge.name".to_owned();
            options.insert(option, spec.interface.clone());
        }
        if spec.apart {
            let option = "com.docker.network.bridge.enable_icc".to_owned();
            options.insert(option, "false".to_owned());
        }
        let request = NetworkCreateRequest {
            name: spec.name.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(spec.internal),
            labels: Some(to_hash_map(&spec.labels)),
            options: Some(options),
            ..NetworkCreateRequest::default()
        };
        let made = within("create network", LONG, self.docker.create_network(request)).await?;
        Ok(made.id)
    }

    /// Removes a network. Gone is success.
    ///
    /// # Errors
    /// `Refused` while containers are on it.
    pub async fn remove_network(&self, name: &str) -> Result<(), DockerError> {
        match within("remove network", LONG, self.docker.remove_network(name)).await {
            Err(DockerError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// This host's IPv4 address on a network, where it has one; without one, its IPv6 address.
    ///
    /// # Errors
    /// `NotFound`, or when the engine does not answer.
    pub async fn network_gateway(&self, name: &str) -> Result<Option<IpAddr>, DockerError> {
        let asking = self
            .docker
            .inspect_network(name, None::<InspectNetworkOptions>);
        let network = within("inspect network", SHORT, asking).await?;
        let parts = network
            .ipam
            .and_then(|ipam| ipam.config)
            .unwrap_or_default();
        let mut all: Vec<IpAddr> = parts
            .into_iter()
            .filter_map(|part| part.gateway?.split('/').next()?.parse().ok())
            .collect();
        all.sort_by_key(|address: &IpAddr| address.is_ipv6());
        Ok(all.into_iter().next())
    }

    /// Names of the networks that carry these labels.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn list_networks(&self, labels: &[(&str, &str)]) -> Result<Vec<String>, DockerError> {
        let options = ListNetworksOptionsBuilder::default()
            .filters(&label_filter(labels))
            .build();
        let list = self.docker.list_networks(Some(options));
        let list = within("list networks", SHORT, list).await?;
        Ok(list.into_iter().filter_map(|n| n.name).collect())
    }

    /// Creates a named volume. Already there is success.
    ///
    /// # Errors
    /// When the engine cannot.
    pub async fn create_volume(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), DockerError> {
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(to_hash_map(labels)),
            ..VolumeCreateRequest::default()
        };
        within("create volume", LONG, self.docker.create_volume(request))
            .await
            .map(drop)
    }

    /// Removes a volume. Gone is success.
    ///
    /// # Errors
    /// `Conflict` while a container uses it.
    pub async fn remove_volume(&self, name: &str) -> Result<(), DockerError> {
        let remove = self.docker.remove_volume(name, None::<RemoveVolumeOptions>);
        match within("remove volume", LONG, remove).await {
            Err(DockerError::NotFound(_)) => Ok(()),
            other => other,
        }
    }

    /// Names of the volumes that carry these labels.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn list_volumes(&self, labels: &[(&str, &str)]) -> Result<Vec<String>, DockerError> {
        let options = ListVolumesOptionsBuilder::default()
            .filters(&label_filter(labels))
            .build();
        let list = self.docker.list_volumes(Some(options));
        let list = within("list volumes", SHORT, list).await?;
        Ok(list
            .volumes
            .unwrap_or_default()
            .into_iter()
            .map(|v| v.name)
            .collect())
    }
}
