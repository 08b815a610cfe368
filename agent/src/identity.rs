//! Who this agent is: a join token is redeemed once, the credential is kept (0600).

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use slipway_proto::v1::RegisterRequest;
use slipway_proto::v1::agents_client::AgentsClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

/// The agent's id and its credential.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// As the dispatcher knows it.
    pub(crate) agent_id: String,
    credential: String,
}

impl Identity {
    /// For tests and benches that make agents themselves.
    pub(crate) fn new(agent_id: String, credential: String) -> Self {
        Self {
            agent_id,
            credential,
        }
    }

    /// The value of the `authorization` metadata.
    pub(crate) fn bearer(&self) -> anyhow::Result<MetadataValue<Ascii>> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", self.credential)
            .parse()
            .context("the stored credential cannot be sent")?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The kept identity, or a new one for the join token.
    pub(crate) async fn load_or_join(
        dir: &Path,
        channel: &Channel,
        join_token: &str,
        name: &str,
    ) -> anyhow::Result<Self> {
        let path = dir.join("identity.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                return serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} cannot be read", path.display()));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| path.display().to_string()),
        }
        anyhow::ensure!(
            !join_token.is_empty(),
            "this agent has no identity yet; give it a join token (`slipway agents join-token`)"
        );
        let answer = AgentsClient::new(channel.clone())
            .register(RegisterRequest {
                join_token: join_token.to_owned(),
                name: name.to_owned(),
            })
            .await
            .map_err(|status| anyhow::anyhow!("joining was refused: {}", status.message()))?
            .into_inner();
        let identity = Self::new(answer.agent_id, answer.credential);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&serde_json::to_vec(&identity)?)?;
        file.sync_all()?;
        Ok(identity)
    }
}
