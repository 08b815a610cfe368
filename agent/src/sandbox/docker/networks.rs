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

/// The network of stages without services, of every agent on this host.
pub const SHARED: &str = "slipway-stages";
/// Its interface.
const SHARED_INTERFACE: &str = "ci-stages";
/// Characters of a digest that make an interface's name unique; Linux takes 15 in all.
const UNIQUE: usize = 12;

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
                SHARED.clone_into(&mut network.name);
            }
            return Ok(network);
        }
        let digest = Digest::of(name(&run.key).as_bytes()).to_string();
        let unique: String = digest.chars().take(UNIQUE).collect();
        let spec = BridgeSpec {
            name: name(&run.key),
            labels: self.labels(&run.key, "network"),
            // Code from outside talks to its own services and to nobody else.
            internal: strict,
            interface: format!("ci-{unique}"),
            apart: false,
        };
        self.engine.create_network(&spec).await.map_err(failed)?;
        Ok(NetworkSpec {
            name: spec.name,
            aliases: vec!["stage".to_owned()],
            publish: Vec::new(),
        })
    }

    /// Not an agent's own: nobody removes it, and whoever comes first makes it.
    pub(super) async fn make_shared(&self) -> Result<(), SandboxError> {
        let spec = BridgeSpec {
            name: SHARED.to_owned(),
            labels: BTreeMap::from([(PURPOSE.to_owned(), "shared".to_owned())]),
            internal: false,
            interface: SHARED_INTERFACE.to_owned(),
            apart: true,
        };
        match self.engine.create_network(&spec).await {
            Ok(_) | Err(DockerError::Conflict(_)) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
