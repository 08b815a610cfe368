//! Our own router, over its unix socket.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::rollout::Counters;
use slipway_core::traffic::{Fence, Instance, Share, TrafficTable};
use slipway_proto::v1;
use slipway_proto::v1::router_client::RouterClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Reading, Traffic, TrafficError};

/// A router is on this host: whatever takes longer hangs.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A router at a socket. Connects when it is used, and again when it has to.
pub struct RouterTraffic {
    channel: Channel,
}

impl RouterTraffic {
    /// At `address`: `unix:///path/to/socket`.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(address: &str) -> Result<Self, TrafficError> {
        let Some(path) = address
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
        else {
            let text = format!("router address `{address}` is not unix:///path/to/socket");
            return Err(TrafficError::Refused(text));
        };
        let endpoint = Endpoint::from_shared(format!("unix://{path}"));
        let endpoint = endpoint.map_err(|e| TrafficError::Refused(e.to_string()))?;
        let channel = endpoint.connect_timeout(CALL_LIMIT).connect_lazy();
        Ok(Self { channel })
    }

    fn client(&self) -> RouterClient<Channel> {
        RouterClient::new(self.channel.clone()).max_decoding_message_size(slipway_proto::DECODE_MAX)
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, TrafficError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(error(&status)),
        Err(_) => Err(TrafficError::Unknown(format!("no answer within {limit:?}"))),
    }
}

fn error(status: &Status) -> TrafficError {
    let seen = status.metadata().get("slipway-seen");
    if let Some(seen) = seen.and_then(|seen| seen.to_str().ok()?.parse().ok()) {
        return TrafficError::StaleToken { seen };
    }
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::NotFound
        | Code::ResourceExhausted => TrafficError::Refused(status.message().to_owned()),
        _ => TrafficError::Unknown(status.to_string()),
    }
}

#[async_trait]
impl Traffic for RouterTraffic {
    async fn apply(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        table
            .check()
            .map_err(|e| TrafficError::Refused(e.to_string()))?;
        let wire_fence = Some(v1::Fence {
            token: fence.token,
            generation: fence.generation,
            idempotency_key: format!("{}-{}", fence.token, fence.generation),
        });
        let prepare = v1::PrepareRequest {
            fence: wire_fence.clone(),
            table: Some(to_wire(table)),
        };
        within(CALL_LIMIT, self.client().prepare(prepare)).await?;
        let commit = v1::CommitRequest {
            service: table.service.clone(),
            fence: wire_fence,
            table_hash: table.hash().to_string(),
        };
        within(CALL_LIMIT, self.client().commit(commit))
            .await
            .map(drop)
    }

    async fn read(&self, service: &str) -> Result<Reading, TrafficError> {
        let request = v1::ReadRequest {
            service: service.to_owned(),
        };
        let answer = within(CALL_LIMIT, self.client().read(request)).await?;
        let found = answer.services.into_iter().next();
        Ok(found.map_or_else(Reading::default, |found| reading(&answer.boot_id, found)))
    }

    async fn drain(
        &self,
        service: &str,
        version: &str,
        deadline: Duration,
    ) -> Result<u32, TrafficError> {
        let request = v1::DrainRequest {
            service: service.to_owned(),
            version: version.to_owned(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        };
        let limit = deadline.saturating_add(CALL_LIMIT);
        within(limit, self.client().drain(request))
            .await
            .map(|answer| answer.cut)
    }
}

fn reading(boot_id: &str, found: v1::ServiceState) -> Reading {
    let fence = found.state.map_or_else(Fence::default, |state| Fence {
        token: state.token,
        generation: state.generation,
    });
    let counters = |counted: v1::VersionCounters| {
        let bad = [counted.connect_failed, counted.reset, counted.timed_out];
        let bad = bad
            .into_iter()
            .fold(counted.status_5xx, u64::saturating_add);
        let boot_id = boot_id.to_owned();
        (
            counted.version,
            Counters {
                boot_id,
                completed: counted.completed,
                bad,
            },
        )
    };
    Reading {
        fence,
        table: found.table.map(from_wire),
        counters: found
            .counters
            .into_iter()
            .map(counters)
            .collect::<BTreeMap<_, _>>(),
    }
}

fn to_wire(table: &TrafficTable) -> v1::TrafficTable {
    let version = |share: &Share| v1::Version {
        version: share.version.clone(),
        weight_bp: share.weight_bp,
        instances: share
            .instances
            .iter()
            .map(|i| v1::Instance {
                id: i.id.clone(),
                address: i.address.clone(),
            })
            .collect(),
    };
    v1::TrafficTable {
        service: table.service.clone(),
        hosts: table.hosts.clone(),
        listen: table.listen.clone(),
        versions: table.versions.iter().map(version).collect(),
        upstream_timeout_ms: table.upstream_timeout_ms,
    }
}

fn from_wire(table: v1::TrafficTable) -> TrafficTable {
    let share = |version: v1::Version| Share {
        version: version.version,
        weight_bp: version.weight_bp,
        instances: version
            .instances
            .into_iter()
            .map(|i| Instance {
                id: i.id,
                address: i.address,
            })
            .collect(),
    };
    TrafficTable {
        service: table.service,
        hosts: table.hosts,
        listen: table.listen,
        versions: table.versions.into_iter().map(share).collect(),
        upstream_timeout_ms: table.upstream_timeout_ms,
    }
}
