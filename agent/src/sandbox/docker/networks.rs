//! Networks of stages. A stage alone is on one that all of them share and on which none reaches another;
//! a stage with services has one of its own with them. Their interfaces begin with `ci-`, which is what
//! the deny list goes by.

use std::collections::BTreeMap;

use slipway_core::digest::Digest;
use slipway_core::pipeline::Sandbox as Profile;
use slipway_docker::labels::PURPOSE;
use slipway_docker::{BridgeSpec, DockerError, NetworkSpec};

use super::{DockerSandbox, failed, name};
use crate::sandbox::{SandboxError, StageRun};

/// The network of stages without services, of every agent on this host that opens nothing beyond the deny
/// list. Those that open the same share another, of this name and the opening's.
pub const SHARED: &str = "slipway-stages";
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
                "none".clone_into(&mut network.name);
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
        self.engine.create_network(&spec).await.map_err(failed)?;
        Ok(NetworkSpec {
            name: spec.name,
            aliases: vec!["stage".to_owned()],
            publish: Vec::new(),
        })
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
