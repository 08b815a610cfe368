//! Networks of stages. A stage alone is on one that all of them share and on which none reaches another;
//! a stage with services has one of its own with them. Their interfaces begin with `ci-`, which is what
//! the deny list goes by.

use std::collections::BTreeMap;

use slipway_core::digest::Digest;
use slipway_core::pipeline::Sandbox as Profile;
use slipway_docker::labels::PURPOSE;
use slipway_docker::{BridgeSpec, DockerError, NetworkSpec};

use super::{DockerSandbox, failed, name};
use crate::sandbox::doors::Gateway;
use crate::sandbox::{SandboxError, StageRun};

/// The network of stages without services, of every agent on this host that opens nothing beyond the deny
/// list. Those that open the same share another, of this name and the opening's.
pub const SHARED: &str = "slipway-stages";
/// The engine's word for no network at all.
const NONE: &str = "none";
/// The end of its interface's name.
const SHARED_END: &str = "stages";
/// Linux takes so many characters in an interface's name; what is left of it makes it unique.
const INTERFACE_MAX: usize = 15;

impl DockerSandbox {
    /// The network that a stage begins on, made when it is not there.
    pub(super) async fn network(&self, run: &StageRun) -> Result<NetworkSpec, SandboxError> {
        let strict = run.profile == Profile::Strict;
        if run.services.is_empty() {
            let mut network = NetworkSpec::default();
            if strict {
                NONE.clone_into(&mut network.name);
            } else {
                self.shared.get_or_try_init(|| self.make_shared()).await?;
                network.name = self.shared_name();
            }
            return Ok(network);
        }
        let digest = Digest::of(name(&run.key).as_bytes()).to_string();
        let spec = BridgeSpec {
            name: name(&run.key),
            labels: self.labels(&run.key, "network"),
            // Code from outside talks to its own services and to nobody else.
            internal: strict,
            interface: self.interface(&digest),
            apart: false,
        };
        match self.engine.create_network(&spec).await {
            // Asked for its gateway before.
            Ok(_) | Err(DockerError::Conflict(_)) => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(NetworkSpec {
            name: spec.name,
            aliases: vec!["stage".to_owned()],
            publish: Vec::new(),
        })
    }

    /// The host's end of the network that the stage begins on.
    pub(super) async fn gateway_of(&self, run: &StageRun) -> Result<Option<Gateway>, SandboxError> {
        let network = self.network(run).await?.name;
        if network == NONE {
            return Ok(None);
        }
        let address = match self.engine.network_gateway(&network).await {
            // Somebody pruned networks between two stages.
            Err(error) if error.is_not_found() && run.services.is_empty() => {
                self.make_shared().await?;
                self.engine.network_gateway(&network).await
            }
            other => other,
        };
        let interface = if run.services.is_empty() {
            self.interface(SHARED_END)
        } else {
            self.interface(&Digest::of(name(&run.key).as_bytes()).to_string())
        };
        Ok(address
            .map_err(failed)?
            .map(|address| Gateway { address, interface }))
    }

    fn shared_name(&self) -> String {
        match &self.opening {
            Some(opening) => format!("{SHARED}-{}", opening.as_str()),
            None => SHARED.to_owned(),
        }
    }

    /// What the deny list goes by, and then as much of `unique` as there is room for.
    fn interface(&self, unique: &str) -> String {
        let opening = self.opening.as_ref().map_or("", |opening| opening.as_str());
        format!("ci-{opening}{unique}")
            .chars()
            .take(INTERFACE_MAX)
            .collect()
    }

    /// Not an agent's own: nobody removes it, and whoever comes first makes it.
    pub(super) async fn make_shared(&self) -> Result<(), SandboxError> {
        let spec = BridgeSpec {
            name: self.shared_name(),
            labels: BTreeMap::from([(PURPOSE.to_owned(), "shared".to_owned())]),
            internal: false,
            interface: self.interface(SHARED_END),
            apart: true,
        };
        match self.engine.create_network(&spec).await {
            Ok(_) | Err(DockerError::Conflict(_)) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
