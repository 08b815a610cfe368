//! Talking to a coordinator itself: going back must work while no dispatcher answers.

use std::time::Duration;

use anyhow::Context as _;
use slipway_core::access::PeerRole;
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use tonic::Code;

use crate::client::{Refused, Server};

/// The coordinator answers once the intent is durable.
const LIMIT: Duration = Duration::from_secs(15);

/// Which coordinator; absent = through the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Coordinator {
    /// Ask this coordinator itself (https://host:port), also while no dispatcher answers.
    #[arg(long, env = "SLIPWAY_COORDINATOR", requires = "authority")]
    coordinator: Option<String>,
    /// Fingerprint of this installation, by which the coordinator is known: what stands behind the dot of any
    /// join token.
    #[arg(long, env = "SLIPWAY_AUTHORITY")]
    authority: Option<String>,
}

impl Coordinator {
    /// Rolls back; `None` when the server is to be asked.
    pub(crate) async fn roll_back(
        &self,
        server: &Server,
        asked: v1::RollBackRequest,
    ) -> anyhow::Result<Option<v1::RollBackResponse>> {
        let (Some(address), Some(authority)) = (&self.coordinator, &self.authority) else {
            return Ok(None);
        };
        slipway_daemon::start::install_crypto();
        let channel = slipway_identity::connect::pinned(address, PeerRole::Deployer, authority)?;
        let mut request = tonic::Request::new(asked);
        let token = format!("Bearer {}", server.token()?).parse();
        let token = token.context("the API token has characters that no token has")?;
        request.metadata_mut().insert("authorization", token);
        request.set_timeout(LIMIT);
        let answer = RolloutsClient::new(channel).roll_back(request).await;
        match answer {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) => Err(refused(address, &status)),
        }
    }
}

fn refused(address: &str, status: &tonic::Status) -> anyhow::Error {
    let code = match status.code() {
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            return anyhow::anyhow!(
                "no answer from the coordinator at {address} that can be trusted ({}); is it up, and is \
                 `--authority` this installation's fingerprint?",
                status.message()
            );
        }
        _ => 409,
    };
    anyhow::Error::new(Refused {
        status: code,
        detail: status.message().to_owned(),
    })
}
